"""--prove: what the libraries say of right and of wrong files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wtool
from wtool.bridges import proving
from wtool.bridges.proving import Bound, Claim, prove
from wtool.checkpoint import Tensor
from wtool.cli import run
from wtool.errors import UsageError

FIXTURES = Path(__file__).parents[2] / "fixtures"
PLAIN = str(FIXTURES / "digits-cnn.pth")


def claims(source: str, written: str, bound: Bound | None = None) -> list[Claim]:
    ours, theirs = wtool.open(source), wtool.open(written)
    return [Claim(t, theirs[t.name], bound) for t in ours]


@pytest.mark.parametrize(
    ("target", "library", "count"),
    [
        ("m.safetensors", "safetensors", 19),
        ("m.pth", "torch", 19),
        ("m.npz", "numpy", 19),
        ("m", "tensorflow", 19),
    ],
)
def test_a_conversion_is_proved_by_the_library_of_the_target(
    tmp_path, capsys, target, library, count
):
    arguments = ["convert", PLAIN, str(tmp_path / target), "--prove", "--format", "json"]
    assert run(arguments) == 0
    totals = json.loads(capsys.readouterr().out)["totals"]
    assert totals["proved_by"].split()[0] == library
    assert len(totals["proved_by"].split()) == 2
    assert totals["proved_tensors"] == count
    assert totals["proved_bytes"] == sum(t.nbytes for t in wtool.open(PLAIN))
    assert totals["faults"] == 0


@pytest.mark.parametrize("to", ["float16", "float8_e4m3fn", "float64"])
def test_a_cast_is_proved_within_its_stated_error(tmp_path, to):
    target = str(tmp_path / "m.pth")
    report = wtool.cast(PLAIN, target, to=to, prove=True)
    assert report.ok
    assert report.totals["proved_tensors"] == 19
    assert "within the stated error" in report.footer[-1]


def test_a_clamped_cast_and_tied_shards_are_proved(tmp_path):
    weight = torch.tensor([1e9, 1.0, float("nan"), 3e-8, -1e6])
    torch.save({"a": weight, "b": weight, "c": torch.randn(40)}, tmp_path / "in.pth")
    source = str(tmp_path / "in.pth")
    for on_overflow in ("clamp", "inf"):
        target = str(tmp_path / f"{on_overflow}.safetensors")
        report = wtool.cast(
            source, target, to="float16", on_overflow=on_overflow, max_shard_size=40, prove=True
        )
        assert report.ok, report.notes
        assert report.totals["proved_tensors"] == 3
        assert len(list(tmp_path.glob(f"{on_overflow}-0*"))) == 2


def test_a_keras_file_on_its_template_is_proved(tmp_path):
    target = str(tmp_path / "m.weights.h5")
    report = wtool.convert(str(FIXTURES / "digits-cnn.weights.h5"), target, prove=True)
    assert report.ok
    assert report.totals["proved_by"].startswith("h5py")


def test_a_nested_training_file_is_proved_with_its_optimizer(tmp_path):
    source = str(FIXTURES / "digits-cnn-training.pth")
    report = wtool.convert(source, str(tmp_path / "m.pth"), prove=True)
    assert report.totals["proved_tensors"] == 78


@pytest.mark.parametrize("target", ["m.safetensors", "m.pth", "m.npz"])
def test_one_changed_bit_is_a_fault(tmp_path, target):
    path = tmp_path / target
    wtool.convert(PLAIN, str(path))
    data = bytearray(path.read_bytes())
    place = wtool.open(path)["fc1.weight"]
    assert place.offset is not None
    data[place.offset + 101] ^= 1
    path.write_bytes(data)
    container = {"m.safetensors": "safetensors", "m.pth": "torch", "m.npz": "npz"}[target]
    proof = prove(str(path), container, claims(PLAIN, str(path)))
    if container == "npz":
        # NumPy checks the archive's checksums by itself, and gives up.
        assert "numpy broke off" in proof.faults[0]
        return
    assert len(proof.faults) == 1
    assert proof.faults[0].startswith("tensor 'fc1.weight' differs within bytes 0 to")


def test_a_missing_an_added_and_a_reshaped_tensor_are_faults(tmp_path):
    torch.save({"a": torch.ones(3), "b": torch.ones(2, 2)}, tmp_path / "in.pth")
    torch.save({"b": torch.ones(4), "c": torch.ones(1)}, tmp_path / "out.pth")
    ours = wtool.open(tmp_path / "in.pth")
    theirs = wtool.open(tmp_path / "out.pth")
    found = [
        Claim(ours["a"], Tensor("a", "a", ours["a"].extent, path=("a",))),
        Claim(ours["b"], theirs["b"]),
    ]
    assert prove(str(tmp_path / "out.pth"), "torch", found).faults == (
        "tensor 'a' is not in the file",
        "tensor 'b' has shape [4], not [2, 2]",
        "'c' is in the file, and should not be",
    )


@pytest.mark.parametrize(
    ("factor", "ok"), [(1.0, True), (1 + 2.0**-12, True), (1 + 2.0**-9, False)]
)
def test_a_value_beyond_the_stated_error_is_a_fault(tmp_path, factor, ok):
    values = torch.linspace(1, 2, 1000)
    torch.save({"a": values}, tmp_path / "in.pth")
    torch.save({"a": values * factor}, tmp_path / "out.pth")
    source, target = str(tmp_path / "in.pth"), str(tmp_path / "out.pth")
    half = Bound(2.0**-11, 2.0**-25, 0, 2.0**-11)
    assert (prove(target, "torch", claims(source, target, half)).faults == ()) == ok
    strict = Bound(2.0**-11, 2.0**-25, 0, 0.0)
    assert (prove(target, "torch", claims(source, target, strict)).faults == ()) == (factor == 1)


def test_a_library_that_cannot_read_the_file_is_a_fault_and_no_crash(tmp_path):
    wtool.convert(PLAIN, str(tmp_path / "m.pth"))
    found = claims(PLAIN, str(tmp_path / "m.pth"))
    (tmp_path / "m.pth").write_bytes(b"no weights")
    proof = prove(str(tmp_path / "m.pth"), "torch", found)
    assert "torch broke off with exit code 1" in proof.faults[0]


def test_without_the_library_nothing_is_written_and_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(proving.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "wtool\[torch\]"') as error:
        wtool.convert(PLAIN, str(tmp_path / "m.pth"), prove=True)
    assert error.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
