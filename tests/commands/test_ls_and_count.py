"""`ls` and `count` on checkpoints built by hand: every column, ties once, roles apart."""

import pathlib
import pickle

import numpy as np
import pytest
import torch

import wtool
from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.commands.count import count
from wtool.commands.ls import ls
from wtool.commands.selection import choose
from wtool.dtypes import DTYPES
from wtool.errors import UsageError
from wtool.extents import Absent, Strided, Tiled
from wtool.formats import open_checkpoint
from wtool.sources import BytesSource


def tensor(name, shape, role, *, dtype="float32", storage=None, layer=None, kind=None) -> Tensor:
    dtype_ = DTYPES[dtype]
    nbytes = (int(np.prod(shape)) * dtype_.bits + 7) // 8
    source = BytesSource(bytes(nbytes), "model.pth")
    extent = Strided(source, 0, nbytes, dtype_, shape, storage=storage or name)
    return Tensor(name, f"key:{name}", extent, role=role, layer=layer, kind=kind)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return build(
        "model.pth",
        "test",
        [
            tensor("emb.weight", (10, 4), "weight", storage="tied", layer="emb", kind="embedding"),
            tensor("net.0.weight", (6, 4), "weight", layer="net.0", kind="dense"),
            tensor("net.0.bias", (6,), "bias", layer="net.0", kind="dense"),
            tensor("net.1.running_mean", (6,), "buffer", layer="net.1", kind="norm"),
            tensor("net.1.steps", (), "buffer", dtype="int64", layer="net.1", kind="norm"),
            tensor("head.weight", (10, 4), "weight", storage="tied", layer="head", kind="dense"),
            tensor("opt.0.exp_avg", (6, 4), "optimizer"),
            tensor("ema.net.0.weight", (6, 4), "ema", dtype="float16"),
            tensor("thing", (3,), "unknown", dtype="int4"),
        ],
        notes=("a note",),
    )


def test_ls_rows_hold_every_column(checkpoint):
    report = ls(checkpoint)
    assert [c.name for c in report.columns] == [
        "name", "dtype", "shape", "count", "nbytes", "role", "alias", "file", "key",
    ]  # fmt: skip
    rows = {row["name"]: row for row in report.rows}
    assert list(rows) == list(checkpoint.tensors)
    assert rows["head.weight"] == {
        "name": "head.weight", "dtype": "float32", "shape": [10, 4], "count": 40, "nbytes": 160,
        "role": "weight", "alias": "emb.weight", "file": "model.pth", "key": "key:head.weight",
    }  # fmt: skip
    assert rows["thing"]["nbytes"] == 2
    assert report.totals == {
        "tensors": 9,
        "count": 40 + 24 + 6 + 6 + 1 + 24 + 24 + 3,
        "nbytes": 458,
    }
    assert report.footer == ["test: 9 tensors, 1 tied, 128 elements, 458 B"]
    assert report.notes == ("a note",)


def test_globals_are_counted_and_judged_as_weights_only_judges_them():
    mentioned = {"torch.FloatStorage": 7, "os.system": 2, "collections.OrderedDict": 3}
    report = ls(build("x.pth", "test", [], globals=mentioned), globals=True)
    assert report.rows == [
        {"global": "collections.OrderedDict", "times": 3, "weights_only": "allowed"},
        {"global": "os.system", "times": 2, "weights_only": "refused"},
        {"global": "torch.FloatStorage", "times": 7, "weights_only": "allowed"},
    ]
    assert report.totals == {"globals": 3, "refused": 1}


def test_globals_of_a_real_file_are_those_of_pickletools(tmp_path):
    """The counts are of what the file mentions: names in its pickle, and each time they are got."""
    path = tmp_path / "model.pth"
    torch.save({"a": torch.ones(2), "b": torch.ones(3), "at": pathlib.PurePosixPath("x")}, path)
    rows = {row["global"]: row for row in ls(open_checkpoint(path), globals=True).rows}
    with pytest.raises(pickle.UnpicklingError, match="PurePosixPath"):
        torch.load(path, weights_only=True)
    assert {name for name, row in rows.items() if row["weights_only"] == "refused"} == {
        "pathlib.PurePosixPath"
    }
    assert {name: row["times"] for name, row in rows.items()} == {
        "torch._utils._rebuild_tensor_v2": 2,
        "torch.FloatStorage": 2,
        "collections.OrderedDict": 2,
        "pathlib.PurePosixPath": 1,
    }


def test_extras_are_the_values_that_are_no_tensors():
    extras = {"epoch": 3, "lr": 0.5, "done": True, "none": None, "list": [1, 2], "long": "x" * 300}
    model = build("x.pth", "test", [], metadata={"version": "3"}, extras=extras)
    report = ls(model, extras=True)
    assert {row["name"]: row["value"] for row in report.rows} == {
        "version": "3", "epoch": 3, "lr": 0.5, "done": True, "none": None, "list": "[1, 2]",
        "long": "x" * 300,
    }  # fmt: skip
    assert report.totals == {"values": 7}


def test_count_tells_parameters_from_the_rest_and_counts_ties_once(checkpoint):
    assert count(checkpoint).totals == {
        "parameters": 70, "weights": 64, "biases": 6, "buffers": 7, "other": 51, "shared": 40,
        "tensors": 9, "nbytes": 458, "optimizer": 24, "ema": 24,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("depth:1", ["emb", "net", "head", "opt", "ema", "thing"]),
        ("kind", ["embedding", "dense", "norm", "unknown"]),
        ("role", ["weight", "bias", "buffer", "optimizer", "ema", "unknown"]),
        ("dtype", ["float32", "int64", "float16", "int4"]),
        ("layer", ["emb", "net.0", "net.1", "head", "opt.0.exp_avg", "ema.net.0.weight", "thing"]),
    ],
)
def test_every_grouping_adds_up_to_the_same_totals(checkpoint, by, groups):
    report = count(checkpoint, by=by)
    assert [row["group"] for row in report.rows] == groups
    for column in report.totals:
        assert sum(row[column] for row in report.rows) == report.totals[column]


def test_an_unknown_grouping_names_the_choices(checkpoint):
    with pytest.raises(UsageError, match="layer, depth:N, kind, role, dtype"):
        count(checkpoint, by="colour")


def test_selection_by_glob_and_regular_expression_keeps_stored_order(checkpoint):
    assert list(choose(checkpoint, ["net.*"]).tensors) == [
        "net.0.weight", "net.0.bias", "net.1.running_mean", "net.1.steps",
    ]  # fmt: skip
    assert list(choose(checkpoint, ["head*", "emb*"]).tensors) == ["emb.weight", "head.weight"]
    assert list(choose(checkpoint, [r"re:^net\.\d\.w"]).tensors) == ["net.0.weight"]
    assert list(choose(checkpoint, ["net.*"], ["re:bias|steps"]).tensors) == [
        "net.0.weight", "net.1.running_mean",
    ]  # fmt: skip


def test_a_tie_whose_owner_is_not_selected_is_counted_itself(checkpoint):
    assert count(choose(checkpoint, ["head*"])).totals["parameters"] == 40


@pytest.mark.parametrize("pattern", ["nothing*", "re:^x$"])
def test_a_pattern_without_a_match_is_a_usage_error(checkpoint, pattern):
    with pytest.raises(UsageError, match="matches no tensor"):
        choose(checkpoint, [pattern])
    with pytest.raises(UsageError, match="matches no tensor"):
        choose(checkpoint, [], [pattern])


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("digits-cnn-tf1-partitioned", ["model.ckpt.data-00000-of-00001"]),
        ("digits-cnn-tf1-v1", ["model.ckpt"]),
        ("digits-cnn-tf1-v1-sharded", ["model.ckpt-00000-of-00002", "model.ckpt-00001-of-00002"]),
        ("digits-cnn-distributed", ["__0_0.distcp"]),
    ],
)
def test_a_tensor_in_pieces_names_the_files_that_hold_them(folder, expected):
    checkpoint = wtool.open(pathlib.Path(__file__).parents[2] / "fixtures" / folder)
    assert [row["group"] for row in wtool.count(checkpoint, by="shard").rows] == expected
    assert {row["file"] for row in wtool.ls(checkpoint).rows} == set(expected)


def test_a_tensor_in_pieces_of_two_files_names_both():
    source = [BytesSource(bytes(8), name) for name in ("folder/a", "folder/b")]
    pieces = [
        ((i,), Strided(source[i % 2], 4 * (i // 2), 4, DTYPES["float32"], (1,))) for i in range(4)
    ]
    tensor = Tensor("w", "w", Tiled(DTYPES["float32"], (4,), pieces))
    meta = Tensor("m", "m", Absent(DTYPES["float32"], (2,), "meta"))
    assert tensor.files == ("folder/a", "folder/b")
    rows = wtool.count(build("folder", "test", [tensor, meta]), by="shard").rows
    assert [row["group"] for row in rows] == ["a + b", "no file"]
