"""`wtool convert`: what is written, what is refused, and what the options do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import wtool
from wtool.cli import run
from wtool.commands.saving import container_of, parse_size
from wtool.errors import LossError, OutputExists, UnsupportedError, UsageError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TRAINING = str(FIXTURES / "digits-cnn-training.pth")
PLAIN = str(FIXTURES / "digits-cnn.pth")


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Names, types, shapes and bits."""
    return found.keys() == expected.keys() and all(
        t.dtype == expected[n].dtype and torch.equal(t, expected[n]) for n, t in found.items()
    )


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "module.conv.weight": torch.randn(3, 2),
        "module.conv.bias": torch.randn(3),
        "module.head.weight": torch.randn(4, 3),
    }


@pytest.fixture
def source(tmp_path, state) -> str:
    torch.save(state, tmp_path / "in.pth")
    return str(tmp_path / "in.pth")


def test_a_torch_file_becomes_safetensors_with_the_same_tensors(tmp_path):
    report = wtool.convert(PLAIN, str(tmp_path / "m.safetensors"))
    assert report.ok
    size = (tmp_path / "m.safetensors").stat().st_size
    assert report.rows == [{"file": str(tmp_path / "m.safetensors"), "tensors": 19, "nbytes": size}]
    expected = torch.load(PLAIN, weights_only=True)
    assert same(load_file(tmp_path / "m.safetensors"), expected)


def test_two_runs_give_equal_bytes(tmp_path):
    for name in ("a.pth", "b.pth"):
        assert run(["convert", TRAINING, str(tmp_path / name)]) == 0
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_a_training_file_keeps_its_nesting_from_torch_to_torch(tmp_path):
    wtool.convert(TRAINING, str(tmp_path / "m.pth"))
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    expected = torch.load(TRAINING, weights_only=True)
    assert found.keys() == expected.keys()
    assert found["epoch"] == expected["epoch"]
    assert same(found["model"], expected["model"])


def test_extras_are_listed_and_stop_the_work_unless_dropped(tmp_path, capsys):
    target = tmp_path / "m.safetensors"
    assert run(["convert", TRAINING, str(target)]) == 5
    said = capsys.readouterr().err
    assert "extras 'epoch'" in said
    assert "--drop-extras" in said
    assert listing(tmp_path) == []
    assert run(["convert", TRAINING, str(target), "--drop-extras"]) == 0
    assert len(load_file(target)) == 78


def test_model_only_leaves_out_the_optimizer_and_the_extras(tmp_path):
    wtool.convert(TRAINING, str(tmp_path / "m.safetensors"), model_only=True)
    expected = torch.load(TRAINING, weights_only=True)["model"]
    assert same(load_file(tmp_path / "m.safetensors"), expected)


def test_a_dry_run_shows_the_plan_and_the_losses_and_writes_nothing(tmp_path, capsys):
    target = tmp_path / "m.safetensors"
    assert run(["convert", TRAINING, str(target), "--dry-run", "--format", "json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert plan["ok"] is False
    assert [row["name"] for row in plan["rows"][:2]] == ["conv1.weight", "conv1.bias"]
    assert plan["rows"][0]["file"] == "m.safetensors"
    lost = [row for row in plan["rows"] if row["note"] and row["note"].startswith("lost (extras)")]
    assert lost[0]["name"] == "epoch"
    assert any("would be refused" in note for note in plan["notes"])
    assert run(["convert", PLAIN, str(target), "--dry-run"]) == 0
    assert listing(tmp_path) == []


def test_an_existing_target_is_refused_and_the_source_may_be_the_target(source, state):
    before = Path(source).read_bytes()
    with pytest.raises(OutputExists, match="--force"):
        wtool.convert(source, source)
    assert run(["convert", source, source, "--dry-run"]) == 1
    assert Path(source).read_bytes() == before
    wtool.convert(source, source, force=True, strip_prefix=("module.",))
    found = torch.load(source, weights_only=True)
    assert same(found, {name.removeprefix("module."): t for name, t in state.items()})


def test_names_change_by_prefix_glob_and_regular_expression(tmp_path, source, state):
    target = tmp_path / "m.pth"
    wtool.convert(
        source,
        str(target),
        strip_prefix=("module.",),
        rename=("conv.*=body.0.*", r"re:^(head)\.(\w+)$=\2_of_\1"),
    )
    values = list(state.values())
    expected = dict(zip(["body.0.weight", "body.0.bias", "weight_of_head"], values, strict=True))
    assert same(torch.load(target, weights_only=True), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strip_prefix": ("model.",)}, "no name starts with"),
        ({"rename": ("nothing.*=x.*",)}, "changes no name"),
        ({"rename": ("no equals",)}, "bad rule to rename"),
        ({"rename": ("module.*=x.*.*",)}, "more wildcards on the right"),
        ({"rename": ("re:(=x",)}, "bad rule"),
        ({"rename": (r"re:conv=\3",)}, "bad rule"),
        ({"rename": ("module.*=x",)}, "two tensors would be called 'x'"),
        ({"model_only": True, "ema": True}, "exclude each other"),
        ({"ema": True}, "no EMA copy"),
        ({"select": ("no.such",)}, "matches no tensor"),
        ({"shards": 2, "max_shard_size": "1KB"}, "--shards goes with"),
        ({"shards": 0}, "bad number of shards: expected 1 or more, found 0"),
        ({"max_shard_size": "many"}, "bad size"),
        ({"max_shard_size": "9" * 400}, "bad size"),
        ({"max_shard_size": "\u0665GB"}, "bad size"),
        ({"template": "x"}, "torch has no template"),
        ({"container": "zip"}, "no such container"),
    ],
)
def test_wrong_usage_is_explained_and_writes_nothing(tmp_path, source, options, message):
    with pytest.raises(UsageError, match=message):
        wtool.convert(source, str(tmp_path / "m.pth"), **options)
    assert listing(tmp_path) == ["in.pth"]


def test_selected_tensors_are_extracted(tmp_path, source, state):
    wtool.convert(source, str(tmp_path / "m.npz"), select=("*.conv.*",), exclude=("*.bias",))
    with np.load(tmp_path / "m.npz") as found:
        assert list(found) == ["module.conv.weight"]
        assert np.array_equal(found["module.conv.weight"], state["module.conv.weight"])


@pytest.mark.parametrize(
    ("options", "files"),
    [({"shards": 2}, 2), ({"max_shard_size": "40"}, 2), ({"max_shard_size": 1 << 20}, 1)],
)
def test_shards_are_split_and_merged_again(tmp_path, source, state, options, files):
    wtool.convert(source, str(tmp_path / "m.safetensors"), **options)
    shards = [name for name in listing(tmp_path) if name.endswith(".safetensors")]
    assert len(shards) == files
    merged = {}
    for name in shards:
        merged |= load_file(tmp_path / name)
    assert same(merged, state)
    if files > 1:
        index = json.loads((tmp_path / "m.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == state.keys()
        wtool.convert(str(tmp_path / "m.safetensors.index.json"), str(tmp_path / "one.pth"))
        assert same(torch.load(tmp_path / "one.pth", weights_only=True), state)


def test_ties_are_kept_where_the_target_can_and_refused_where_it_cannot(tmp_path):
    weight = torch.randn(5, 4)
    torch.save({"a": weight, "b": weight, "c": torch.ones(2)}, tmp_path / "in.pth")
    source = str(tmp_path / "in.pth")
    wtool.convert(source, str(tmp_path / "m.safetensors"))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a", "c"]
        assert file.metadata()["b"] == "a"
    wtool.convert(str(tmp_path / "m.safetensors"), str(tmp_path / "back.pth"))
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["a"].data_ptr() == back["b"].data_ptr()
    assert torch.equal(back["b"], weight)
    with pytest.raises(LossError, match="ties 'b'") as error:
        wtool.convert(source, str(tmp_path / "m.npz"))
    assert "--untie" in str(error.value)
    wtool.convert(source, str(tmp_path / "m.npz"), untie=True)
    with np.load(tmp_path / "m.npz") as found:
        assert np.array_equal(found["b"], weight)


def test_a_recorded_tie_goes_when_one_of_the_two_is_left_out_or_renamed(tmp_path):
    weight = torch.randn(5, 4)
    save_file({"a": weight}, tmp_path / "in.safetensors", {"b": "a", "format": "pt"})
    source = str(tmp_path / "in.safetensors")
    for number, options in enumerate(({"select": ("b",)}, {"rename": ("a=z",)})):
        target = tmp_path / f"{number}.safetensors"
        wtool.convert(source, str(target), **options)
        with safe_open(target, "pt") as file:
            kept = dict(file.metadata())
        assert kept == ({"format": "pt"}, {"format": "pt", "b": "z"})[number]


def test_what_the_target_has_no_type_for_is_listed(tmp_path):
    torch.save({"x": torch.ones(2, dtype=torch.bfloat16), "y": torch.ones(1)}, tmp_path / "i.pth")
    with pytest.raises(UnsupportedError, match="npz cannot hold type bfloat16: 'x'"):
        wtool.convert(str(tmp_path / "i.pth"), str(tmp_path / "m.npz"))
    wtool.convert(str(tmp_path / "i.pth"), str(tmp_path / "m.npz"), exclude=("x",))
    assert listing(tmp_path) == ["i.pth", "m.npz"]


def test_the_object_graph_of_tensorflow_is_kept_or_named_as_a_loss(tmp_path):
    source = str(FIXTURES / "digits-cnn-tf")
    with pytest.raises(LossError, match="_CHECKPOINTABLE_OBJECT_GRAPH"):
        wtool.convert(source, str(tmp_path / "m.safetensors"))
    wtool.convert(source, str(tmp_path / "m.safetensors"), allow=("structure",))
    wtool.convert(source, str(tmp_path / "tf"))
    ours, theirs = wtool.open(tmp_path / "tf"), wtool.open(source)
    assert [t.key for t in ours] == [t.key for t in theirs]
    assert wtool.diff(ours, theirs).ok


EMA_LAYOUTS = {
    "dictionary": lambda model, ema: {"state_dict": model, "ema_state_dict": ema, "epoch": 3},
    "wrapped": lambda model, ema: {
        "state_dict": model,
        "ema": {f"module.{n}": t for n, t in ema.items()} | {"n_averaged": torch.tensor(7)},
    },
    "joined": lambda model, ema: (
        {f"model.{n}": t for n, t in model.items()}
        | {f"model_ema.{n.replace('.', '')}": t for n, t in ema.items()}
        | {"model_ema.decay": torch.tensor(0.99)}
    ),
}


@pytest.mark.parametrize("layout", EMA_LAYOUTS)
def test_the_averaged_copy_takes_the_place_of_the_model(tmp_path, layout):
    torch.manual_seed(1)
    model = {
        "conv.0.weight": torch.randn(4, 3),
        "conv.0.bias": torch.randn(4),
        "bn.running_mean": torch.randn(4),
    }
    ema = {n: t + 1 for n, t in model.items() if "running" not in n}
    torch.save(EMA_LAYOUTS[layout](model, ema), tmp_path / "in.pth")
    wtool.convert(str(tmp_path / "in.pth"), str(tmp_path / "m.safetensors"), ema=True)
    found = load_file(tmp_path / "m.safetensors")
    if layout == "joined":
        found = {name.removeprefix("model."): t for name, t in found.items()}
    assert same(found, model | ema)


def test_an_averaged_tensor_without_a_counterpart_is_refused(tmp_path):
    branches = {"state_dict": {"a.weight": torch.ones(3)}, "ema": {"b.weight": torch.ones(3)}}
    torch.save(branches, tmp_path / "in.pth")
    with pytest.raises(UnsupportedError, match=r"match none of the model: 'ema\.b\.weight'"):
        wtool.convert(str(tmp_path / "in.pth"), str(tmp_path / "m.pth"), ema=True)


def test_the_ending_says_the_container():
    found = {
        name: container_of(name)
        for name in ("m.safetensors", "m.bin", "folder.x/model", "model.index", "m.weights.h5")
    }
    assert list(found.values()) == ["safetensors", "torch", "tensorflow", "tensorflow", "keras"]
    assert container_of("model.ckpt", "torch") == "torch"
    with pytest.raises(UsageError, match="--container"):
        container_of("model.ckpt")


def test_sizes_are_read_as_people_write_them():
    texts = {"5GB": 5 * 10**9, "2GiB": 2 << 30, "500 MB": 5 * 10**8, "1.5k": 1500, "17": 17}
    texts |= {"9007199254740993": 9007199254740993, "4.35KB": 4350}
    assert {text: parse_size(text) for text in texts} == texts


def test_progress_counts_every_byte_that_is_written(tmp_path, source):
    seen: list[tuple[int, int]] = []
    wtool.convert(source, str(tmp_path / "m.safetensors"), progress=lambda *step: seen.append(step))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (seen[-1][1], (tmp_path / "m.safetensors").stat().st_size)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (".", ": this is a folder (name a file in it, as ./model.safetensors)"),
        ("folder", ": this is a folder (name a file in it, as folder/model.safetensors)"),
        ("pipe", ": expected a regular file, found a pipe (name another)"),
        ("socket", ": expected a regular file, found a socket (name another)"),
        ("/dev/null", ": expected a regular file, found a device (name another)"),
    ],
)
def test_a_target_that_is_no_file_is_refused(tmp_path, monkeypatch, capsys, target, reason):
    """'convert model.pth .' wrote the files '..index' and '..data-00000-of-00001'."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    before = sorted(os.listdir(tmp_path))
    assert run(["convert", str(FIXTURES / "digits-cnn.pth"), target]) == 5
    assert f"{target}: cannot write{reason}\n" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_a_dash_is_no_file_to_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for container in ([], ["--container", "safetensors"]):
        assert run(["convert", str(FIXTURES / "digits-cnn.pth"), "-", *container]) == 2
        assert "a model is written to a file, not to standard output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
