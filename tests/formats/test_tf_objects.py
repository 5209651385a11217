"""Object-based TensorFlow checkpoints: names, roles, duplicates, and the ways to one."""

from __future__ import annotations

import math
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import wtool
from wtool.errors import InputError, MissingInput, UnsafeInput, UsageError
from wtool.formats import open_checkpoint

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def assert_equal_to_tensorflow(path, prefix):
    """Keys, shapes and values are TensorFlow's, duplicates included; returns the checkpoint."""
    checkpoint = open_checkpoint(path)
    reader = tf.train.load_checkpoint(str(prefix))
    shapes = reader.get_variable_to_shape_map()
    duplicates = checkpoint.extras.get("duplicates", {})
    assert sorted([tensor.key for tensor in checkpoint] + list(duplicates)) == sorted(shapes)
    for tensor in checkpoint:
        assert list(tensor.shape) == shapes[tensor.key]
        if tensor.dtype.kind == "opaque":
            continue
        expected, found = reader.get_tensor(tensor.key), tensor.load().tolist()
        assert found == (expected if isinstance(expected, bytes) else expected.tolist())
    for key, name in duplicates.items():
        assert reader.get_tensor(key).tolist() == checkpoint[name].load().tolist()
    return checkpoint


def roles(checkpoint):
    return {tensor.name: tensor.role for tensor in checkpoint}


def build(library):
    """A small network of `library`, compiled and trained one step."""
    layers = library.layers
    model = library.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="c1"),
            layers.BatchNormalization(name="bn"),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.Flatten(),
            layers.Dense(3, name="d1"),
        ],
        name="sequential",
    )
    model.compile("adam", "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    model.fit(rng.random((8, 8, 8, 1)), rng.random((8, 3)), verbose=0)
    return model


@pytest.fixture(scope="module")
def keras3():
    return build(keras)


@pytest.fixture(scope="module")
def keras2():
    return build(tf_keras)


WEIGHTS = [
    "c1/kernel", "c1/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance",
    "dw/bias", "d1/kernel", "d1/bias",
]  # fmt: skip


def test_weights_that_keras_3_files_under_its_optimizer_are_weights(tmp_path, keras3):
    saved = tf.train.Checkpoint(model=keras3, optimizer=keras3.optimizer)
    prefix = saved.save(str(tmp_path / "m"))
    checkpoint = assert_equal_to_tensorflow(prefix, prefix)
    found = roles(checkpoint)
    for name in [f"sequential/{name}" for name in (*WEIGHTS, "dw/kernel")]:
        assert found.pop(name) is None
    assert found.pop("save_counter") == found.pop("_CHECKPOINTABLE_OBJECT_GRAPH") == "other"
    assert set(found.values()) == {"optimizer"}
    kernel = checkpoint["sequential/c1/kernel"]
    assert kernel.key == "optimizer/_trainable_variables/0" + SUFFIX
    assert kernel.path == ("model", "_functional", "_operations", "1", "_kernel")
    values = {variable.path: variable.numpy() for variable in keras3.variables}
    for path, value in values.items():
        if path in checkpoint.tensors:
            assert checkpoint[path].load().tolist() == value.tolist()


def test_moving_averages_of_the_weights_are_ema_copies(tmp_path):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, name="d")])
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    prefix = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / "m"))
    averages = [t.name for t in assert_equal_to_tensorflow(prefix, prefix) if t.role == "ema"]
    assert len(averages) == 2
    assert all(name.endswith("_average") for name in averages)


def test_an_export_of_keras_3_shows_each_weight_once(tmp_path, keras3):
    keras3.export(str(tmp_path / "e"), verbose=False)
    checkpoint = assert_equal_to_tensorflow(tmp_path / "e", tmp_path / "e/variables/variables")
    names = [t.name for t in checkpoint if t.role != "other"]
    assert sorted(names) == sorted(f"sequential/{name}" for name in (*WEIGHTS, "dw/kernel"))
    assert set(checkpoint.extras["duplicates"].values()) == set(names)
    assert "10 values are stored twice" in " ".join(checkpoint.notes)
    kinds = {t.name.removeprefix("sequential/"): t.kind for t in checkpoint}
    assert kinds["c1/kernel"] == kinds["c1/bias"] == "conv"
    assert kinds["dw/kernel"] == "depthwise"
    assert kinds["d1/kernel"] == "dense"
    assert kinds["bn/gamma"] == kinds["bn/moving_mean"] == "norm"


def test_layers_of_a_subclassed_model_that_share_names_keep_their_roles(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            layers = keras.layers
            self.first = keras.Sequential([layers.Dense(5), layers.BatchNormalization()])
            self.second = keras.Sequential([layers.Dense(5), layers.BatchNormalization()])
            self.head = layers.Dense(2)

        def call(self, x):
            return self.head(self.second(self.first(x)))

    model = Net()
    model(np.zeros((2, 6), "float32"))
    model.export(str(tmp_path / "e"), verbose=False)
    checkpoint = assert_equal_to_tensorflow(tmp_path / "e", tmp_path / "e/variables/variables")
    learned = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    kept = model.count_params() - learned
    totals = wtool.count(checkpoint).totals
    assert (totals["parameters"], totals["biases"], totals["buffers"]) == (learned, 22, kept)


def test_a_saved_model_of_keras_2_opens_by_directory_and_by_file(tmp_path, keras2):
    keras2.save(str(tmp_path / "s"), save_format="tf")
    checkpoint = assert_equal_to_tensorflow(tmp_path / "s", tmp_path / "s/variables/variables")
    kinds = {t.name: t.kind for t in checkpoint if t.role is None}
    assert set(kinds) == {*WEIGHTS, "dw/depthwise_kernel"}
    assert kinds["c1/kernel"] == kinds["c1/bias"] == "conv"
    assert kinds["dw/depthwise_kernel"] == kinds["dw/bias"] == "depthwise"
    assert kinds["d1/kernel"] == "dense"
    assert {kinds[f"bn/{name}"] for name in ("gamma", "beta", "moving_mean")} == {"norm"}
    assert roles(checkpoint)["keras_api/metrics/0/total"] == "other"
    for way in ("s/saved_model.pb", "s/variables", "s/variables/variables"):
        assert set(open_checkpoint(tmp_path / way).tensors) == set(checkpoint.tensors)


def test_weights_saved_by_keras_2_have_their_layer_names(tmp_path, keras2):
    keras2.save_weights(str(tmp_path / "dir/ckpt"))
    checkpoint = assert_equal_to_tensorflow(tmp_path / "dir", tmp_path / "dir/ckpt")
    named = {t.name: t for t in checkpoint if t.role is None}
    assert set(named) == {*WEIGHTS, "dw/depthwise_kernel"}
    assert named["c1/kernel"].key == "layer_with_weights-0/kernel" + SUFFIX
    values = {variable.name.removesuffix(":0"): variable.numpy() for variable in keras2.weights}
    for name, tensor in named.items():
        assert tensor.load().tolist() == values[name].tolist()


def test_slots_of_a_legacy_optimizer_are_optimizer_state(tmp_path):
    weight = tf.Variable([1.0, 2.0], name="w")
    optimizer = tf_keras.optimizers.legacy.Adam()
    optimizer.apply_gradients([(tf.constant([1.0, 1.0]), weight)])
    prefix = tf.train.Checkpoint(w=weight, opt=optimizer).write(str(tmp_path / "m"))
    checkpoint = assert_equal_to_tensorflow(prefix, prefix)
    found = roles(checkpoint)
    assert found.pop("w") is None
    assert found.pop("_CHECKPOINTABLE_OBJECT_GRAPH") == "other"
    assert set(found.values()) == {"optimizer"}
    assert checkpoint["Adam/w/m"].key == f"w/.OPTIMIZER_SLOT/opt/m{SUFFIX}"


def test_cycles_shared_objects_and_odd_names_are_walked(tmp_path):
    class Module(tf.Module):
        pass

    net = Module()
    net.me, net.part = net, Module()
    net.part.v = tf.Variable(3.0, name="same")
    net.w = tf.Variable([1.0], name="kern")
    net.other = net.part
    saved = tf.train.Checkpoint(net=net, step=tf.Variable(1, name="same"))
    saved.mapping = {"a/b": tf.Variable(1.5, name="same"), "c.d": tf.Variable(2.5, name="same")}
    prefix = saved.write(str(tmp_path / "m"))
    checkpoint = assert_equal_to_tensorflow(prefix, prefix)
    assert {t.name: t.path for t in checkpoint if t.dtype.kind != "string"} == {
        "kern": ("net", "w"),
        "mapping/a.Sb": ("mapping", "a/b"),
        "mapping/c..d": ("mapping", "c.d"),
        "net/part/v": ("net", "part", "v"),
        "step": ("step",),
    }


def test_save_adds_a_counter_and_write_does_not(tmp_path):
    saved = tf.train.Checkpoint(w=tf.Variable(1.0, name="w"))
    written = assert_equal_to_tensorflow(*[saved.write(str(tmp_path / "a"))] * 2)
    assert roles(written) == {"_CHECKPOINTABLE_OBJECT_GRAPH": "other", "w": None}
    counted = assert_equal_to_tensorflow(*[saved.save(str(tmp_path / "b"))] * 2)
    assert roles(counted) == roles(written) | {"save_counter": "other"}


def test_iterators_and_tables_are_inert_entries(tmp_path):
    iterator = iter(tf.data.Dataset.range(10))
    next(iterator)
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    table.insert(tf.constant(["x", "y"]), tf.constant([1, 2], tf.int64))
    prefix = tf.train.Checkpoint(it=iterator, table=table).write(str(tmp_path / "m"))
    checkpoint = assert_equal_to_tensorflow(prefix, prefix)
    state = checkpoint["it/.ATTRIBUTES/ITERATOR_STATE"]
    assert (state.dtype.name, state.role, state.nbytes > 0) == ("variant", "other", True)
    assert checkpoint["table/.ATTRIBUTES/table-keys"].role == "other"
    assert checkpoint["table/.ATTRIBUTES/table-values"].role == "other"
    assert sorted(checkpoint["table/.ATTRIBUTES/table-keys"].load()) == [b"x", b"y"]


@pytest.fixture
def managed(tmp_path):
    """A CheckpointManager's directory with three checkpoints: w = 1, 2, 3."""
    weight = tf.Variable(0.0, name="w")
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(w=weight), str(tmp_path / "d"), 5)
    for value in (1.0, 2.0, 3.0):
        weight.assign(value)
        manager.save()
    return tmp_path / "d"


@pytest.mark.parametrize(
    ("way", "value"),
    [
        ("", 3),
        ("checkpoint", 3),
        ("ckpt-2", 2),
        ("ckpt-1.index", 1),
        ("ckpt-2.data-00000-of-00001", 2),
    ],
)
def test_every_way_into_a_directory_leads_to_its_checkpoint(managed, way, value):
    assert open_checkpoint(os.path.join(managed, way))["w"].load() == value


def test_a_moved_directory_with_absolute_paths_opens_where_it_is(managed, tmp_path):
    state = managed / "checkpoint"
    state.write_text(f'model_checkpoint_path: "{managed}/ckpt-2"\n')
    assert open_checkpoint(managed)["w"].load() == 2
    shutil.move(managed, tmp_path / "elsewhere")
    moved = open_checkpoint(tmp_path / "elsewhere")
    assert moved["w"].load() == 2
    assert "the one of that name here was opened" in " ".join(moved.notes)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('model_checkpoint_path: "/etc/nothing"', UnsafeInput, "points out of its directory"),
        ('model_checkpoint_path: "../ckpt-1"', UnsafeInput, "points out of its directory"),
        ('model_checkpoint_path: "a/../../x"', UnsafeInput, "points out of its directory"),
        ('model_checkpoint_path: "ckpt-9"', MissingInput, "no such checkpoint"),
        ('model_checkpoint_path: "ckpt-1', InputError, "checkpoint state file broken"),
        ("model_checkpoint_path: 3", InputError, "is not a string"),
        ('# model_checkpoint_path\nother: "x"', InputError, "names no checkpoint"),
    ],
)
def test_a_state_file_that_leads_nowhere_is_an_error(managed, text, error, message):
    (managed / "checkpoint").write_text(text)
    with pytest.raises(error, match=message):
        open_checkpoint(managed)


def test_several_checkpoints_without_a_state_file_need_a_choice(managed):
    (managed / "checkpoint").unlink()
    with pytest.raises(UsageError, match="holds 3 TensorFlow checkpoints"):
        open_checkpoint(managed)
    for name in ("ckpt-1", "ckpt-2"):
        (managed / f"{name}.index").unlink()
    assert open_checkpoint(managed)["w"].load() == 3


def test_what_is_missing_is_named(managed):
    (managed / "ckpt-1.data-00000-of-00001").unlink()
    with pytest.raises(MissingInput, match=r"ckpt-1\.data-00000-of-00001.*data file 1 of 1"):
        open_checkpoint(managed / "ckpt-1")
    (managed / "ckpt-2.index").unlink()
    with pytest.raises(MissingInput, match=r"ckpt-2\.index: the checkpoint's index is missing"):
        open_checkpoint(managed / "ckpt-2.data-00000-of-00001")
    with pytest.raises(MissingInput, match="no such file, directory or checkpoint prefix"):
        open_checkpoint(managed / "ckpt-7")


def test_an_incomplete_saved_model_is_an_error_and_one_without_variables_is_not(tmp_path):
    module = tf.Module()
    module.w = tf.Variable([1.0], name="w")
    tf.saved_model.save(module, str(tmp_path / "s"))
    assert open_checkpoint(tmp_path / "s")["w"].load().tolist() == [1.0]
    shutil.rmtree(tmp_path / "s/variables")
    with pytest.raises(MissingInput, match=r"variables\.index"):
        open_checkpoint(tmp_path / "s")
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    shutil.rmtree(tmp_path / "empty/variables")
    empty = open_checkpoint(tmp_path / "empty")
    assert len(empty) == 0
    assert "no variables" in " ".join(empty.notes)
