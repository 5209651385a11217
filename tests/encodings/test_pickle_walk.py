"""Walks through pickles: every node, each container once, in time that grows with the pickle."""

from __future__ import annotations

import io

import torch

from wtool.checkpoint import Checkpoint
from wtool.checks.files.containers import extra_nodes
from wtool.encodings.pickle_nodes import Global, Persistent
from wtool.encodings.pickle_walk import storage_keys, walk
from wtool.formats import open_checkpoint

STORAGE = Persistent(("storage", Global("torch", "FloatStorage"), "7", "cpu", 4))


def test_every_node_is_reached_however_many_there_are():
    """Behind a million nodes: a file of 53,000 tensors has as many."""
    root = [STORAGE, list(range(1_000_000))]
    assert any(node is STORAGE for node in walk(root))
    assert list(storage_keys(root)) == ["7"]


def test_what_values_share_is_looked_into_once():
    """94 kB in which 2,000 entries hold one list of 20,000 numbers took minutes to check."""
    shared = list(range(100))
    extras = {f"k{number}": shared for number in range(50)}
    nodes = list(extra_nodes(Checkpoint("m.pth", "torch-zip", {}, extras=extras)))
    assert nodes[0] == ("k0", shared)
    assert sorted(node for _, node in nodes if isinstance(node, int)) == shared


def test_storage_keys_are_those_that_a_whole_walk_finds(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    state = {"model": model.state_dict(), "best": torch.nn.Parameter(torch.ones(2)), "n": 3}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (tmp_path / "m.pth").write_bytes(buffer.getvalue())
    tree = open_checkpoint(tmp_path / "m.pth").tree
    found = {node.id[2] for node in walk(tree) if isinstance(node, Persistent)}
    assert set(storage_keys(tree)) == found == {str(number) for number in range(8)}
