"""`wtool manifest` and `verify`: one manifest for every container, and what a release keeps."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest
import tensorflow as tf
import torch
from safetensors.torch import save_file

import wtool
from wtool.cli import run
from wtool.errors import (
    MalformedInput,
    MissingInput,
    OutputExists,
    UnsafeInput,
    UnsupportedError,
    UsageError,
)
from wtool.manifests.document import dump, is_manifest, load

FIXTURES = Path(__file__).parents[2] / "fixtures"
RELEASE = str(FIXTURES / "manifests" / "release-1.json")
FREEZE = str(FIXTURES / "manifests" / "freeze-1.json")
CNN = str(FIXTURES / "digits-cnn.pth")


def make(model: object, path: Path, **options) -> str:
    wtool.manifest(model, output=str(path), **options)
    return str(path)


def rewrite(path: str, target: Path, change) -> str:
    value = json.loads(Path(path).read_text())
    change(value)
    target.write_text(json.dumps(value))
    return str(target)


# The containers of one model


def save_torch(tensors: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    torch.save(tensors, folder / "zip.pth")
    torch.save(tensors, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return [folder / "zip.pth", folder / "legacy.pth"]


def save_safetensors(tensors: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    save_file(tensors, folder / "one.safetensors")
    shards = folder / "shards"
    shards.mkdir()
    names = list(reversed(tensors))
    index: dict[str, str] = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, shards / file)
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (shards / "model.safetensors.index.json").write_text(text)
    return [folder / "one.safetensors", shards]


def save_tensorflow(tensors: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    """Name-based; in one data file, and in several that are then merged under one index."""
    names, values = zip(*((n, t.numpy()) for n, t in tensors.items()), strict=True)

    def write(prefix: Path, part: slice) -> str:
        tf.raw_ops.SaveV2(
            prefix=str(prefix), tensor_names=names[part], tensors=values[part],
            shape_and_slices=[""] * len(names[part]),
        )  # fmt: skip
        return str(prefix)

    write(folder / "tf", slice(None))
    parts = [write(folder / f"part{i}", slice(i * 2, i * 2 + 2)) for i in range(2)]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(folder / "merged")
    )
    assert len(list(folder.glob("merged.data-*"))) == 2
    return [folder / "tf", folder / "merged"]


def save_hdf5(tensors: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    """As Keras 2 does: a group for each layer, names of weights in an attribute."""
    with h5py.File(folder / "keras.h5", "w") as file:
        layers = list(dict.fromkeys(name.split("/")[0] for name in tensors))
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["backend"] = b"tensorflow"
        for layer in layers:
            group = file.create_group(layer)
            own = [name for name in tensors if name.startswith(f"{layer}/")]
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in own]
            for name in own:
                group.create_dataset(f"{name}:0", data=tensors[name].numpy())
    return [folder / "keras.h5"]


def test_one_manifest_verifies_every_container(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "conv/kernel": torch.randn(3, 3, 2, 4),
        "conv/bias": torch.zeros(4),
        "dense/kernel": torch.randn(6, 6),
        "dense/bias": torch.randn(6),
    }
    paths = [
        path
        for save in (save_torch, save_safetensors, save_tensorflow, save_hdf5)
        for path in save(tensors, tmp_path)
    ]
    manifest = make(str(paths[0]), tmp_path / "m.json")
    for path in paths:
        report = wtool.verify(str(path), manifest)
        assert report.ok, (path, report.rows)
        assert report.totals == {"tensors": 4, "tensors_failed": 0}
    roots = {
        load(make(str(path), tmp_path / f"{i}.json")).models[0].root for i, path in enumerate(paths)
    }
    assert len(roots) == 1
    torch.save({**tensors, "dense/kernel": tensors["dense/kernel"].T}, tmp_path / "bad.pth")
    (row,) = wtool.verify(str(tmp_path / "bad.pth"), manifest).rows
    assert (row["status"], row["name"]) == ("different", "dense/kernel")


# What stands in a manifest


def test_the_same_model_gives_the_same_bytes_wherever_it_lies(tmp_path):
    first = Path(make(CNN, tmp_path / "a.json", jobs=1)).read_bytes()
    deep = tmp_path / "some" / "where"
    deep.mkdir(parents=True)
    shutil.copy(CNN, deep)
    second = Path(make(str(deep / "digits-cnn.pth"), tmp_path / "b.json", jobs=3)).read_bytes()
    assert first == second
    assert b"/" not in first


def test_files_are_named_relative_to_the_folder_of_the_model(tmp_path):
    model = load(make(str(FIXTURES / "digits-cnn-savedmodel"), tmp_path / "m.json")).models[0]
    assert model.name == "digits-cnn-savedmodel"
    assert [file.name for file in model.files] == [
        "variables/variables.index", "variables/variables.data-00000-of-00001",
    ]  # fmt: skip


def test_what_wrote_a_file_and_what_code_it_needs_are_kept(tmp_path):
    def record(name: str):
        return load(make(str(FIXTURES / name), tmp_path / "m.json", force=True)).models[0]

    module = record("digits-cnn-module.pth")
    assert module.written_by == {"torch version record": "3"}
    assert module.classes == (
        "fixtures.torch_models.DigitsCNN", "torch.nn.modules.batchnorm.BatchNorm2d",
        "torch.nn.modules.conv.Conv2d", "torch.nn.modules.linear.Linear",
    )  # fmt: skip
    assert "__torch__.fixtures.torch_models.DigitsCNN" in record("digits-cnn-script.pt").classes
    assert record("digits-cnn-lightning.ckpt").written_by["pytorch-lightning_version"] == "2.5.0"
    keras = record("digits-transformer.keras")
    assert keras.written_by == {"keras_version": "3.15.1"}
    assert "fixtures>AddPosition" in keras.classes
    assert "keras.layers.MultiHeadAttention" in keras.classes
    for name in ("digits-cnn-savedmodel", "digits-cnn-tf1"):
        assert record(name).written_by == {"tensorflow_version": "2.21.0"}
    assert record("digits-cnn-keras3.h5").written_by["backend"] == "tensorflow"
    assert record("digits-cnn.pth").classes == ()


def test_a_manifest_read_and_written_again_is_the_same(tmp_path):
    for path in (RELEASE, FREEZE):
        assert b"".join(dump(load(path))) == Path(path).read_bytes()
        assert is_manifest(path)
    assert not is_manifest(CNN)
    assert not is_manifest(str(tmp_path / "missing"))


@pytest.mark.parametrize("number", [1])
def test_manifests_of_every_released_schema_verify(number):
    release = str(FIXTURES / "manifests" / f"release-{number}.json")
    for name in ("digits-cnn.pth", "digits-cnn.safetensors", "digits-cnn-bin-shards"):
        assert wtool.verify(str(FIXTURES / name), release).ok
    assert wtool.verify(CNN, release, files=True, structure=True).ok
    freeze = str(FIXTURES / "manifests" / f"freeze-{number}.json")
    assert wtool.verify(CNN, freeze).ok


# Parts


def test_files_are_checked_without_parsing_them(tmp_path):
    shutil.copy(CNN, tmp_path / "renamed.bin")
    assert wtool.verify(str(tmp_path / "renamed.bin"), RELEASE, files=True).ok
    data = bytearray(Path(CNN).read_bytes())
    data[20_000] ^= 1
    (tmp_path / "digits-cnn.pth").write_bytes(data)
    report = wtool.verify(str(tmp_path / "digits-cnn.pth"), RELEASE, files=True)
    assert not report.ok
    assert report.rows[0]["name"] == "digits-cnn.pth"
    (tmp_path / "garbage").write_bytes(b"no model")
    assert not wtool.verify(str(tmp_path / "garbage"), RELEASE, files=True).ok
    missing = wtool.verify(str(tmp_path / "missing"), RELEASE, files=True)
    assert [row["status"] for row in missing.rows] == ["missing"]


def test_structure_reads_no_values():
    fresh = str(FIXTURES / "digits-cnn-fresh.pth")
    assert wtool.verify(fresh, RELEASE, structure=True).ok
    assert not wtool.verify(fresh, RELEASE, structure=True, tensors=True).ok
    half = wtool.verify(str(FIXTURES / "digits-cnn-f16.safetensors"), RELEASE, structure=True)
    assert {row["status"] for row in half.rows} == {"retyped"}


def test_select_checks_a_part(tmp_path):
    state = torch.load(CNN)
    state["fc2.bias"][0] += 1
    del state["fc1.bias"]
    torch.save(state, tmp_path / "m.pth")
    path = str(tmp_path / "m.pth")
    assert wtool.verify(path, RELEASE, exclude=["fc*"]).ok
    assert wtool.verify(path, RELEASE, select=["conv*", "bn?.*"]).totals["tensors"] == 12
    (row,) = wtool.verify(path, RELEASE, select=["fc1.*"]).rows
    assert (row["status"], row["name"]) == ("missing", "fc1.bias")
    with pytest.raises(UsageError, match="'nothing' matches no tensor"):
        wtool.verify(path, RELEASE, select=["nothing"])


def test_a_manifest_of_a_part_verifies_the_whole_model(tmp_path):
    manifest = make(CNN, tmp_path / "m.json", select=["fc*"], exclude=["*bias"])
    assert set(load(manifest).models[0].tensors) == {"fc1.weight", "fc2.weight"}
    assert wtool.verify(str(FIXTURES / "digits-cnn.safetensors"), manifest).ok
    assert len(wtool.verify(str(FIXTURES / "digits-cnn-fresh.pth"), manifest).rows) == 2


# Several models, tags, versions


def test_a_manifest_of_several_models_finds_the_one_that_is_meant(tmp_path):
    paths = [CNN, str(FIXTURES / "topics-rnn.pth")]
    manifest = make(paths, tmp_path / "m.json")
    for path in paths:
        assert wtool.verify(path, manifest).ok
    # Another name, the same structure.
    assert wtool.verify(str(FIXTURES / "topics-rnn.safetensors"), manifest).ok
    assert not wtool.verify(CNN, manifest, name="topics-rnn.pth").ok
    with pytest.raises(UsageError, match="which of its models"):
        wtool.verify(str(FIXTURES / "digits-transformer.pth"), manifest)
    with pytest.raises(UsageError, match=r"two models are called 'digits-cnn\.pth'"):
        wtool.manifest([CNN, CNN], output=str(tmp_path / "n.json"))


def test_a_tag_and_the_architectural_changes_since_are_kept(tmp_path):
    state = torch.load(CNN)
    state["head.weight"] = state.pop("fc2.weight")
    state["fc1.bias"] = state["fc1.bias"].half()
    state["conv1.weight"] = state["conv1.weight"] * 2
    state["new"] = torch.ones(3)
    del state["bn1.bias"]
    torch.save(state, tmp_path / "v2.pth")
    path = make(str(tmp_path / "v2.pth"), tmp_path / "v2.json", tag="v1.1", previous=RELEASE)
    manifest = load(path)
    assert (manifest.tag, manifest.previous_tag) == ("v1.1", "v1.0")
    (previous,) = manifest.previous
    assert previous.root == load(RELEASE).models[0].root
    assert previous.changed == 1
    assert list(previous.changes) == [
        {"change": "removed", "tensor": "bn1.bias", "old": "float32 8"},
        {"change": "added", "tensor": "new", "new": "float32 3"},
        {"change": "renamed", "tensor": "fc2.weight", "new": "head.weight"},
        {"change": "retyped", "tensor": "fc1.bias", "old": "float32 24", "new": "float16 24"},
    ]
    assert b"".join(dump(manifest)) == Path(path).read_bytes()


def test_blake3_is_recorded_and_used(tmp_path):
    manifest = make(CNN, tmp_path / "m.json", digest="blake3")
    assert load(manifest).algorithm == "blake3"
    assert wtool.verify(str(FIXTURES / "digits-cnn.safetensors"), manifest).ok
    assert wtool.verify(CNN, manifest, files=True).ok
    assert not wtool.verify(str(FIXTURES / "digits-cnn-fresh.pth"), manifest).ok
    with pytest.raises(UsageError, match="--digest sha256"):
        make(CNN, tmp_path / "n.json", digest="blake3", previous=RELEASE)


# Bad manifests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("kind"), "manifest: no kind"),
        (lambda m: m.update(kind="x"), "unknown kind"),
        (lambda m: m.update(schema=0), "no such schema"),
        (lambda m: m.update(schema=True), "schema has another type"),
        (lambda m: m.update(digest="md5"), "unknown digest"),
        (lambda m: m.update(method="mine"), "unknown method"),
        (lambda m: m.update(more=1), "unknown field: found 'more'"),
        (lambda m: m.update(models=[]), "no names of their own"),
        (lambda m: m["models"].append(m["models"][0]), "no names of their own"),
        (lambda m: m["models"][0].update(root="0" * 64), "the root digest is not that"),
        (lambda m: m["models"][0].update(structure="F" * 64), "bad structure"),
        (lambda m: m["models"][0]["tensors"]["fc2.bias"].update(shape=[2, 5]), "structure digest"),
        (lambda m: m["models"][0]["tensors"]["fc2.bias"].update(shape=[-1]), "bad dimension"),
        (lambda m: m["models"][0]["tensors"]["fc2.bias"].update(dtype="float7"), "unknown dtype"),
        (lambda m: m["models"][0]["tensors"].pop("fc2.bias"), "structure digest"),
        (lambda m: m["models"][0]["files"][0].update(nbytes=-1), "negative nbytes"),
        (lambda m: m["models"][0].update(classes=[1]), "list of strings"),
        (lambda m: m["models"][0].update(tensors=[]), "tensors has another type"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(tmp_path, change, message):
    path = rewrite(RELEASE, tmp_path / "bad.json", change)
    with pytest.raises(MalformedInput, match=message) as caught:
        wtool.verify(CNN, path)
    assert caught.value.path == path


def test_a_manifest_of_a_later_schema_is_unsupported(tmp_path):
    path = rewrite(RELEASE, tmp_path / "new.json", lambda m: m.update(schema=2, models="other"))
    with pytest.raises(UnsupportedError, match="later wtool: expected schema 1 or older, found 2"):
        wtool.verify(CNN, path)


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(MissingInput):
        wtool.verify(CNN, str(tmp_path / "missing"))
    for text in (b"", b"[]", b'{"kind": ', b"\xff", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(text)
        with pytest.raises(MalformedInput):
            wtool.verify(CNN, str(tmp_path / "bad.json"))
    (tmp_path / "text.md").write_text("# notes")
    with pytest.raises(MalformedInput, match="not a manifest: expected a JSON object"):
        wtool.verify(CNN, str(tmp_path / "text.md"))


@pytest.mark.parametrize("name", ["digits-cnn.pth", "digits-cnn.safetensors", "digits-cnn-tf"])
def test_a_model_in_place_of_a_manifest_is_told_as_one(name):
    other = str(FIXTURES / name)
    with pytest.raises(MalformedInput, match="not a manifest but a weight file") as caught:
        wtool.verify(CNN, other)
    assert caught.value.path == other
    assert "verify takes MODEL, then MANIFEST" in caught.value.hint


def test_a_name_that_a_json_file_cannot_hold_is_refused(tmp_path):
    torch.save({"a\udc80": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(UnsupportedError, match="no valid text"):
        make(str(tmp_path / "m.pth"), tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def test_odd_names_are_kept(tmp_path):
    manifest = make(str(FIXTURES / "odd" / "names.pth"), tmp_path / "m.json")
    assert set(load(manifest).models[0].tensors) == set(torch.load(FIXTURES / "odd" / "names.pth"))
    assert wtool.verify(str(FIXTURES / "odd" / "names.pth"), manifest).ok


# The command line


def test_the_commands_answer_by_exit_code(tmp_path, capsys):
    path = str(tmp_path / "m.json")
    assert run(["manifest", CNN, "-o", path, "--tag", "v2"]) == 0
    assert run(["manifest", CNN, "-o", path]) == 5
    assert run(["manifest", CNN, "-o", path, "--force", "--tag", "v2"]) == 0
    assert run(["manifest", CNN]) == 2
    capsys.readouterr()
    assert run(["verify", CNN, path]) == 0
    assert "digits-cnn.pth of v2: 19 tensors verify" in capsys.readouterr().out
    fresh = str(FIXTURES / "digits-cnn-fresh.pth")
    assert run(["verify", fresh, path, "--format", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["totals"]) == (False, {"tensors": 19, "tensors_failed": 19})
    row = next(row for row in answer["rows"] if row["name"] == "fc2.bias")
    assert len(row["expected_digest"]) == 64
    assert run(["verify", str(tmp_path / "missing"), path]) == 3
    assert run(["verify", CNN, str(tmp_path / "missing")]) == 3
    assert run(["verify", CNN, path, "--tolerance", "1"]) == 2
    assert run(["verify", CNN, FREEZE, "--files"]) == 2
    with pytest.raises(OutputExists):
        wtool.manifest(CNN, output=path)


# wtool diff


def test_diff_takes_manifests_in_place_of_models(tmp_path):
    state = torch.load(CNN)
    state["head.weight"] = state.pop("fc2.weight")
    state["fc1.bias"] = state["fc1.bias"].half()
    state["conv1.weight"] = state["conv1.weight"] * 2
    torch.save(state, tmp_path / "v2.pth")
    new = str(tmp_path / "v2.pth")
    sides = [(CNN, new), (RELEASE, make(new, tmp_path / "v2.json")), (RELEASE, new), (FREEZE, new)]
    expected = {"head.weight": "renamed", "fc1.bias": "retyped", "conv1.weight": "changed"}
    for a, b in sides:
        report = wtool.diff(a, b)
        assert {row["name"]: row["change"] for row in report.rows} == expected, (a, b)
        assert (report.ok, report.totals["same"], report.totals["tensors"]) == (False, 16, 19)
    assert wtool.diff(RELEASE, str(FIXTURES / "digits-cnn.safetensors")).ok
    assert wtool.diff(CNN, FREEZE).ok
    part = wtool.diff(RELEASE, new, select=("fc1.*", "head.*", "fc2.*"), ignore_dtype=True)
    assert [row["name"] for row in part.rows] == ["head.weight"]


def test_diff_of_manifests_refuses_what_they_cannot_say(tmp_path):
    with pytest.raises(UsageError, match="no values"):
        wtool.diff(RELEASE, CNN, tolerance=0.1)
    with pytest.raises(UsageError, match="no values"):
        wtool.diff(RELEASE, CNN, by="layer")
    other = make(CNN, tmp_path / "b.json", digest="blake3")
    with pytest.raises(UsageError, match="different digests: found blake3 and sha256"):
        wtool.diff(RELEASE, other)
    two = make([CNN, str(FIXTURES / "topics-rnn.pth")], tmp_path / "two.json")
    with pytest.raises(UsageError, match="several models"):
        wtool.diff(CNN, two)


def test_integers_of_a_million_digits_are_no_size(tmp_path):
    text = Path(RELEASE).read_text().replace('"shape": [10]', '"shape": [' + "9" * 1_000_000 + "]")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(MalformedInput):
        wtool.verify(CNN, str(tmp_path / "bad.json"))
    assert np.prod(load(RELEASE).models[0].tensors["fc2.bias"].shape) == 10


def test_files_of_a_download_cache_keep_the_names_of_the_model(tmp_path):
    """Hugging Face's cache: a snapshot is a folder of links to blobs that are named by digests."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1f0d"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    published = FIXTURES / "digits-cnn-safetensors-shards"
    for number, file in enumerate(sorted(published.iterdir())):
        (blobs / f"{number:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"{number:040x}"))
    path = str(tmp_path / "m.json")
    wtool.manifest([str(snapshot)], output=path)
    names = {file["name"] for file in json.loads(Path(path).read_text())["models"][0]["files"]}
    assert names == {file.name for file in published.iterdir() if file.suffix != ".md"}
    for model in (snapshot, published):
        assert wtool.verify(str(model), path, files=True, tensors=True).ok


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "./a", ""])
def test_a_manifest_does_not_lead_out_of_the_models_folder(tmp_path, name):
    published = str(FIXTURES / "digits-cnn-safetensors-shards")
    path = tmp_path / "m.json"
    wtool.manifest([published], output=str(path))
    document = json.loads(path.read_text())
    document["models"][0]["files"][-1]["name"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(UnsafeInput, match="outside of the model's folder"):
        wtool.verify(published, str(path), files=True)
