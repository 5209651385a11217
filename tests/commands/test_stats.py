"""`wtool stats` on checkpoints built by hand and on the fixtures."""

from __future__ import annotations

import json
import math
from concurrent.futures import Future
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import wtool
from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.cli import run
from wtool.commands.stats import stats
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError, UsageError
from wtool.extents import Absent, Decoded, Strided
from wtool.kernels import selection
from wtool.report import Bins
from wtool.sources import BytesSource

FIXTURES = Path(__file__).parents[2] / "fixtures"
RANDOM = np.random.default_rng(11)
COLUMNS = (
    *(
        "count",
        "mean",
        "std",
        "min",
        "max",
        "abs_max",
        "l1",
        "l2",
        "zeros",
        "sparsity",
        "nan",
        "inf",
    ),
    *("subnormal", "kurtosis", "p01", "p05", "p25", "p50", "p75", "p95", "p99", "histogram"),
)


def tensor(name: str, values: np.ndarray, source: BytesSource | None = None, **marks) -> Tensor:
    data = values.tobytes()
    source = source or BytesSource(data, "memory")
    extent = Strided(
        source, 0, source.size, DTYPES[values.dtype.name], values.shape, storage=id(source)
    )
    return Tensor(name, name, extent, **marks)


def checkpoint(*tensors: Tensor) -> Checkpoint:
    return build("model", "test", tensors)


def test_json_has_the_promised_columns_for_every_tensor_of_a_fixture(capsys):
    assert run(["stats", str(FIXTURES / "digits-cnn.pth"), "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    names = [column["name"] for column in answer["columns"]]
    assert names == ["name", "dtype", "shape", "role", "alias", *COLUMNS]
    opened = wtool.open(FIXTURES / "digits-cnn.pth")
    assert [row["name"] for row in answer["rows"]] == list(opened.tensors)
    for row in answer["rows"]:
        values = opened[row["name"]].load().astype(np.float64).reshape(-1)
        assert row["count"] == values.size
        assert row["min"] == values.min()
        assert row["max"] == values.max()
        assert math.isclose(row["mean"], values.mean(), rel_tol=1e-12, abs_tol=1e-18)
        assert math.isclose(row["std"], values.std(), rel_tol=1e-12)
        assert math.isclose(row["l2"], np.linalg.norm(values), rel_tol=1e-12)
        assert math.isclose(row["l1"], np.abs(values).sum(), rel_tol=1e-12)
        assert sum(row["histogram"]) == values.size


def test_the_same_model_in_other_containers_has_the_same_numbers():
    expected = {row["name"]: row for row in stats(wtool.open(FIXTURES / "digits-cnn.pth")).rows}
    for other in ("digits-cnn.safetensors", "digits-cnn-safetensors-shards"):
        found = {row["name"]: row for row in stats(wtool.open(FIXTURES / other)).rows}
        assert found == expected


def test_a_group_has_the_numbers_of_all_its_values():
    a, b = RANDOM.standard_normal(5000).astype("f4"), RANDOM.standard_normal(300).astype("f2")
    report = stats(checkpoint(tensor("m.a", a), tensor("m.b", b)), by="depth:1", exact=True)
    [row] = report.rows
    values = np.concatenate([a.astype(float), b.astype(float)])
    assert (row["group"], row["tensors"], row["count"]) == ("m", 2, 5300)
    assert math.isclose(row["std"], values.std(), rel_tol=1e-12)
    assert math.isclose(row["mean"], values.mean(), rel_tol=1e-12)
    kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
    assert math.isclose(row["kurtosis"], kurtosis, rel_tol=1e-12)
    assert [row["p01"], row["p50"]] == np.quantile(values, [0.01, 0.5]).tolist()
    assert report.totals["count"] == 5300


def test_shards_are_groups_by_the_name_of_their_file():
    folder = FIXTURES / "digits-cnn-safetensors-shards"
    report = stats(wtool.open(folder), by="shard")
    files = sorted(folder.glob("*.safetensors"))
    assert [row["group"] for row in report.rows] == [file.name for file in files]
    for row, file in zip(report.rows, files, strict=True):
        arrays = safetensors.numpy.load_file(file).values()
        values = np.concatenate([array.reshape(-1).astype(float) for array in arrays])
        assert (row["tensors"], row["count"]) == (len(arrays), len(values))
        assert math.isclose(row["mean"], values.mean(), rel_tol=1e-12)
        assert row["max"] == values.max()


def test_tied_tensors_show_in_rows_and_count_once_in_groups_and_totals():
    values = np.arange(6, dtype=np.float32)
    source = BytesSource(values.tobytes(), "memory")
    tied = checkpoint(tensor("a.w", values, source), tensor("b.w", values, source))
    report = stats(tied)
    assert [(row["name"], row["alias"], row["l1"]) for row in report.rows] == [
        ("a.w", None, 15.0),
        ("b.w", "a.w", 15.0),
    ]
    assert report.totals["count"] == 6
    assert report.footer[0] == "1 tensor under 2 names, 6 elements, 24 B"
    [row] = stats(tied, by="dtype").rows
    assert (row["tensors"], row["count"], row["l1"]) == (1, 6, 15.0)


def test_what_holds_no_numbers_has_an_empty_row_and_a_note():
    strings = np.array([b"a", b"b"], object)
    report = stats(
        checkpoint(
            Tensor("s", "s", Decoded(DTYPES["string"], (2,), lambda: strings)),
            Tensor("m", "m", Absent(DTYPES["float32"], (2, 2), "meta device")),
            tensor("x", np.ones(3, np.float32)),
        )
    )
    assert [row.get("mean") for row in report.rows] == [None, None, 1.0]
    assert report.notes == ["not measured, no numbers: s, m"]


def test_a_view_of_a_few_bytes_without_end_is_not_measured_and_noted():
    data = np.ones(1, np.float32).tobytes()
    source = BytesSource(data, "memory")
    extent = Strided(
        source, 0, 4, DTYPES["float32"], (1 << 20, 1 << 20), first=0, strides=(0, 0), storage="s"
    )
    endless = Tensor("w.weight", "w.weight", extent, role="weight")
    both = checkpoint(endless, tensor("x", np.ones(3, np.float32)))
    report = stats(both, exact=True)
    assert [(row["count"], row.get("mean")) for row in report.rows] == [(1 << 40, None), (3, 1.0)]
    assert report.notes == ["not measured, few stored bytes repeated without end: w.weight"]
    assert [row["name"] for row in stats(both, units=True).rows] == []
    for command in (wtool.init, wtool.check):
        with pytest.raises(UnsupportedError, match=r"w\.weight.*repeats a few stored bytes"):
            command(both)
    with pytest.raises(UnsupportedError, match="repeats a few stored bytes"):
        wtool.diff(both, both)


def test_the_last_lines_name_what_deserves_a_look():
    nan = np.array([1, np.nan], np.float32)
    report = stats(
        checkpoint(
            tensor("a", nan),
            tensor("b", nan + 1),
            tensor("c", np.array([np.inf, 1], np.float32)),
            tensor("bn.running_var", np.array([0, 1], np.float32)),
            tensor("d", np.zeros((2, 2), np.float32), role="weight"),
            tensor("e", RANDOM.standard_normal(9)),
        )
    )
    assert list(report.footer) == [
        "6 tensors, 21 elements, 120 B",
        "2 tensors hold NaN: a, b",
        "c holds an infinity",
        "bn.running_var holds a zero",
        "d is constant",
    ]


def test_rows_are_sorted_and_cut_as_asked():
    three = checkpoint(*(tensor(n, np.full(2, v, "f4")) for n, v in (("a", 1), ("b", 3), ("c", 2))))
    assert [row["name"] for row in stats(three, sort="mean").rows] == ["b", "c", "a"]
    assert [row["name"] for row in stats(three, sort="mean", top=1).rows] == ["b"]
    assert [row["name"] for row in stats(three, sort="name", top=2).rows] == ["a", "b"]
    with pytest.raises(UsageError, match="cannot sort by this column"):
        stats(three, sort="shape")


def test_rows_are_sorted_by_any_column_words_from_a_to_z():
    path = FIXTURES / "digits-cnn.pth"
    roles = [row["role"] for row in stats(wtool.open(path), sort="role").rows]
    assert roles == sorted(roles)
    assert roles[0] != roles[-1]
    for sort in ("group", "name"):
        groups = [row["group"] for row in stats(wtool.open(path), by="kind", sort=sort).rows]
        assert groups == sorted(groups)
    sizes = [row["tensors"] for row in stats(wtool.open(path), by="kind", sort="tensors").rows]
    assert sizes == sorted(sizes, reverse=True)
    kinds = [row["kind"] for row in stats(wtool.open(path), units=True, sort="kind").rows]
    assert kinds == sorted(kinds)
    with pytest.raises(UsageError, match="cannot sort by this column"):
        stats(wtool.open(path), by="kind", sort="role")


def test_empty_cells_come_last_when_rows_are_sorted():
    two = checkpoint(tensor("a", np.empty(0, "f4")), tensor("b", np.ones(1, "f4")))
    assert [row["name"] for row in stats(two, sort="mean").rows] == ["b", "a"]


def test_units_tell_dead_and_duplicate_rows():
    values = RANDOM.standard_normal((6, 9)).astype("f4")
    values[2] = 0
    values[5] = values[1]
    [row] = stats(checkpoint(tensor("fc.weight", values, role="weight")), units=True).rows
    assert (row["axis"], row["units"], row["dead"], row["duplicate"]) == (0, 6, 1, 1)
    norms = np.linalg.norm(values.astype(float), axis=1)
    assert math.isclose(row["norm_max"], norms.max(), rel_tol=1e-12)
    assert math.isclose(row["ratio"], norms.max() / np.median(norms), rel_tol=1e-12)


def test_units_do_not_go_with_groups():
    with pytest.raises(UsageError, match="--units"):
        stats(checkpoint(tensor("a", np.ones(1, "f4"))), units=True, by="kind")


def test_the_histogram_counts_every_finite_value_in_its_bin():
    values = RANDOM.integers(-100, 100, 4000).astype(np.float16)
    [row] = stats(checkpoint(tensor("a", values))).rows
    expected, _ = np.histogram(values.astype(float), 16, (values.min(), values.max()))
    assert row["histogram"] == Bins(expected.tolist())


def _exact_bins(values: list[int | float]) -> Bins:
    """Bins in fractions."""
    exact = [Fraction(value) for value in values]
    low, high = min(exact), max(exact)
    counts = [0] * 16
    for value in exact:
        counts[min(15, int((value - low) * 16 / (high - low)))] += 1
    return Bins(counts)


@pytest.mark.parametrize("count", [3000, 40_000], ids=["few", "many"])
@pytest.mark.parametrize(
    "case", ["close", "far from zero", "subnormal", "tiny", "huge", "integers", "signed"]
)
def test_a_histogram_of_wide_values_is_not_blurred_by_how_they_are_counted(case, count):
    """Close values far from zero share the upper half of their bits: all fell into one bin."""
    random = np.random.default_rng(count)
    values = {
        "close": lambda: (1 + 1e-3 * random.standard_normal(count)).astype("f4"),
        "far from zero": lambda: 1e15 + np.round(8 * random.standard_normal(count)) / 8,
        "subnormal": lambda: random.integers(1, 5000, count).astype("u4").view("f4"),
        "tiny": lambda: 1e-300 * random.standard_normal(count),
        "huge": lambda: 1.7e308 * random.uniform(-1, 1, count),
        "integers": lambda: (2**63 - 1 - random.integers(0, 9000, count)).astype("i8"),
        "signed": lambda: np.sort(random.integers(-(2**63), 2**63 - 1, count)),
    }[case]()
    [row] = stats(checkpoint(tensor("a", values)), exact=case == "signed").rows
    assert row["histogram"] == _exact_bins(values.tolist())


def test_the_histogram_of_many_close_values_of_several_types_is_exact():
    a = (1000 + RANDOM.standard_normal(20_000)).astype("f4")
    b = (1000 + RANDOM.standard_normal(20_000)).astype("f2")
    [row] = stats(checkpoint(tensor("m.a", a), tensor("m.b", b)), by="depth:1").rows
    assert row["histogram"] == _exact_bins([*a.tolist(), *b.astype(float).tolist()])


_EVERY_HALF = np.arange(65536, dtype=np.uint16)
_ON_EDGES = {
    "float16": lambda: RANDOM.standard_normal(30_000).astype(np.float16),
    "every float16": lambda: _EVERY_HALF.view(np.float16),
    "every bfloat16": lambda: _EVERY_HALF.view(DTYPES["bfloat16"].carrier),
    "every float8": lambda: np.arange(256, dtype=np.uint8).view(DTYPES["float8_e8m0fnu"].carrier),
    "few float32 around 0": lambda: np.array([-1, -1e-30, 0, 1e-30, 0.125, 1], np.float32),
    "float32 around 0": lambda: np.repeat(np.array([-1, -1e-30, 0, 1e-30, 1], np.float32), 9000),
    "float64": lambda: np.array([-0.3, -0.1, -1e-18, 0, 1e-18, 0.1, 0.3 / 8, 0.3]),
    "tiny": lambda: np.array([0, 5e-324, 1e-323, 3e-323, 8e-323]),
    "huge": lambda: np.array([-1.7e308, -1e300, -1, 1, 1.7e308 / 8, 1.7e308]),
    "int64": lambda: 2**62 + np.arange(-40, 41, dtype=np.int64),
    "every int8": lambda: np.arange(-128, 128).astype(np.int8),
}


@pytest.mark.parametrize("case", _ON_EDGES)
def test_a_value_on_the_edge_of_two_bins_is_in_the_upper_one_and_a_lower_one_is_not(case):
    values = _ON_EDGES[case]()
    [row] = stats(checkpoint(tensor("a", values)), exact=True).rows
    assert row["histogram"] == _exact_bins([v for v in values.tolist() if math.isfinite(v)])


@pytest.mark.parametrize("count", [30, 20_000])
@pytest.mark.parametrize("exact", [False, True])
def test_bins_of_a_group_whose_extremes_are_integers_hold_its_other_values(count, exact):
    whole = np.resize(np.array([-4, 4], np.int8), count)
    halves = (RANDOM.integers(-8, 9, count) / 2).astype(np.float16)
    both = checkpoint(tensor("m.a", whole), tensor("m.b", halves))
    [row] = stats(both, by="depth:1", exact=exact).rows
    assert row["histogram"] == _exact_bins([*whole.tolist(), *halves.tolist()])


def test_quantiles_beyond_float32_are_exact():
    for values in (1e-300 * RANDOM.standard_normal(30_000), 1e200 * RANDOM.uniform(size=30_000)):
        [row] = stats(checkpoint(tensor("a", values))).rows
        assert row["p25"] == np.quantile(values, 0.25)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("zeros", [0, 5_000, 30_000])
def test_quantiles_nearer_to_zero_than_normal_numbers_keep_their_bound(dtype, zeros):
    tiny = (1e-41 * RANDOM.standard_normal(20_000)).astype(dtype)
    a = np.concatenate([tiny, np.zeros(zeros, dtype), RANDOM.standard_normal(2_000).astype(dtype)])
    b = np.array([1e38, -1e38], "f4")
    both = checkpoint(tensor("m.a", a), tensor("m.b", b))
    [row] = stats(both, by="depth:1").rows
    [alone, _] = stats(both).rows
    for quantile, q in (("p01", 0.01), ("p05", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75)):
        expected = np.quantile(np.concatenate([a, b]).astype("f8"), q)
        assert row[quantile] == pytest.approx(expected, rel=2**-8, abs=0)
        assert alone[quantile] == pytest.approx(np.quantile(a.astype("f8"), q), rel=2**-8, abs=0)


def test_exact_quantiles_are_given_whatever_is_said_of_others():
    path = FIXTURES / "digits-cnn.pth"
    assert stats(path, exact=True, quantiles=False).rows == stats(path, exact=True).rows


def test_a_quantile_that_is_zero_among_subnormals_is_not_read_for_again(monkeypatch):
    values = np.zeros(100_000, "f4")
    values[::50] = 1e-41
    values[1::20] = RANDOM.standard_normal(5_000)
    monkeypatch.setattr("wtool.kernels.selection.select_from_tensors", None)
    [row] = stats(checkpoint(tensor("a", values))).rows
    assert [row[name] for name in ("p05", "p25", "p50", "p75", "p95")] == [0] * 5


def test_the_column_that_rows_are_sorted_by_is_shown():
    report = stats(wtool.open(FIXTURES / "digits-cnn.pth"), sort="kurtosis")
    assert [c.hidden for c in report.columns if c.name == "kurtosis"] == [False]
    report = stats(wtool.open(FIXTURES / "digits-cnn.pth"))
    assert [c.hidden for c in report.columns if c.name == "kurtosis"] == [True]
    with pytest.raises(UsageError, match="--no-quantiles"):
        stats(wtool.open(FIXTURES / "digits-cnn.pth"), sort="p50", quantiles=False)


def test_progress_ends_with_all_bytes():
    calls: list[tuple[int, int]] = []
    stats(
        checkpoint(tensor("a", np.ones(100, "f4")), tensor("b", np.ones(3, "f8"))),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (424, 424)


@pytest.mark.parametrize(
    ("arrays", "by", "passes"),
    [
        (["f4"], "tensor", 3),
        (["f8"], "tensor", 5),
        (["c8"], "tensor", 5),
        (["f4", "i8"], "dtype", None),
        (["f4", "f8", "f2"], "role", 5),
    ],
)
def test_progress_of_the_exact_passes_ends_with_all_their_bytes(arrays, by, passes):
    values = [np.random.default_rng(0).normal(size=20_000).astype(dtype) for dtype in arrays]
    source = checkpoint(*(tensor(f"t{i}", array) for i, array in enumerate(values)))
    calls: list[tuple[int, int]] = []
    stats(source, by=by, exact=True, jobs=1, progress=lambda *call: calls.append(call))
    nbytes = sum(array.nbytes for array in values)
    assert (nbytes, nbytes) in calls
    assert calls[-1][0] == calls[-1][1]
    expected = 3 * 80_000 + 5 * 160_000 if passes is None else passes * nbytes
    assert calls[-1][1] == expected


def test_whoever_stops_the_exact_passes_does_not_wait_for_them(monkeypatch):
    monkeypatch.setattr(selection, "_BLOCK_BYTES", 64)
    array = np.random.default_rng(0).normal(size=20_000).astype("f4")
    blocks = 0

    def count(call, values, *arguments):
        nonlocal blocks
        blocks += 1
        return call(values, *arguments)

    monkeypatch.setattr(selection, "sortable", partial(count, selection.sortable))

    def wait_and_stop(future):
        while not blocks:
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", wait_and_stop)
    with pytest.raises(KeyboardInterrupt):
        stats(checkpoint(tensor("a", array)), exact=True, jobs=1)
    assert blocks < 1000


def test_quantiles_of_few_values_are_exact_and_of_many_within_their_bound():
    few = np.random.default_rng(1).normal(size=16_384).astype(np.float32)
    few[:3] = np.nan, np.inf, -np.inf
    many = np.random.default_rng(2).normal(size=20_000).astype(np.float32)
    bounded = stats(checkpoint(tensor("few", few), tensor("many", many))).rows
    exact = stats(checkpoint(tensor("many", many)), exact=True).rows
    expected = np.quantile(few[np.isfinite(few)].astype(np.float64), 0.25)
    assert bounded[0]["p25"] == pytest.approx(expected, rel=1e-12)
    assert exact[0]["p25"] == pytest.approx(np.quantile(many.astype(np.float64), 0.25), rel=1e-12)
    assert bounded[1]["p25"] != exact[0]["p25"]
    assert bounded[1]["p25"] == pytest.approx(exact[0]["p25"], rel=2**-8)
