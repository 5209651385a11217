"""The TensorFlow writer against TensorFlow: readers, savers, restore, and SaveV2's own bytes."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from writer_models import codes_of, decoded, model, strided, views

from wtool.checkpoint import Tensor, build
from wtool.dtypes import DTYPES
from wtool.errors import LossError, UnsupportedError
from wtool.extents import Decoded
from wtool.formats import Probe
from wtool.formats.tf_bundle import open_file
from wtool.writers import plan, save

NUMBERS = [
    dtype
    for dtype in DTYPES.values()
    if dtype.tensorflow_enum is not None and dtype.kind not in ("string", "opaque")
]
# TensorFlow reads these, but its Python gives no array of them to compare.
QUANTISED = {"qint8", "quint8", "qint32", "qint16", "quint16"}


def restored(prefix, key: str, dtype) -> np.ndarray:
    """The tensor as TensorFlow restores it, its checksum checked."""
    (value,) = tf.raw_ops.RestoreV2(
        prefix=str(prefix),
        tensor_names=[key],
        shape_and_slices=[""],
        dtypes=[tf.dtypes.as_dtype(dtype.tensorflow_enum)],
    )
    return value


def strings(name: str, values: np.ndarray) -> Tensor:
    return Tensor(name, name, Decoded(DTYPES["string"], values.shape, lambda: values))


def test_every_number_type_comes_back_from_tensorflow_bit_for_bit(tmp_path):
    values = {dtype.name: codes_of(dtype, 21).reshape(3, 7) for dtype in NUMBERS}
    tensors = []
    for dtype in NUMBERS:
        tensors.append(strided(f"raw/{dtype.name}", values[dtype.name], dtype))
        tensors.append(decoded(f"computed/{dtype.name}", values[dtype.name], dtype))
    save(model(tensors), tmp_path / "ckpt", container="tensorflow")
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt"))
    shapes = reader.get_variable_to_shape_map()
    assert shapes == {tensor.name: [3, 7] for tensor in tensors}
    for tensor in tensors:
        dtype = tensor.dtype
        as_tensorflow = tf.dtypes.as_dtype(dtype.tensorflow_enum)
        assert reader.get_variable_to_dtype_map()[tensor.name] == as_tensorflow
        value = restored(tmp_path / "ckpt", tensor.name, dtype)
        if dtype.name in QUANTISED:
            value = tf.bitcast(value, getattr(tf, dtype.carrier_name))
        found = value.numpy()
        assert found.tobytes() == values[dtype.name].tobytes(), tensor.name


def test_strings_scalars_and_empty_tensors_come_back_from_tensorflow(tmp_path):
    texts = np.empty((2, 2), object)
    texts[:] = [[b"", b"a" * 300], ["é".encode(), b"\x00\xff"]]
    one = np.array(b"alone", object)
    tensors = [
        strings("texts", texts),
        strings("one", one),
        strings("no_text", np.zeros((0, 2), object)),
        strided("scalar", np.asarray(np.float32(2.5))),
        strided("empty", np.zeros((0, 4), np.int16)),
        strided("big", np.arange(500_000)),
    ]
    save(model(tensors), tmp_path / "ckpt.index")
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt"))
    assert sorted(reader.get_variable_to_shape_map()) == sorted(t.name for t in tensors)
    assert reader.get_tensor("texts").tolist() == texts.tolist()
    assert reader.get_tensor("one") == b"alone"
    assert reader.get_tensor("no_text").shape == (0, 2)
    assert reader.get_tensor("scalar") == 2.5
    assert reader.get_tensor("scalar").shape == ()
    assert reader.get_tensor("empty").shape == (0, 4)
    assert np.array_equal(reader.get_tensor("big"), np.arange(500_000))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 3000, 9000])
def test_the_files_are_those_that_savev2_writes(tmp_path, count):
    arrays = {
        f"layer_{i}/{'kernel' if i % 3 else 'bias'}/é": np.full((i % 3, 2), i, np.float32)
        for i in range(count)
    }
    arrays = dict(sorted(arrays.items(), key=lambda item: item[0].encode()))
    save(model(arrays), tmp_path / "ours", container="tensorflow")
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=list(arrays),
        shape_and_slices=[""] * count,
        tensors=list(arrays.values()),
    )
    for ending in (".index", ".data-00000-of-00001"):
        ours, theirs = (tmp_path / (name + ending) for name in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_v1_saver_restores_by_name(tmp_path):
    arrays = {"d1/kernel": np.arange(6.0).reshape(2, 3), "d1/bias": np.ones(3)}
    save(model(arrays), tmp_path / "ckpt", container="tensorflow", state=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            name: tf.compat.v1.get_variable(name, array.shape, tf.float64)
            for name, array in arrays.items()
        }
        path = tf.train.latest_checkpoint(str(tmp_path))
        assert path == str(tmp_path / "ckpt")
        tf.compat.v1.train.Saver().restore(session, path)
        for name, variable in variables.items():
            assert np.array_equal(session.run(variable), arrays[name])


@pytest.mark.parametrize("limit", [1, 100, 1000, 10**6])
def test_several_data_files_load(tmp_path, limit):
    arrays = {f"v{i}": np.arange(i * 10, dtype=np.float32) for i in range(12)}
    written = save(model(arrays), tmp_path / "c", container="tensorflow", max_shard_bytes=limit)
    assert written[-1].endswith("c.index")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(map(os.path.basename, written))
    reader = tf.train.load_checkpoint(str(tmp_path / "c"))
    for name, array in arrays.items():
        assert np.array_equal(reader.get_tensor(name), array)


class Net(tf.Module):
    def __init__(self, value: float):
        super().__init__()
        self.w = tf.Variable(tf.fill((2, 3), value), name="kernel")
        self.list = [tf.Variable(value, name="scale"), tf.Variable([b"x", b"y"])]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    tf.train.Checkpoint(net=Net(1.0), step=tf.Variable(3, dtype=tf.int64)).save(str(folder / "t"))
    return folder / "t-1"


def test_a_template_gives_a_checkpoint_that_restores_completely(tmp_path, template):
    source = open_file(Probe(template))
    new = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(7)}
    tensors = [strided(t.name, np.asarray(new[t.name])) if t.name in new else t for t in source]
    changed = build("memory", "memory", tensors)
    save(changed, tmp_path / "out", container="tensorflow", template=template)
    net, step = Net(0.0), tf.Variable(0, dtype=tf.int64)
    status = tf.train.Checkpoint(net=net, step=step).restore(str(tmp_path / "out"))
    status.assert_consumed()
    assert np.array_equal(net.w.numpy(), new["kernel"])
    assert net.list[0].numpy() == 7
    assert step.numpy() == 3
    assert net.list[1].numpy().tolist() == [b"x", b"y"]
    read = Net(0.0)
    tf.train.Checkpoint(net=read).read(str(tmp_path / "out")).expect_partial()
    assert np.array_equal(read.w.numpy(), new["kernel"])


def test_copying_a_checkpoint_onto_its_own_template_gives_the_same_values_and_graph(
    tmp_path, template
):
    source = open_file(Probe(template))
    save(source, tmp_path / "out", container="tensorflow", template=template)
    before = tf.train.load_checkpoint(str(template))
    after = tf.train.load_checkpoint(str(tmp_path / "out"))
    assert before.get_variable_to_shape_map() == after.get_variable_to_shape_map()
    for key in before.get_variable_to_shape_map():
        assert np.array_equal(before.get_tensor(key), after.get_tensor(key))


def test_values_that_an_export_stores_twice_are_new_under_both_keys(tmp_path):
    fixture = Path(__file__).parents[2] / "fixtures" / "digits-cnn-savedmodel"
    source = open_file(Probe(fixture))
    duplicates = source.extras["duplicates"]
    changed = [strided(t.name, t.load() + 1) if t.dtype.name == "float32" else t for t in source]
    save(build("m", "m", changed), tmp_path / "out", container="tensorflow", template=fixture)
    after = tf.train.load_checkpoint(str(tmp_path / "out"))
    before = tf.train.load_checkpoint(str(fixture / "variables" / "variables"))
    assert after.get_variable_to_shape_map() == before.get_variable_to_shape_map()
    floats = [k for k, t in before.get_variable_to_dtype_map().items() if t == tf.float32]
    assert len(set(duplicates) & set(floats)) > 3
    for key in floats:
        assert np.array_equal(after.get_tensor(key), before.get_tensor(key) + 1), key


def test_what_a_template_lacks_or_keeps_is_a_loss_by_name(tmp_path, template):
    partial = model({"kernel": np.ones((2, 3), np.float32), "other": np.ones(1)})
    with pytest.raises(LossError) as error:
        save(partial, tmp_path / "out", container="tensorflow", template=template)
    assert "'scale'" in str(error.value)
    assert "unplaced 'other'" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    allow = {"template", "unplaced"}
    save(partial, tmp_path / "out", container="tensorflow", template=template, allow=allow)
    net = Net(0.0)
    tf.train.Checkpoint(net=net).restore(str(tmp_path / "out")).assert_existing_objects_matched()
    assert np.array_equal(net.w.numpy(), np.ones((2, 3)))
    assert net.list[0].numpy() == 1


def test_another_shape_or_type_than_the_templates_is_refused(tmp_path, template):
    for wrong in (np.ones((3, 2), np.float32), np.ones((2, 3), np.float64)):
        with pytest.raises(UnsupportedError, match="'kernel' is float32"):
            plan(
                model({"kernel": wrong}),
                tmp_path / "out",
                container="tensorflow",
                template=template,
            )


def test_ties_are_a_loss_unless_untied(tmp_path):
    storage = np.arange(6, dtype=np.float32)
    tied = model([views("a", storage, (6,)), views("b", storage, (6,))])
    with pytest.raises(LossError, match="ties 'b'"):
        save(tied, tmp_path / "ckpt", container="tensorflow")
    save(tied, tmp_path / "ckpt", container="tensorflow", untie=True)
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt"))
    assert np.array_equal(reader.get_tensor("a"), reader.get_tensor("b"))


def test_types_and_names_that_tensorflow_lacks_are_listed(tmp_path):
    tensors = [
        strided("half", codes_of(DTYPES["complex32"], 2), DTYPES["complex32"]),
        strided("six", codes_of(DTYPES["float6_e2m3fn"], 4), DTYPES["float6_e2m3fn"]),
        strided("", np.ones(1)),
        strided("\ud800", np.ones(1)),
    ]
    with pytest.raises(UnsupportedError) as error:
        plan(model(tensors), tmp_path / "c", container="tensorflow")
    assert "complex32: 'half'" in str(error.value)
    assert "float6_e2m3fn: 'six'" in str(error.value)
    assert "a name that no key can be" in str(error.value)
