"""The one reading of the values also sums bytes and probes units; nothing is read twice."""

from __future__ import annotations

import math
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from planting import outcomes, sound, write

import wtool
from wtool.checks.subject import Subject
from wtool.checks.unit_probes import UnitProbes, find_suspects, number_probes, probe
from wtool.checks.values import units_of
from wtool.errors import InputError
from wtool.kernels import measure as measuring
from wtool.sources import FileSource

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DRAW = np.random.default_rng(12)


def bytes_read(monkeypatch, path, rules):
    """(findings, bytes read) of these rules on the file at `path`, what opening reads left out."""
    checkpoint = wtool.open(str(path))
    total = 0
    original = FileSource._read

    def count(self, fd, offset, buffer):
        nonlocal total
        total += memoryview(buffer).nbytes
        original(self, fd, offset, buffer)

    from wtool.checks.runner import choose_rules, run

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "_read", count)
        subject = Subject(checkpoint, open_model=wtool.open)
        found = [o.rule.code for o in run(subject, choose_rules(rules))]
    return found, total


@pytest.mark.parametrize("name", ["m.pth", "digits-cnn-tf", "digits-cnn-tf1"])
def test_values_and_checksums_together_read_every_byte_once(monkeypatch, tmp_path, name):
    path = FIXTURES / name
    if name == "m.pth":
        torch = pytest.importorskip("torch")
        path = tmp_path / name
        torch.save({f"{i}.weight": torch.randn(500, 500) for i in range(8)}, path)
    values = sum(tensor.nbytes for tensor in wtool.open(str(path)) if tensor.dtype.bits)
    found, alone = bytes_read(monkeypatch, path, ["WT001"])
    assert found == []
    found, together = bytes_read(monkeypatch, path, ["WT001", "WT047"])
    assert found == []
    assert together - alone < values / 2  # pickles, directories, string tensors
    assert bytes_read(monkeypatch, path, ["WT047"])[1] > values


def test_units_are_looked_at_without_a_second_read(monkeypatch, tmp_path):
    path = write({"fc.weight": DRAW.standard_t(4, (300, 700))}, tmp_path / "m.safetensors")
    assert bytes_read(monkeypatch, path, ["WT001", "WT010", "WT011"]) == ([], 300 * 700 * 8)


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path):
    """In a tensor, in one that is stored in another order, in bytes that no tensor covers."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(4000.0).reshape(40, 100)
    state = {"turned.weight": whole.T, "part.weight": torch.arange(900.0)[100:200], "w": whole + 1}
    torch.save(state, tmp_path / "m.pth")
    assert outcomes(str(tmp_path / "m.pth"), only=("WT001", "WT047")) == []
    data = (tmp_path / "m.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        members = [info for info in archive.infolist() if "/data/" in info.filename]
    for info in members:
        head = info.header_offset
        start = head + 30 + sum(np.frombuffer(data[head + 26 : head + 30], "<u2").tolist())
        for place in (0, info.file_size // 2, info.file_size - 1):
            broken = bytearray(data)
            broken[start + place] ^= 4
            (tmp_path / "broken.pth").write_bytes(broken)
            hits = outcomes(str(tmp_path / "broken.pth"), only=("WT001", "WT047"))
            assert [hit.rule.code for hit in hits] == ["WT047"]
            expected = zlib.crc32(broken[start : start + info.file_size])
            assert hits[0].finding.value == f"{expected:#010x}"


def test_large_tensors_are_summed_piece_by_piece(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(measuring, "JOB_BYTES", 1 << 20)
    torch.save({"w.weight": torch.randn(1500, 1001)}, tmp_path / "m.pth")
    assert bytes_read(monkeypatch, tmp_path / "m.pth", ["WT001", "WT047"])[0] == []
    data = bytearray((tmp_path / "m.pth").read_bytes())
    data[4_000_000] ^= 1
    (tmp_path / "m.pth").write_bytes(data)
    assert bytes_read(monkeypatch, tmp_path / "m.pth", ["WT001", "WT047"])[0] == ["WT047"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("inner", [4, 15, 16, 17, 100])
def test_suspects_are_the_same_however_the_blocks_fall(tmp_path, dtype, inner):
    values = DRAW.standard_normal((60, inner)).astype(dtype)
    values[7] = values[50] = 0
    values[8, ::2] = -0.0
    values[8, 1::2] = 0
    values[33] = values[12]
    values[34, :16] = values[13, :16]  # only a suspect where units are longer
    (tensor,) = wtool.open(write({"w": values}, tmp_path / "m.safetensors"))
    expected = probe(tensor, (0,))
    assert expected.zero == (7, 8, 50)
    assert expected.repeated == (7, 8, 12, 13, 33, 34, 50)
    flat = values.reshape(-1)
    for step in (1, 3, 16, 61, 997, flat.size):
        probes = UnitProbes([tensor], [60])
        starts = list(range(0, flat.size, step))
        for start in DRAW.permutation(starts):
            probes.see(0, int(start), flat[start : start + step])
        assert probes.finish(0) == expected
    assert UnitProbes([tensor], [0]).finish(0) is None


def test_units_along_the_last_axis_are_probed_too(tmp_path):
    values = DRAW.standard_normal((3, 3, 8, 20)).astype(np.float32)
    values[..., 4] = 0
    values[..., 9] = values[..., 2]
    (tensor,) = wtool.open(write({"w": values}, tmp_path / "m.safetensors"))
    assert probe(tensor, (3,)) == ((4,), (2, 9))


def test_units_along_two_axes_are_probed_as_one(tmp_path):
    values = DRAW.standard_normal((32, 3, 5)).astype(np.float32)
    values[:, 1, 2] = 0
    values[:, 2, 4] = values[:, 0, 1]
    (tensor,) = wtool.open(write({"w": values}, tmp_path / "m.safetensors"))
    assert probe(tensor, (1, 2)) == ((7,), (1, 14))


@pytest.mark.parametrize("shape", [(300, 50), (5, 5, 20, 30), (3, 40, 6), (7, 5, 9, 6)])
@pytest.mark.parametrize("block_bytes", [64, 1000, 1 << 20])
def test_units_in_columns_are_compared_as_those_in_rows(monkeypatch, tmp_path, shape, block_bytes):
    monkeypatch.setattr(units_of, "BLOCK_BYTES", block_bytes)
    pairs = [(a, b) for a in range(len(shape)) for b in range(a + 1, len(shape))]
    for axes in [(axis,) for axis in range(1, len(shape))] + (pairs if len(shape) > 2 else []):
        values = DRAW.standard_normal(shape).astype(np.float32)
        moved = np.moveaxis(values, axes, range(len(axes)))
        rows = moved.reshape(math.prod(moved.shape[: len(axes)]), *moved.shape[len(axes) :]).copy()
        rows[1] = rows[4]
        rows[2] = 0
        rows[3, -1] = rows[0, -1]  # equal at the end only
        rows[0] = -0.0
        moved[...] = rows.reshape(moved.shape)
        (tensor,) = wtool.open(write({"w": values}, tmp_path / "columns.safetensors"))
        (expected,) = wtool.open(write({"w": rows}, tmp_path / "rows.safetensors"))
        for find in (units_of.dead, units_of.repeated):
            subject = Subject({"w": tensor}, open_model=wtool.open)
            assert find(subject, tensor, axes) == find(subject, expected, (0,))
        assert units_of.dead(subject, tensor, axes) == [0, 2]
        assert units_of.repeated(subject, tensor, axes) == [(4, 1)]


def test_suspects_in_columns_are_read_together(monkeypatch, tmp_path):
    """A pruned kernel of Keras: the first inputs, a border of pixels, are 0 for every unit."""
    values = DRAW.standard_t(4, (200, 300)).astype(np.float32)
    values[:20] = 0
    values[:, 7] = 0
    values[:, 9] = values[:, 8]
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = values
        file["layers/dense/vars/1"] = np.ones(300, np.float32)
    found, total = bytes_read(monkeypatch, tmp_path / "m.weights.h5", ["WT010", "WT011"])
    assert found == ["WT010", "WT011"]
    assert total < 5 * values.nbytes
    reads = []
    original = FileSource._read
    monkeypatch.setattr(FileSource, "_read", lambda *a: (reads.append(1), original(*a))[1])
    outcomes(str(tmp_path / "m.weights.h5"), only=("WT010", "WT011"))
    assert len(reads) < 200


def test_different_rows_hardly_ever_share_a_number():
    rows = DRAW.integers(-2, 3, (200_000, 16)).astype(np.float32)
    rows = np.unique(rows, axis=0)
    suspects = find_suspects(number_probes(rows))
    assert suspects.repeated == ()
    assert len(suspects.zero) == (~rows.any(axis=1)).sum()


def test_many_equal_units_are_compared_in_linear_time(tmp_path):
    model = sound()
    model["wide.weight"] = np.tile(DRAW.standard_t(4, (1, 8)), (20_000, 1)).astype(np.float32)
    path = write(model, tmp_path / "m.safetensors")
    (hit,) = outcomes(path, only=("WT011",))
    assert hit.finding.message.startswith("19,999 of 20,000 output units repeat another")
    assert hit.finding.index == (1, 0)


@pytest.mark.parametrize(
    "name",
    ["digits-cnn.keras", "digits-cnn.npz", "digits-cnn-tf-shards", "digits-cnn-tf1-partitioned"],
)
def test_sums_taken_while_measuring_find_what_a_reading_of_their_own_finds(tmp_path, name):
    """Members that hold many tensors, headers between them, shards, a tensor in slices."""
    source = FIXTURES / name
    path = tmp_path / name
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copy(source, path)
    files = [Path(f) for f in wtool.open(str(path)).files if ".index" not in f]
    found = 0
    for _ in range(12):
        file = files[DRAW.integers(len(files))]
        whole = file.read_bytes()
        data = bytearray(whole)
        data[DRAW.integers(len(data) // 8, len(data) * 7 // 8)] ^= 1 << DRAW.integers(8)
        file.write_bytes(data)
        try:
            alone = outcomes(str(path), only=("WT047",))
            together = outcomes(str(path), only=("WT001", "WT003", "WT047"))
        except InputError:
            continue  # a header was hit
        finally:
            file.write_bytes(whole)
        assert [o for o in together if o.rule.code == "WT047"] == alone
        found += len(alone)
    assert found >= 4
