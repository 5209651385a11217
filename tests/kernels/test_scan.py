"""Loops that read files give what blocks in memory give, whatever the read does."""

from __future__ import annotations

import os

import numpy as np
import pytest
from reference import tensor

from wtool.checkpoint import Tensor
from wtool.dtypes import DTYPES
from wtool.errors import TruncatedInput
from wtool.extents import Strided
from wtool.kernels import blocks, compiled, native
from wtool.kernels import measure as measuring
from wtool.kernels.blocks import BLOCK, CHUNK
from wtool.kernels.measure import Measured, measure
from wtool.sources import Descriptors, FileSource, WindowSource

RANDOM = np.random.default_rng(11)
AHEAD = b"a head of 13b"
LONG = 2 * BLOCK + 54_321


@pytest.fixture(scope="module")
def linked():
    names = {*compiled.NAMES_32, *compiled.NAMES_CODES}
    return native.Linked({name: native.compile_loop(name) for name in names})


@pytest.fixture
def loops(linked):
    return compiled.Loops(linked)


@pytest.fixture(autouse=True)
def always_compiled(monkeypatch, linked):
    monkeypatch.setattr(measuring, "load", lambda names, elements: linked)


@pytest.fixture
def scanned(monkeypatch):
    """How many values each call of the loops took."""
    seen = []
    for name in ("scan_codes", "scan_floats"):
        scan = getattr(compiled.Loops, name)

        def noted(self, *arguments, scan=scan):
            answer = scan(self, *arguments)
            seen.append(answer[0] if isinstance(answer, tuple) else answer)
            return answer

        monkeypatch.setattr(compiled.Loops, name, noted)
    return seen


def stored(values: np.ndarray, dtype: str, path, **options) -> Tensor:
    """A tensor of `values` in a file, not at its start."""
    data = values.tobytes()
    path.write_bytes(AHEAD + data)
    window = WindowSource(FileSource(path, **options), len(AHEAD), len(data))
    return Tensor("t", "t", Strided(window, 0, len(data), DTYPES[dtype], values.shape))


def numbers(n: int, dtype: str, zeros: float = 0.1) -> np.ndarray:
    """Values near zero, so many of them zero."""
    values = RANDOM.standard_normal(n) * (0.02 if DTYPES[dtype].kind == "float" else 40)
    values[RANDOM.random(n) < zeros] = 0
    return values.astype(DTYPES[dtype].carrier)


def measured(one: Tensor, **options) -> Measured:
    [(_, answer)] = list(measure([one], **options))
    return answer


def agree(found: Measured, expected: Measured) -> None:
    assert found.moments == expected.moments
    assert found.values is not None
    assert expected.values is not None
    np.testing.assert_array_equal(found.values.values, expected.values.values)
    np.testing.assert_array_equal(found.values.counts, expected.values.counts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int16", "float8_e4m3fn"])
@pytest.mark.parametrize("n", [20_001, 262_147, LONG])
def test_a_file_gives_what_memory_gives(dtype, n, tmp_path, scanned):
    values = numbers(n, dtype)
    agree(measured(stored(values, dtype, tmp_path / "f")), measured(tensor(values, dtype)))
    assert sum(scanned) >= n - 8


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_equal_neighbours_are_counted_as_well(dtype, tmp_path):
    """Some stretches of the file are sparse, some are not."""
    values = np.concatenate([numbers(100_000, dtype, zeros) for zeros in (0.95, 0.0, 0.6, 0.2, 1)])
    found = measured(stored(values, dtype, tmp_path / "f"))
    kept, counts = np.unique(values, return_counts=True)
    assert found.values is not None
    if dtype == "float32":
        assert found.values.total == len(values)
        [zero] = found.values.counts[found.values.values == 0]
        assert zero == np.count_nonzero(values == 0)
    else:
        np.testing.assert_array_equal(found.values.values, kept.astype(np.float64))
        np.testing.assert_array_equal(found.values.counts, counts)


def test_the_loops_take_files_that_are_opened_for_each_use(tmp_path, scanned):
    values = numbers(LONG, "float32")
    one = stored(values, "float32", tmp_path / "f", descriptors=Descriptors())
    agree(measured(one), measured(tensor(values, "float32")))
    assert scanned == [LONG]


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, LONG - 1])
def test_blocks_with_values_that_are_not_finite_are_read_anew(place, tmp_path):
    values = numbers(LONG, "float32")
    values[place] = np.nan
    values[LONG // 2] = -np.inf
    agree(measured(stored(values, "float32", tmp_path / "f")), measured(tensor(values, "float32")))


def test_without_quantiles_nothing_is_counted(tmp_path):
    values = numbers(LONG, "float32")
    found = measured(stored(values, "float32", tmp_path / "f"), quantiles=False)
    assert found.values is None
    assert found.moments == measured(tensor(values, "float32"), quantiles=False).moments


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kept", [0, 3, 600_000, 4 * BLOCK + 5])
def test_a_file_that_shrinks_is_an_error_that_says_where(dtype, kept, tmp_path):
    one = stored(numbers(LONG, dtype), dtype, tmp_path / "f")
    os.truncate(tmp_path / "f", len(AHEAD) + kept)
    with pytest.raises(TruncatedInput, match="file too short") as caught:
        measured(one)
    assert caught.value.offset <= len(AHEAD) + kept
    assert caught.value.path == str(tmp_path / "f")


def ends(n: int) -> list[int]:
    """Where a scan of n float32 may stop: at any piece."""
    step = compiled.SCAN_BYTES // 4
    return [*range(0, n, step), n]


@pytest.mark.parametrize("stop", ends(BLOCK + 200_000))
def test_what_a_scan_leaves_in_the_middle_of_a_block_goes_on(stop, tmp_path, loops):
    """A read may be cut short by a signal: the next one succeeds."""
    n = BLOCK + 200_000
    values = numbers(n, "float32")
    (tmp_path / "f").write_bytes(values[:stop].tobytes())
    with FileSource(tmp_path / "f").descriptor() as file:
        done, moments = loops.scan_floats(file, 0, n, True, lambda a, b: values[a:b])
    assert done == stop
    plain = blocks.Loops()
    expected = blocks.EMPTY
    for first in range(0, n, BLOCK):
        last = min(n, first + BLOCK)
        plain.add_piece(values[first:last])
        expected = blocks.merge(expected, plain.end_block(lambda: values))
        if done < last:
            for start in range(max(done, first), last, CHUNK):
                loops.add_piece(values[start : min(last, start + CHUNK)])
            moments = blocks.merge(moments, loops.end_block(lambda: values))
    plain.count_upper(values)
    loops.count_upper(values[done:])
    assert moments == expected
    for found, wanted in zip(
        loops.take_counts(blocks.BINS), plain.take_counts(blocks.BINS), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_codes_are_counted_as_far_as_the_file_goes(tmp_path, loops):
    codes = RANDOM.integers(0, 1 << 16, 1_000_003, np.uint16)
    (tmp_path / "f").write_bytes(codes.tobytes())
    with FileSource(tmp_path / "f").descriptor() as file:
        done = loops.scan_codes(file, 0, 3_000_000, 1 << 16)
    assert done == codes.nbytes // compiled.SCAN_BYTES * compiled.SCAN_BYTES
    found, counts = loops.take_counts(1 << 16)
    np.testing.assert_array_equal(np.repeat(found, counts), np.sort(codes[: done // 2]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_counts_are_taken_before_they_overflow(dtype, monkeypatch, tmp_path, loops):
    """They have 32 bits: five billion zeros of one tensor must not count as fewer."""
    monkeypatch.setattr(compiled, "TABLE_LIMIT", 40_000)
    emptied = []
    empty = compiled.Loops._empty_table
    monkeypatch.setattr(
        compiled.Loops, "_empty_table", lambda self: emptied.append(1) or empty(self)
    )
    values = RANDOM.integers(0, 250, 30_003).astype(dtype)
    (tmp_path / "f").write_bytes(values[:30_000].tobytes())
    bins = 1 << 8 if dtype is np.uint8 else 1 << 16
    for _ in range(3):
        if dtype is np.float32:
            loops.count_upper(values)
        else:
            loops.count_codes(values)
    with FileSource(tmp_path / "f").descriptor() as file:
        if dtype is np.float32:
            loops.scan_floats(file, 0, 30_000, True, lambda a, b: values[a:b])
        else:
            loops.scan_codes(file, 0, 30_000 * values.itemsize, bins)
    codes, counts = loops.take_counts(bins)
    assert len(emptied) >= 4
    plain = blocks.upper_codes(values) if dtype is np.float32 else values
    everything = np.concatenate([plain] * 3 + [plain[:30_000]])
    kept, expected = np.unique(everything, return_counts=True)
    np.testing.assert_array_equal(codes, kept)
    np.testing.assert_array_equal(counts, expected)
