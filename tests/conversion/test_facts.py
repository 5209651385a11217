"""The facts of a conversion stay with its output in every container, and frameworks load it still.

Each file is written by a conversion and read by the container's own library.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from safetensors.numpy import save_file

import wtool
from fixtures import keras_models, torch_models
from wtool.checkpoint import Checkpoint
from wtool.cli import run
from wtool.errors import LossError
from wtool.writers import plan, save
from wtool.writers.plans import facts_of

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
NOTES = ["epsilon is 1e-5 – in both", "words are counted from 1\tand in one table"]
MAPPING = """
[mapping]
name = "topics"
a = {{ framework = "torch" }}
b = {{ framework = "{framework}" }}
notes = {notes}
[[layer]]
kind = "embedding"
a = "embedding"
b = "embedding"
[[layer]]
kind = "lstm"
a = "lstm"
b = "{forward}"
lossy = "sum-of-biases"
[[layer]]
kind = "lstm"
a = "lstm"
suffix = "_l0_reverse"
b = "{backward}"
lossy = "sum-of-biases"
[[layer]]
kind = "gru"
a = "gru"
b = "{gru}"
[[layer]]
kind = "linear"
a = "output"
b = "output"
"""
FACTS = {
    "wtool.lossy": "sum-of-biases",
    "wtool.mapping": "topics",
    "wtool.notes": "\n".join(NOTES),
}


def mapping(folder: Path, framework: str = "keras") -> str:
    names = {t.name for t in wtool.open(FIXTURES / "topics-rnn.weights.h5")}
    paths = {
        part: next(n.rpartition("/")[0] for n in names if n.endswith("/kernel") and part in n)
        for part in ("forward", "backward", "gru")
    }
    path = folder / "topics.toml"
    notes = json.dumps(NOTES, ensure_ascii=False).replace("\\t", "\\u0009")
    path.write_text(MAPPING.format(framework=framework, notes=notes, **paths), encoding="utf-8")
    return str(path)


def facts(path: Path | str) -> dict[str, str]:
    return {n: t for n, t in wtool.open(path).metadata.items() if n.startswith("wtool.")}


def test_a_torch_file_keeps_them_and_torch_loads_it_strictly(tmp_path: Path) -> None:
    source = str(FIXTURES / "topics-rnn.weights.h5")
    made = tmp_path / "made.pth"
    wtool.convert(source, str(made), map=mapping(tmp_path))
    expected = {**FACTS}
    del expected["wtool.lossy"]
    assert facts(made) == expected
    for options in ({}, {"mmap": True}):
        state = torch.load(made, weights_only=True, **options)
        model = torch_models.MODELS["topics-rnn"]()
        assert model.load_state_dict(state, strict=True).missing_keys == []
    assert list(state) == list(wtool.open(made).tensors)
    assert torch.load(made, weights_only=False).keys() == state.keys()
    names = zipfile.ZipFile(made).namelist()
    assert [n for n in names if "/extra/" in n] == [f"archive/extra/{n}" for n in sorted(expected)]


def test_keras_files_keep_them_and_keras_loads_it(tmp_path: Path) -> None:
    like = FIXTURES / "topics-rnn.weights.h5"
    made = tmp_path / "made.weights.h5"
    source = str(FIXTURES / "topics-rnn.pth")
    wtool.convert(source, str(made), map=mapping(tmp_path), like=str(like))
    assert facts(made) == FACTS
    model = keras_models.MODELS["topics-rnn"](keras)
    model.load_weights(made)
    found = torch.load(source, weights_only=True)["output.weight"].numpy()
    np.testing.assert_array_equal(model.get_layer("output").kernel.numpy().T, found)
    # Those of the template are not those of the new file.
    again = tmp_path / "again.weights.h5"
    wtool.convert(str(like), str(again), template=str(made))
    assert facts(again) == {}


def test_an_npz_file_keeps_them_and_numpy_sees_the_arrays_alone(tmp_path: Path) -> None:
    source = str(FIXTURES / "topics-rnn.pth")
    made, plain = tmp_path / "made.npz", tmp_path / "plain.npz"
    wtool.convert(source, str(made), map=mapping(tmp_path), to="keras")
    assert facts(made) == FACTS
    tensors = wtool.open(made)
    with np.load(made, allow_pickle=False) as found:
        assert found.files == list(tensors.tensors)
        assert all((found[t.name] == t.load()).all() for t in tensors)
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.comment) == FACTS
    # From there they go on to other containers, and no further with other tensors.
    again = tmp_path / "again.safetensors"
    wtool.convert(str(made), str(again))
    assert facts(again) == FACTS
    wtool.convert(str(FIXTURES / "digits-cnn.npz"), str(plain))
    assert zipfile.ZipFile(plain).comment == b""


def test_a_comment_of_another_kind_is_no_fact(tmp_path: Path) -> None:
    for number, comment in enumerate((b"{", b"[]", b'{"wtool.a": 1, "b": "c"}', b"\xff")):
        path = tmp_path / f"{number}.npz"
        np.savez(path, a=np.zeros(2))
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = comment
        assert wtool.open(path).metadata == {}


def test_facts_that_a_comment_has_no_room_for_are_a_loss(tmp_path: Path) -> None:
    tensors = {t.name: t for t in wtool.open(FIXTURES / "digits-cnn.npz")}
    texts = {"wtool.mapping": "m", "wtool.notes": "\u2013" * 20_000}
    large = Checkpoint("large", "npz", tensors, metadata=texts)
    planned = plan(large, tmp_path / "large.npz")
    assert [(loss.kind, loss.name) for loss in planned.losses] == [("metadata", "wtool.notes")]
    save(large, tmp_path / "large.npz", allow=("metadata",))
    assert facts(tmp_path / "large.npz") == {"wtool.mapping": "m"}


@pytest.mark.parametrize(
    ("library", "how"), [(tf_keras, "save_weights"), (tf_keras, "save"), (keras, "save")]
)
@pytest.mark.filterwarnings("ignore")
def test_legacy_keras_files_keep_them_and_keras_loads_it(library, how, tmp_path: Path) -> None:
    def network():
        library.backend.clear_session()
        layers = [library.layers.Input((3,)), library.layers.Dense(2, name="fc")]
        return library.Sequential(layers)

    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"fc.weight": weight, "fc.bias": torch.ones(2)}, tmp_path / "fc.pth")
    getattr(network(), how)(tmp_path / "fresh.h5")
    (tmp_path / "fc.toml").write_text(
        '[mapping]\nname = "fc"\na = { framework = "torch" }\nb = { framework = "keras" }\n'
        'notes = ["kept"]\n[[layer]]\nkind = "linear"\na = "fc"\nb = "fc"\n'
    )
    made = tmp_path / "made.h5"
    wtool.convert(
        str(tmp_path / "fc.pth"),
        str(made),
        map=str(tmp_path / "fc.toml"),
        like=str(tmp_path / "fresh.h5"),
    )
    assert facts(made) == {"wtool.mapping": "fc", "wtool.notes": "kept"}
    model = network()
    model.load_weights(made)
    np.testing.assert_array_equal(model.get_weights()[0], weight.numpy().T)
    if how == "save":
        loaded = library.models.load_model(made)
        np.testing.assert_array_equal(loaded.get_weights()[0], weight.numpy().T)
    # All that the template says is still there.
    with h5py.File(tmp_path / "fresh.h5") as old, h5py.File(made) as new:
        assert set(new.attrs) == {*old.attrs, "wtool.mapping", "wtool.notes"}


def test_a_tensorflow_checkpoint_keeps_them_in_its_header(tmp_path: Path) -> None:
    made = tmp_path / "made"
    wtool.convert(
        str(FIXTURES / "topics-rnn.pth"),
        str(made),
        to="tensorflow",
        map=mapping(tmp_path, "tensorflow"),
    )
    assert facts(made) == FACTS
    reader = tf.train.load_checkpoint(str(made))
    assert set(reader.get_variable_to_shape_map()) == set(wtool.open(made).tensors)
    expected = wtool.open(FIXTURES / "topics-rnn.pth")["output.weight"].load()
    np.testing.assert_array_equal(reader.get_tensor("output/kernel"), expected.T)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        kernel = tf.compat.v1.get_variable("output/kernel", expected.T.shape)
        tf.compat.v1.train.Saver().restore(session, str(made))
        np.testing.assert_array_equal(session.run(kernel), expected.T)


def test_an_object_based_checkpoint_keeps_them_and_is_consumed(tmp_path: Path) -> None:
    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(tf.zeros((3, 2)), name="fc/kernel")

    fresh = tf.train.Checkpoint(model=Model()).write(str(tmp_path / "fresh"))
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"fc.weight": weight}, tmp_path / "fc.pth")
    (tmp_path / "fc.toml").write_text(
        '[mapping]\nname = "fc"\na = { framework = "torch" }\n'
        'b = { framework = "tensorflow" }\nnotes = ["kept"]\n'
        '[[rule]]\na = "fc.weight"\nb = "fc/kernel"\nop = "transpose"\n'
    )
    made = str(tmp_path / "made")
    wtool.convert(str(tmp_path / "fc.pth"), made, map=str(tmp_path / "fc.toml"), like=fresh)
    assert facts(made) == {"wtool.mapping": "fc", "wtool.notes": "kept"}
    model = Model()
    checkpoint = tf.train.Checkpoint(model=model)
    status = checkpoint.read(made)
    status.assert_consumed()
    status.assert_existing_objects_matched()
    np.testing.assert_array_equal(model.kernel.numpy(), weight.numpy().T)


def test_they_are_shown_and_survive_another_container_and_a_cast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.pth"
    expected = {name: text for name, text in FACTS.items() if name != "wtool.lossy"}
    wtool.convert(str(FIXTURES / "topics-rnn.weights.h5"), str(made), map=mapping(tmp_path))
    assert run(["ls", "--extras", str(made)]) == 0
    assert "wtool.mapping" in capsys.readouterr().out
    for step, name in enumerate(("a.safetensors", "b", "c.pth")):
        following = tmp_path / name
        wtool.convert(str(made), str(following))
        made = following
        assert facts(made) == expected, step
    half = tmp_path / "half.pth"
    wtool.cast(str(made), str(half), to="float16")
    assert facts(half) == expected
    shards = tmp_path / "shards.bin"
    wtool.convert(str(half), str(shards), shards=2)
    assert facts(tmp_path / "shards.bin.index.json") == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wtool.Mapping", "one"),
        ("wtool.map\0ping", "one"),
        ("wtool./../../mapping", "one"),
        ("wtool." + "n" * 70_000, "one"),
        ("wtool.mapping", "one\0"),
        ("wtool.mapping", "m" * ((1 << 20) + 1)),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "weights.h5", "index"])
def test_texts_that_a_container_might_not_give_back_are_refused_as_a_loss(
    name: str, text: str, suffix: str, tmp_path: Path
) -> None:
    """They have wtool's prefix, but wtool did not write them."""
    template = FIXTURES / "digits-cnn.weights.h5"
    values = {tensor.name: tensor.load() for tensor in wtool.open(template)}
    source = tmp_path / "source.safetensors"
    save_file(values, source, metadata={name: text, "wtool.notes": "kept"})
    options = {"template": str(template)} if suffix == "weights.h5" else {}
    made = tmp_path / f"made.{suffix}"
    with pytest.raises(LossError, match="metadata"):
        wtool.convert(str(source), str(made), **options)
    wtool.convert(str(source), str(made), allow=["metadata"], **options)
    assert facts(made) == {"wtool.notes": "kept"}


def test_bytes_that_are_no_text_are_no_fact() -> None:
    """A TensorFlow index may hold any bytes; records and attributes hold UTF-8."""
    checkpoint = wtool.open(FIXTURES / "digits-cnn.pth")
    texts = {"wtool.mapping": "caf\udce9", "wtool.notes": "caf\u00e9"}
    found = facts_of(dataclasses.replace(checkpoint, metadata=texts))
    assert found == {"wtool.notes": "caf\u00e9"}


@pytest.mark.parametrize("suffix", ["pth", "weights.h5", "index"])
def test_the_same_conversion_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        target = tmp_path / folder / f"model.{suffix}"
        keras_file = str(FIXTURES / "topics-rnn.weights.h5")
        source = keras_file if suffix == "pth" else str(FIXTURES / "topics-rnn.pth")
        framework = "tensorflow" if suffix == "index" else "keras"
        like = keras_file if suffix == "weights.h5" else None
        text = mapping(tmp_path, framework)
        wtool.convert(
            source, str(target), to="torch" if suffix == "pth" else framework, map=text, like=like
        )
        assert facts(target)["wtool.mapping"] == "topics"
        made.append(target.read_bytes())
    assert made[0] == made[1]


def test_hugging_face_is_told_whose_names_a_safetensors_file_has(tmp_path: Path) -> None:
    from torchvision_on_cpu import load_torchvision

    load_torchvision()
    from transformers.modeling_utils import load_state_dict

    topics = mapping(tmp_path)
    source, made = str(FIXTURES / "topics-rnn.weights.h5"), tmp_path / "made.safetensors"
    ours, via = str(tmp_path / "ours.safetensors"), str(tmp_path / "via.pth")
    wtool.convert(source, str(made), map=topics, to="torch")
    # A file that says it is TensorFlow's becomes PyTorch's, and a PyTorch file keeps its facts.
    wtool.convert(str(FIXTURES / "topics-rnn.pth"), ours, map=topics, to="keras")
    assert wtool.open(ours).metadata["format"] == "tf"
    wtool.convert(ours, via, map=topics, to="torch")
    for files in ((ours, {"map": topics, "to": "torch"}), (via, {})):
        wtool.convert(files[0], str(made), force=True, **files[1])
        assert wtool.open(made).metadata["format"] == "pt"
        assert load_state_dict(str(made)).keys() == wtool.open(made).tensors.keys()
    index = wtool.convert(via, str(tmp_path / "s.safetensors"), shards=2)
    for row in index.rows[:-1]:
        load_state_dict(row["file"] if Path(row["file"]).exists() else str(tmp_path / row["file"]))
