"""What a target cannot hold is set aside with it: both files appear, or neither does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import wtool
from wtool.cli import run
from wtool.errors import OutputError, OutputExists
from wtool.writers.outputs import Output

MAPPING = """[mapping]
name = "m"
a = { framework = "torch" }
b = { framework = "keras" }
[[layer]]
kind = "batchnorm"
a = "bn"
b = "bn"
"""
COUNTER = "bn.num_batches_tracked"


@pytest.fixture
def files(tmp_path):
    """(source, target, sidecar, options that name the mapping and the sidecar)."""
    bn = torch.nn.BatchNorm1d(4)
    bn.num_batches_tracked.fill_(7)
    source, target, sidecar, mapping = (
        str(tmp_path / name) for name in ("m.pth", "b.safetensors", "s.safetensors", "m.toml")
    )
    torch.save({f"bn.{name}": value for name, value in bn.state_dict().items()}, source)
    Path(mapping).write_text(MAPPING)
    return source, target, sidecar, ["--map", mapping, "--sidecar", sidecar]


@pytest.mark.parametrize("failing", ["target", "sidecar"])
def test_where_one_of_the_two_cannot_be_written_neither_is_there(files, failing, monkeypatch):
    source, target, sidecar, options = files
    folder = os.path.dirname(source)
    before = sorted(os.listdir(folder))
    refused = {"target": target, "sidecar": sidecar}[failing]
    write = Output.write

    def full(self: Output, data: bytes) -> None:
        if self.path == refused:
            raise OutputError("the disk is full; nothing was changed", path=self.path)
        write(self, data)

    monkeypatch.setattr(Output, "write", full)
    assert run(["convert", source, target, *options]) == OutputError.exit_code
    assert sorted(os.listdir(folder)) == before


def test_a_target_that_is_refused_takes_its_sidecar_with_it(files):
    source, target, sidecar, options = files
    Path(target).write_bytes(b"old")
    assert run(["convert", source, target, *options]) == OutputExists.exit_code
    assert Path(target).read_bytes() == b"old"
    assert not os.path.exists(sidecar)
    # Nor does a dry run set anything aside.
    os.unlink(target)
    assert run(["convert", source, target, *options, "--dry-run"]) == 0
    assert not os.path.exists(sidecar)


def test_the_sidecar_is_neither_the_target_nor_the_source(files, capsys):
    source, _, sidecar, options = files
    assert run(["convert", source, sidecar, *options]) == 2
    assert "the sidecar needs a file of its own" in capsys.readouterr().err
    assert not os.path.exists(sidecar)
    named = source.replace(".pth", ".safetensors")
    assert run(["convert", source, named]) == 0
    other = sidecar.replace("s.safetensors", "o.safetensors")
    assert run(["convert", named, other, *options[:2], "--sidecar", named, "--force"]) == 2
    assert COUNTER in wtool.open(named).tensors


def test_a_conversion_in_place_sets_aside_what_the_source_held(files):
    source, target, sidecar, options = files
    assert run(["convert", source, target]) == 0
    assert run(["convert", target, target, *options, "--force"]) == 0
    assert "bn/gamma" in wtool.open(target).tensors
    assert wtool.open(sidecar)[COUNTER].load() == 7
