"""Nested PyTorch files, read by wtool and written again, against torch.load of both."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path

import numpy as np
import pytest
import torch
from test_torch_writer import bits, load

from wtool.checkpoint import build
from wtool.errors import LossError
from wtool.formats import Probe
from wtool.formats.torch_zip import open_file
from wtool.writers import save


def same(ours, theirs) -> None:
    """Equal in values, types, order and nesting."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert bits(ours.detach()) == bits(theirs.detach())
        assert ours.requires_grad == theirs.requires_grad
        assert ours.stride() == theirs.stride()
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert [type(key) for key in ours] == [type(key) for key in theirs]
        for key in theirs:
            same(ours[key], theirs[key])
        assert getattr(ours, "_metadata", None) == getattr(theirs, "_metadata", None)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


def rewrite(value, folder: Path, **options):
    """`value` saved by torch, opened by wtool, saved by wtool, loaded by torch."""
    torch.save(value, folder / "a.pth")
    save(open_file(Probe(folder / "a.pth")), folder / "b.pth", **options)
    return torch.load(folder / "b.pth", weights_only=True)


def training_checkpoint() -> dict:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    net[0].weight.data = net[0].weight.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    return {
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "history": [0.5, (1, -(2**70)), {"x": None, 3: True}, b"\x00\xff", "é", 2 + 3j],
        "empty": {"dict": {}, "list": [], "tuple": (), "bytes": b""},
        "size": torch.Size([1, 2]),
        "type": torch.bfloat16,
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def test_a_training_checkpoint_keeps_its_nesting_types_and_order(tmp_path):
    value = training_checkpoint()
    same(rewrite(value, tmp_path), value)


def test_a_state_dict_keeps_its_module_versions(tmp_path):
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    found = rewrite(state, tmp_path)
    same(found, state)
    assert found._metadata["1"] == {"version": 2}


def test_a_tensor_in_a_list_and_shared_tensors_keep_their_places(tmp_path):
    shared = torch.arange(6.0)
    value = [{"a": shared}, (shared, shared[2:4]), shared.view(2, 3).t()]
    found = rewrite(value, tmp_path)
    same(found, value)
    tensors = [found[0]["a"], *found[1], found[2]]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1


def test_numpy_numbers_become_numbers_that_weights_only_reads(tmp_path):
    found = rewrite({"w": torch.ones(1), "lr": np.float64(0.25), "n": np.int64(7)}, tmp_path)
    assert found["lr"] == 0.25
    assert type(found["lr"]) is float
    assert found["n"] == 7
    assert type(found["n"]) is int


def test_objects_that_weights_only_refuses_are_losses_by_name(tmp_path):
    value = {
        "w": torch.ones(1),
        "args": argparse.Namespace(lr=1),
        "where": [Path("a"), 1],
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    with pytest.raises(LossError) as error:
        rewrite(value, tmp_path)
    for name in ("'args'", "'where.0'", "structure 'counts'"):
        assert name in str(error.value)
    assert not (tmp_path / "b.pth").exists()
    found = rewrite(value, tmp_path, allow={"extras", "structure"})
    assert found == {"w": torch.ones(1), "where": [None, 1], "counts": {"a": [1]}}


def test_left_out_or_renamed_tensors_give_a_flat_state_dict(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "a.pth")
    source = open_file(Probe(tmp_path / "a.pth"))
    kept = [tensor for tensor in source if tensor.role != "optimizer"]
    part = build("part", "torch", kept, tree=source.tree)
    save(part, tmp_path / "b.pth")
    found = load(tmp_path / "b.pth")
    assert type(found) is collections.OrderedDict
    assert list(found) == [tensor.name for tensor in kept]
    assert "0.weight" in found


def test_flat_drops_the_nesting_and_the_rest_is_a_loss(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pth")
    source = open_file(Probe(tmp_path / "a.pth"))
    with pytest.raises(LossError, match="extras 'epoch'"):
        save(source, tmp_path / "b.pth", flat=True)
    save(source, tmp_path / "b.pth", flat=True, allow={"extras"})
    same(dict(load(tmp_path / "b.pth")), {"w": torch.ones(2)})
