"""The Keras writer against Keras 3, Keras 2 and h5py: a model loads what was written."""

from __future__ import annotations

import os
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import tf_keras
from writer_models import decoded, model, strided

import wtool
from wtool.checkpoint import build
from wtool.cli import run
from wtool.errors import LossError, MalformedInput, UnsupportedError, UsageError
from wtool.formats import Probe
from wtool.formats.keras_h5 import open_file as open_legacy
from wtool.formats.keras_weights_h5 import open_file as open_weights
from wtool.writers import plan, save


def network(library, seed: int):
    # Names count up within a session; models in different processes have the same.
    library.backend.clear_session()
    library.utils.set_random_seed(seed)
    net = library.Sequential(
        [
            library.layers.Input((8, 8, 1)),
            library.layers.Conv2D(3, 3, name="first"),
            library.layers.BatchNormalization(name="norm"),
            library.layers.Flatten(),
            library.layers.Dense(4, name="last"),
        ]
    )
    net.compile("adam", "mse")
    net.fit(np.ones((2, 8, 8, 1)), np.ones((2, 4)), verbose=0)
    return net


@pytest.fixture(scope="module")
def networks():
    return {library: [network(library, seed) for seed in (1, 2)] for library in (keras, tf_keras)}


CASES = [
    (keras, "m.weights.h5", open_weights, "save_weights"),
    (keras, "m.h5", open_legacy, "save"),
    (tf_keras, "m.weights.h5", open_weights, "save_weights"),
    (tf_keras, "w.h5", open_legacy, "save_weights"),
    (tf_keras, "m.h5", open_legacy, "save"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "name", "open_file", "how"), CASES)
def test_a_model_loads_the_values_that_were_put_into_its_template(
    tmp_path, networks, library, name, open_file, how
):
    first, second = networks[library]
    for folder, net in (("template", first), ("source", second)):
        (tmp_path / folder).mkdir()
        getattr(net, how)(str(tmp_path / folder / name))
    template, source = tmp_path / "template" / name, tmp_path / "source" / name
    # The source's bytes are not copied: its values come as arrays, transposed in memory.
    tensors = [decoded(t.name, np.array(t.load(), order="F")) for t in open_file(Probe(source))]
    save(model(tensors), tmp_path / name, template=template, untie=True)
    assert contents(tmp_path / name) == contents(source) | {
        key: value for key, value in contents(template).items() if "@" in key
    }
    target = network(library, 3)
    target.load_weights(str(tmp_path / name))
    for a, b in zip(target.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    save(model(tensors), tmp_path / f"again-{name}", template=template, untie=True)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def contents(path) -> dict[str, object]:
    """Type, shape and bytes of each dataset, and each attribute as text."""
    found: dict[str, object] = {}

    def visit(name, item):
        found.update({f"{name}@{key}": str(value) for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = (str(item.dtype), item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


def weights_file(path, **datasets) -> None:
    """A file like Keras 3's with one layer; datasets by number, as h5py keywords."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        for number, options in enumerate(datasets.values()):
            marker = options.pop("marker", None)
            dataset = group.create_dataset(str(number), **options)
            if marker:
                dataset.attrs["dtype"] = marker


def test_chunked_compressed_big_endian_and_unwritten_datasets_are_filled(tmp_path):
    template = tmp_path / "t.weights.h5"
    zeros = np.zeros((40, 50), np.float32)
    weights_file(
        template,
        chunked={"data": zeros, "chunks": (7, 9)},
        packed={"data": zeros, "chunks": (7, 9), "compression": "gzip", "shuffle": True},
        big={"data": zeros, "dtype": ">f4"},
        late={"shape": (40, 50), "dtype": "<f4"},
        plain={"data": zeros},
        scalar={"data": np.float32(0)},
        half={"data": np.zeros(5, "V2"), "marker": "bfloat16"},
        half_chunked={"data": np.zeros(5, "V2"), "chunks": (2,), "marker": "bfloat16"},
        empty={"shape": (0, 3), "dtype": "<f4"},
    )
    slots = list(open_weights(Probe(template)))
    rng = np.random.default_rng(0)
    tensors = []
    for slot in slots:
        values = rng.standard_normal(slot.shape).astype(np.float32)
        kind = ml_dtypes.bfloat16 if slot.dtype.name == "bfloat16" else np.float32
        tensors.append(strided(slot.name, np.asarray(values, kind)))
    assert sum(tensor.dtype.name == "bfloat16" for tensor in tensors) == 2
    save(model(tensors), tmp_path / "m.weights.h5", template=template)
    with h5py.File(tmp_path / "m.weights.h5") as file, h5py.File(template) as before:
        for number, tensor in enumerate(tensors):
            dataset = file[f"layers/dense/vars/{number}"]
            old = before[f"layers/dense/vars/{number}"]
            assert (dataset.dtype, dataset.chunks, dataset.compression) == (
                old.dtype,
                old.chunks,
                old.compression,
            )
            found = dataset[()]
            if tensor.dtype.name == "bfloat16":
                found = found.view(ml_dtypes.bfloat16)
            assert np.array_equal(found, tensor.load())


def test_a_checkpoint_saved_on_its_own_file_keeps_every_byte(tmp_path, networks):
    path = tmp_path / "m.weights.h5"
    networks[keras][0].save_weights(path)
    before = path.read_bytes()
    save(open_weights(Probe(path)), path, template=path, force=True)
    assert path.read_bytes() == before


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    template = tmp_path / "t.weights.h5"
    weights_file(template, a={"data": np.zeros((2, 3), "<f4")}, b={"data": np.zeros(3, "<f4")})
    first, second = open_weights(Probe(template))
    some = build("x", "x", [strided(first.name, np.ones((2, 3), np.float32))])
    with pytest.raises(LossError, match=f"template '{second.name}'"):
        save(some, tmp_path / "m.weights.h5", template=template)
    both = [strided(t.name, np.ones(t.shape, np.float32)) for t in (first, second)]
    with pytest.raises(LossError, match="unplaced 'more'"):
        save(model([*both, strided("more", np.ones(1))]), tmp_path / "m.h5", template=template)
    wrong = [both[0], strided(second.name, np.ones(4, np.float32))]
    with pytest.raises(UnsupportedError, match=r"float32 \[3\] there, float32 \[4\] here"):
        plan(model(wrong), tmp_path / "m.h5", template=template)
    with pytest.raises(UnsupportedError, match="none of the names"):
        plan(model({"x": np.ones(1)}), tmp_path / "m.h5", template=template)
    with pytest.raises(UsageError, match="template"):
        plan(model(both), tmp_path / "m.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["t.weights.h5"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_a_template_as_well(tmp_path, networks, method):
    first, second = networks[keras]
    first.save(tmp_path / "first.keras")
    second.save_weights(tmp_path / "second.weights.h5")
    with (
        zipfile.ZipFile(tmp_path / "first.keras") as source,
        zipfile.ZipFile(tmp_path / "template.keras", "w", method) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    before = (tmp_path / "template.keras").read_bytes()
    values = wtool.open(tmp_path / "second.weights.h5")
    save(values, tmp_path / "out.weights.h5", template=tmp_path / "template.keras")
    assert (tmp_path / "template.keras").read_bytes() == before
    loaded = keras.models.load_model(tmp_path / "first.keras")
    loaded.load_weights(tmp_path / "out.weights.h5")
    for found, expected in zip(loaded.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_the_weights_of_an_archive_are_taken_out_of_it(tmp_path, networks, capsys, monkeypatch):
    networks[keras][0].save(tmp_path / "m.keras")
    monkeypatch.chdir(tmp_path)
    words = ["convert", "m.keras", "out.weights.h5"]
    assert run(words) == 5
    assert "--drop-extras" in capsys.readouterr().err
    assert run([*words, "--drop-extras", "--allow", "metadata"]) == 0
    assert wtool.diff(wtool.open("m.keras"), wtool.open("out.weights.h5")).ok
    assert run(["convert", "out.weights.h5", "new.keras"]) == 2
    assert "--template MODEL.keras" in capsys.readouterr().err


def test_a_zip_file_that_is_no_archive_is_no_template(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(MalformedInput, match="zip file without"):
        plan(build("m", "test", []), tmp_path / "o.h5", template=tmp_path / "t.keras")
