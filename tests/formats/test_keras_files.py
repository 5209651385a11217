"""Keras's HDF5 files, archives and shards against Keras 3 and tf_keras, which write them here."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
import pytest
import tf_keras

import wtool
from wtool.checkpoint import Checkpoint
from wtool.errors import InputError, MalformedInput, MissingInput, UnsafeInput, UsageError
from wtool.formats import Probe, find_format, open_checkpoint


def build(framework: Any) -> Any:
    """Every kind of layer once, named; trained for a step so that the optimizer has state."""
    layers = framework.layers
    image = framework.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="c1")(image)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.DepthwiseConv2D(3, name="dw")(x)
    x = layers.SeparableConv2D(5, 1, name="sep")(x)
    x = layers.Conv2DTranspose(4, 2, name="up")(x)
    x = layers.PReLU(name="act")(x)
    x = layers.BatchNormalization(name="bn_no_scale", scale=False)(x)
    x = layers.Reshape((-1, 4), name="flat")(x)
    x = layers.LayerNormalization(name="ln", center=False)(x)
    x = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    x = layers.Bidirectional(layers.LSTM(3, name="inner"), name="bi")(x)
    x = layers.Reshape((2, 3), name="pair")(x)
    x = layers.GRU(3, name="gru")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Dense(2, name="d1")(x)
    token = framework.Input((2,), name="token")
    y = layers.Flatten(name="fl")(layers.Embedding(7, 3, name="emb")(token))
    inside = framework.Sequential([layers.Dense(2, name="d2")], name="nested")
    model = framework.Model([image, token], layers.Add(name="sum")([x, inside(y)]), name="net")
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    model.fit(
        [rng.normal(size=(4, 8, 8, 3)), rng.integers(0, 7, (4, 2))], np.zeros((4, 2)), verbose=0
    )
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape).astype("float32"))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def keras3(folder: Path) -> Any:
    model = build(keras)
    model.save(folder / "k3.h5")
    model.save_weights(folder / "k3.weights.h5")
    model.save_weights(folder / "k3.weights.json", max_shard_size=1e-6)
    model.save(folder / "k3.keras")
    return model


@pytest.fixture(scope="module")
def keras2(folder: Path) -> Any:
    model = build(tf_keras)
    model.save(folder / "k2.h5")
    model.save_weights(folder / "k2-weights.h5", save_format="h5")
    model.save_weights(folder / "k2.weights.h5")
    model.save(folder / "k2.keras")
    return model


def keras3_weights(model: Any) -> dict[str, np.ndarray]:
    """Keras's own path of each variable, without the model's name."""
    return {v.path.removeprefix("net/"): np.asarray(v) for v in model.weights}


def values(checkpoint: Checkpoint, role: str | None = None) -> dict[str, np.ndarray]:
    return {t.name: t.load() for t in checkpoint if t.role == role}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


def assert_optimizer(checkpoint: Checkpoint, model: Any) -> None:
    """The optimizer's variables in its own order (a schedule of the rate aside)."""
    found = [t.load() for t in checkpoint if t.role == "optimizer"]
    variables = model.optimizer.variables
    expected = [np.asarray(v) for v in (variables() if callable(variables) else variables)]
    by_shape = sorted((v.shape, v.tobytes()) for v in expected if v.shape)
    assert sorted((v.shape, v.tobytes()) for v in found if v.shape) == by_shape


def test_a_keras3_legacy_file_has_names_order_and_values_of_the_model(
    keras3: Any, folder: Path
) -> None:
    checkpoint = open_checkpoint(folder / "k3.h5")
    assert checkpoint.format == "keras_h5"
    assert_same(values(checkpoint), keras3_weights(keras3))
    names = [t.name for t in checkpoint if t.role is None]
    by_layer = [v.path for layer in keras3.layers for v in legacy_order(layer)]
    assert names == [path.removeprefix("net/") for path in by_layer]
    assert_optimizer(checkpoint, keras3)
    assert checkpoint.metadata == {"keras_version": keras.__version__, "backend": "tensorflow"}
    assert json.loads(checkpoint.extras["model_config"])["class_name"] == "Functional"
    assert checkpoint["mha/query/kernel"].kind == "attention"
    assert checkpoint["c1/kernel"].kind == "conv"


def legacy_order(layer: Any) -> list[Any]:
    """The order in which the legacy format lists a layer's weights: trainable ones first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


@pytest.mark.parametrize("name", ["k2.h5", "k2-weights.h5"])
def test_a_keras2_legacy_file_has_names_order_and_values_of_the_model(
    name: str, keras2: Any, folder: Path
) -> None:
    checkpoint = open_checkpoint(folder / name)
    ours = [t for t in checkpoint if t.role is None]
    expected = [v for layer in keras2.layers for v in legacy_order(layer)]
    assert [t.key.removeprefix("model_weights/").split("/", 1)[1] for t in ours] == [
        v.name for v in expected
    ]
    for tensor, variable in zip(ours, expected, strict=True):
        assert variable.name.removesuffix(":0").endswith(tensor.name)
        assert tensor.load().tobytes() == variable.numpy().tobytes()
    if name == "k2.h5":
        assert_optimizer(checkpoint, keras2)


def test_a_keras3_weights_file_has_the_models_names_where_class_and_count_tell(
    keras3: Any, folder: Path
) -> None:
    checkpoint = open_checkpoint(folder / "k3.weights.h5")
    assert checkpoint.format == "keras_weights_h5"
    expected = keras3_weights(keras3)
    # Without a configuration the one variable beside a BatchNormalization's statistics, or of a
    # LayerNormalization, may be scale or shift.
    expected["bn_no_scale/0"] = expected.pop("bn_no_scale/beta")
    expected["ln/0"] = expected.pop("ln/gamma")
    # The forward and backward cells, and the nested model, go by the names of their layers.
    assert_same(values(checkpoint), expected)
    assert_optimizer(checkpoint, keras3)
    assert checkpoint["mha/query/kernel"].key == "layers/multi_head_attention/query_dense/vars/0"


def test_a_keras3_archive_has_all_names_and_the_classes_of_its_configuration(
    keras3: Any, folder: Path
) -> None:
    checkpoint = open_checkpoint(folder / "k3.keras")
    assert checkpoint.format == "keras_archive"
    assert_same(values(checkpoint), keras3_weights(keras3))
    assert checkpoint.metadata["keras_version"] == keras.__version__
    kinds = {t.layer: t.kind for t in checkpoint if t.role is None}
    assert kinds["bn1"] == "norm"
    assert kinds["dw"] == "depthwise"
    assert kinds["up"] == "transposed_conv"
    assert kinds["emb"] == "embedding"
    assert kinds["mha/query"] == "attention"
    assert kinds["nested/d2"] == "dense"
    assert kinds["gru/gru_cell"] == "recurrent"


def test_a_deflated_archive_reads_the_same(keras3: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deflated.keras"
    with (
        zipfile.ZipFile(folder / "k3.keras") as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("assets/words.txt", "x")
    checkpoint = open_checkpoint(path)
    assert_same(values(checkpoint), keras3_weights(keras3))
    assert checkpoint.notes == ("1 other member is not read (assets)",)


def test_keras3_shards_read_as_one_model(keras3: Any, folder: Path) -> None:
    path = folder / "k3.weights.json"
    assert find_format(Probe(path)).name == "keras_shards"
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.files) > 3
    whole = open_checkpoint(folder / "k3.weights.h5")
    assert list(checkpoint.tensors) == [t.name for t in whole]
    assert_same(values(checkpoint), values(whole))


def test_a_keras2_weights_file_has_names_after_classes(keras2: Any, folder: Path) -> None:
    checkpoint = open_checkpoint(folder / "k2.weights.h5")
    layer = keras2.get_layer("c1")
    assert checkpoint["conv2d/kernel"].load().tobytes() == layer.kernel.numpy().tobytes()
    found = sorted((t.shape, t.load().tobytes()) for t in checkpoint if t.role is None)
    assert found == sorted((tuple(v.shape), v.numpy().tobytes()) for v in keras2.weights)
    assert_optimizer(checkpoint, keras2)
    assert {t.role for t in checkpoint if t.key.startswith("metrics/")} <= {"other"}


def test_a_keras2_archive_has_the_layers_names_from_its_configuration(
    keras2: Any, folder: Path
) -> None:
    checkpoint = open_checkpoint(folder / "k2.keras")
    for name in ("c1/kernel", "bn1/moving_mean", "d1/bias", "emb/embeddings"):
        layer, variable = name.split("/")
        expected = getattr(keras2.get_layer(layer), variable).numpy()
        assert checkpoint[name].load().tobytes() == expected.tobytes()
    nested = keras2.get_layer("nested").get_layer("d2").kernel.numpy()
    assert checkpoint["nested/d2/kernel"].load().tobytes() == nested.tobytes()


def test_700_long_layer_names_in_split_attributes_keep_their_order(tmp_path: Path) -> None:
    names = [f"{'a_rather_long_layer_name_' * 5}{index}" for index in range(700)]
    layers = [tf_keras.layers.Dense(1, name="first", input_shape=(1,))]
    layers += [tf_keras.layers.Activation("linear", name=name) for name in names]
    layers += [tf_keras.layers.Dense(1, name="last")]
    path = tmp_path / "x.h5"
    tf_keras.Sequential(layers).save_weights(path, save_format="h5")
    with h5py.File(path) as file:
        assert "layer_names1" in file.attrs
    expected = ["first/kernel", "first/bias", "last/kernel", "last/bias"]
    assert list(open_checkpoint(path).tensors) == expected


class Many(keras.layers.Layer):
    """A layer of twelve variables, whose numbers sort otherwise as text."""

    def build(self, shape: Any) -> None:
        for index in range(12):
            self.add_weight(name=f"w{index}", shape=(index + 1,), initializer="ones")


def test_more_than_ten_variables_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), Many(name="many")])
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == [f"many/{index}" for index in range(12)]
    assert [t.shape for t in checkpoint] == [(index + 1,) for index in range(12)]


def test_bfloat16_is_known_by_its_mark_and_noted_where_there_is_none(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((3,), dtype="bfloat16"), keras.layers.Dense(2, dtype="bfloat16", name="d")]
    )
    expected = np.asarray(model.layers[0].kernel).tobytes()
    model.save_weights(tmp_path / "x.weights.h5")
    marked = open_checkpoint(tmp_path / "x.weights.h5")["d/kernel"]
    assert (marked.dtype.name, marked.load().tobytes()) == ("bfloat16", expected)
    model.save(tmp_path / "x.h5")
    checkpoint = open_checkpoint(tmp_path / "x.h5")
    bare = checkpoint["d/kernel"]
    assert (bare.dtype.name, bare.load().tobytes()) == ("bits16", expected)
    assert "stored as bare bytes, perhaps bfloat16" in checkpoint.notes[-1]


def test_layers_of_one_name_keep_their_stored_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        for group in ("layers/dense", "layers/dense_1"):
            file[f"{group}/vars/0"] = np.ones(2, "f4")
            file[f"{group}/vars"].attrs["name"] = "same"
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["layers/dense/vars/0", "layers/dense_1/vars/0"]
    assert checkpoint.notes == (
        "2 tensors keep their stored paths: the names of their layers are not unique",
    )


@pytest.fixture
def legacy(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["d"]
        file["d/kernel:0"] = np.ones(3, "f4")
        file["d"].attrs["weight_names"] = ["kernel:0"]
        yield file


def test_a_short_weight_name_gets_its_layers_name(legacy: h5py.File) -> None:
    path = legacy.filename
    legacy.close()
    assert list(open_checkpoint(path).tensors) == ["d/kernel"]


@pytest.mark.parametrize(
    ("group", "attribute", "names", "kind", "message"),
    [
        ("d", "weight_names", ["../d/kernel:0"], UnsafeInput, "leads out of its group"),
        ("d", "weight_names", ["/d/kernel:0"], UnsafeInput, "leads out of its group"),
        ("/", "layer_names", ["../x"], UnsafeInput, "leads out of its group"),
        ("/", "layer_names", ["x"], MalformedInput, "layer_names lists 'x', which is not there"),
        ("d", "weight_names", ["x"], MalformedInput, "lists 'x', which is not there"),
        ("d", "weight_names", [7, 8], MalformedInput, "attribute 'weight_names' is not text"),
        ("d", "weight_names", ["kernel:0"] * 2, MalformedInput, "two tensors have the same name"),
    ],
)
def test_names_in_attributes_stay_in_their_group(
    group: str,
    attribute: str,
    names: list[Any],
    kind: type[InputError],
    message: str,
    legacy: h5py.File,
) -> None:
    legacy[group].attrs[attribute] = names
    path = legacy.filename
    legacy.close()
    with pytest.raises(kind, match=message):
        open_checkpoint(path)


def test_a_layer_without_a_list_of_weights_is_refused(legacy: h5py.File) -> None:
    del legacy["d"].attrs["weight_names"]
    path = legacy.filename
    legacy.close()
    with pytest.raises(MalformedInput, match="group 'd' has no weight_names"):
        open_checkpoint(path)


def test_datasets_that_no_list_names_are_noted(legacy: h5py.File) -> None:
    legacy["d/other"] = np.ones(2)
    path = legacy.filename
    legacy.close()
    assert open_checkpoint(path).notes == (
        "left out, in no list of weight_names: 1 dataset, first 'd/other'",
    )


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        ({"/layers/dense/vars": ["../x.weights.h5"]}, UnsafeInput, "not a plain file name"),
        ({"/layers/dense/vars": [7, "x.weights.h5"]}, MalformedInput, "not a list of file names"),
        ({"/layers/dense/vars": "gone.weights.h5"}, MissingInput, "'gone.weights.h5'"),
        ({"/layers/x/vars": "x.weights.h5"}, MalformedInput, "without the group 'layers/x/vars'"),
    ],
)
def test_a_broken_keras_index_is_refused(
    index: dict[str, Any], kind: type[InputError], message: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones(2)
    path = tmp_path / "x.weights.json"
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(kind, match=message):
        open_checkpoint(path)


def test_a_branch_cannot_be_chosen(keras3: Any, folder: Path) -> None:
    for name in ("k3.h5", "k3.weights.h5", "k3.keras", "k3.weights.json"):
        with pytest.raises(UsageError, match="has no branches"):
            open_checkpoint(folder / name, root="model")


@pytest.mark.parametrize("name", ["k3.h5", "k3.weights.h5", "k3.keras", "k2.h5", "k2.keras"])
def test_both_kernels_of_a_separable_layer_have_the_units_of_their_own_kind(
    keras3, keras2, folder, name
):
    """A depthwise kernel has a unit a channel; it was taken for one of a convolution."""
    rows = {row["name"]: row for row in wtool.stats(str(folder / name), units=True).rows}
    facts = {part: rows[f"sep/{part}_kernel"] for part in ("depthwise", "pointwise")}
    assert {part: (row["kind"], row["axis"], row["units"]) for part, row in facts.items()} == {
        "depthwise": ("depthwise", 2, 4),
        "pointwise": ("conv", 3, 5),
    }


def test_a_dead_head_of_attention_is_counted_by_its_outputs(keras3, folder, tmp_path):
    layer = keras3.get_layer("mha").query_dense
    kernel = layer.kernel.numpy()  # (4, 2 heads, 3)
    layer.kernel.assign(kernel * np.array([1, 0], np.float32)[:, None])
    keras3.save_weights(tmp_path / "m.weights.h5")
    layer.kernel.assign(kernel)
    rows = {row["name"]: row for row in wtool.stats(tmp_path / "m.weights.h5", units=True).rows}
    row = rows["mha/query/kernel"]
    assert (row["axis"], row["units"], row["dead"]) == ([1, 2], 6, 3)
