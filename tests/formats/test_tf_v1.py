"""TensorFlow V1 checkpoints: every type, partitioned, in shards; equal to what was saved."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tf_files

from wtool.errors import InputError, MalformedInput, MissingInput
from wtool.formats import open_checkpoint

v1 = tf.compat.v1
TYPES = (
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool",
    "complex64", "complex128",
)  # fmt: skip


def values_of_every_type():
    rng = np.random.default_rng(0)
    values = {}
    for name in TYPES:
        value = rng.standard_normal((3, 50)) * 100
        if name.startswith("complex"):
            value = value + 1j * rng.standard_normal((3, 50))
        values[name] = (np.abs(value) if name[0] in "ub" else value).astype(name)
    values["bool"] = rng.random((3, 50)) > 0.5
    values["int64"] = rng.integers(-(2**63), 2**63 - 1, (3, 50))
    values["large"] = rng.standard_normal((1300, 1000)).astype("f4")
    values["large_ints"] = rng.integers(-(2**31), 2**31 - 1, 100000, "i4")
    values["scalar"], values["none"] = np.float32(3), np.zeros((0, 4), "f4")
    values["string"] = np.array([[b"a", b""], [b"xyz" * 100, b"\xff\x00-"]], object)
    return values


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(values, directory with "one", "sharded-00000-of-00001", "parts") written by a V1 Saver."""
    directory = tmp_path_factory.mktemp("v1")
    values = values_of_every_type()
    with tf.Graph().as_default(), v1.Session() as session:
        for name, value in values.items():
            dtype = tf.string if value.dtype == object else None
            v1.get_variable(name, initializer=value, dtype=dtype)
        session.run(v1.global_variables_initializer())
        for name, sharded in (("one", False), ("sharded", True)):
            saver = v1.train.Saver(write_version=1, sharded=sharded)
            saver.save(session, str(directory / name), write_meta_graph=False)
    return values, directory


def assert_holds(checkpoint, values):
    assert list(checkpoint.tensors) == sorted(values)
    assert checkpoint.format == "tensorflow_v1"
    for tensor in checkpoint:
        expected, found = np.asarray(values[tensor.name]), tensor.load()
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if tensor.dtype.name == "string":
            assert found.tolist() == expected.tolist()
        else:
            assert found.tobytes() == expected.tobytes(), tensor.name


def test_every_type_is_equal_to_what_was_saved(saved):
    values, directory = saved
    assert_holds(open_checkpoint(directory / "one"), values)


def test_a_sharded_checkpoint_opens_by_prefix_and_by_file(saved):
    values, directory = saved
    assert_holds(open_checkpoint(directory / "sharded"), values)
    assert_holds(open_checkpoint(directory / "sharded-00000-of-00001"), values)


def test_what_tensorflow_reads_itself_it_reads_alike(saved):
    _, directory = saved
    checkpoint = open_checkpoint(directory / "one")
    reader = tf.train.load_checkpoint(str(directory / "one"))
    assert reader.get_variable_to_shape_map() == {t.name: list(t.shape) for t in checkpoint}
    for name in ("float32", "float64", "int32", "large", "scalar"):
        assert reader.get_tensor(name).tobytes() == checkpoint[name].load().tobytes()


def test_large_floats_are_read_in_place(saved):
    _, directory = saved
    tensor = open_checkpoint(directory / "one")["large"]
    source, offset, nbytes = tensor.extent.raw_span()
    assert nbytes == tensor.nbytes == 5_200_000
    raw = bytearray(nbytes)
    source.read_into(offset, raw)
    assert bytes(raw) == tensor.load().tobytes()
    assert tensor.read(1234, 5678).tobytes() == tensor.load().reshape(-1)[1234:5678].tobytes()
    assert np.concatenate([b.copy() for b in tensor.blocks(65536)]).tobytes() == bytes(raw)


def test_partitioned_variables_are_whole(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        parts = v1.get_variable("p", (10, 4), partitioner=v1.fixed_size_partitioner(3))
        session.run(v1.global_variables_initializer())
        whole = session.run(tf.concat(list(parts), 0))
        v1.train.Saver(write_version=1).save(session, str(tmp_path / "m"), write_meta_graph=False)
    assert_holds(open_checkpoint(tmp_path / "m"), {"p": whole})


def saved_slice(name, extents, field, content):
    data = tf_files.nested(1, name) + tf_files.nested(2, tf_files.tensor_slice(extents))
    return tf_files.nested(2, data + tf_files.nested(3, tf_files.nested(field, content)))


def meta(name, dtype, sizes, slices):
    parts = tf_files.nested(1, name) + tf_files.nested(2, tf_files.shape(sizes))
    parts += tf_files.number(3, dtype)
    parts += b"".join(tf_files.nested(4, tf_files.tensor_slice(s)) for s in slices)
    return tf_files.nested(1, tf_files.nested(1, parts))


KEY = bytes.fromhex("00 77 00 01 01 01")  # the name "w", one dimension
VALUES = np.arange(4, dtype="<f4")


def shard(name_total, slices_of_file, path):
    """A V1 table with slices (start, length) of w = 0, 1, 2, 3."""
    listed = [(b"", meta(b"w", 1, (4,), [[s] for s in slices_of_file]))]
    for start, length in slices_of_file:
        content = VALUES[start : start + length].tobytes()
        key = KEY + bytes((0x80 + start, 0x80 + length))
        listed.append((key, saved_slice(b"w", [(start, length)], 5, content)))
    path = path.with_name(path.name + name_total)
    path.write_bytes(tf_files.table([listed]))
    return path


def test_slices_in_several_files_are_one_tensor(tmp_path):
    shard("-00000-of-00002", [(0, 1), (1, 2)], tmp_path / "m")
    last = shard("-00001-of-00002", [(3, 1)], tmp_path / "m")
    assert_holds(open_checkpoint(tmp_path / "m"), {"w": VALUES})
    last.unlink()
    with pytest.raises(MissingInput, match=r"m-00001-of-00002: shard 2 of 2 is missing"):
        open_checkpoint(tmp_path / "m")


def test_slices_that_leave_a_hole_or_overlap_are_refused(tmp_path):
    shard("", [(0, 1), (3, 1)], tmp_path / "hole")
    with pytest.raises(MalformedInput, match="slices do not cover the tensor"):
        open_checkpoint(tmp_path / "hole")
    shard("", [(0, 2), (1, 2)], tmp_path / "over")
    with pytest.raises(MalformedInput, match="slices overlap"):
        open_checkpoint(tmp_path / "over")


@pytest.mark.parametrize(
    ("dtype", "field", "content", "message"),
    [
        (1, 5, VALUES[:3].tobytes(), "another number of values"),
        (1, 5, VALUES.tobytes()[:15], "packed values end within one"),
        (1, 6, VALUES.tobytes(), "another number of values"),
        (3, 7, b"\x01\x02\x03", "another number of values"),
        (3, 7, b"\x01\x02\x03\x84", "varint runs past its end"),
        (3, 7, b"\x01\x02\x03" + b"\xff" * 10 + b"\x01", "varint too long"),
        (9, 10, b"\x01\x02\x03" + b"\xff" * 9 + b"\x02", "does not fit in 64 bits"),
        (4, 7, b"\x01\x02\x03\x80\x02", "out of the range of its type"),
        (19, 13, b"\x01\x02\x03\x80\x80\x04", "out of the range of its type"),
    ],
)
def test_values_that_are_not_those_of_the_tensor_are_refused(
    tmp_path, dtype, field, content, message
):
    listed = [
        (b"", meta(b"w", dtype, (4,), [[(0, 4)]])),
        (KEY + b"\x80\x84", saved_slice(b"w", [(0, 4)], field, content)),
    ]
    (tmp_path / "m").write_bytes(tf_files.table([listed]))
    with pytest.raises(MalformedInput, match=message):
        open_checkpoint(tmp_path / "m")["w"].load()


@pytest.mark.parametrize(
    ("dtype", "sizes", "message"),
    [
        (14, (4,), "type that a V1 checkpoint cannot hold: found bfloat16"),
        (77, (4,), "unknown element type"),
        (1, (-4,), "bad dimension"),
        (1, (2**40, 2**40), "too many elements"),
        (1, (2**40,), "file too small for the tensor"),
    ],
)
def test_a_list_that_cannot_be_true_is_refused(tmp_path, dtype, sizes, message):
    extents = [[(0, None)] * len(sizes)]
    (tmp_path / "m").write_bytes(
        tf_files.table([[(b"", meta(b"w", dtype, sizes, extents)), (b"\xff", b"")]])
    )
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path / "m")


def test_a_slice_of_another_tensor_under_the_key_is_refused(tmp_path):
    listed = [
        (b"", meta(b"w", 1, (4,), [[(0, 4)]])),
        (KEY + b"\x80\x84", saved_slice(b"v", [(0, 4)], 5, VALUES.tobytes())),
    ]
    (tmp_path / "m").write_bytes(tf_files.table([listed]))
    with pytest.raises(MalformedInput, match="tensor 'w': slice of another tensor"):
        open_checkpoint(tmp_path / "m")["w"].load()


def test_every_cut_of_a_small_file_is_an_error_that_says_so(tmp_path):
    whole = shard("", [(0, 4)], tmp_path / "whole").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut short|too short|is empty|not a weight file"):
            open_checkpoint(tmp_path / "cut")
