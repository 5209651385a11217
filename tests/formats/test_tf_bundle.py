"""TensorFlow V2 bundles: everything that TensorFlow reads from a file, wtool reads, and equal."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tf_files

import wtool
from wtool.dialects.tf_extents import check_stored
from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput
from wtool.formats import open_checkpoint

# Up to 8 bits, one byte an element in the file.
NARROW = [
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2fnuz",
    "float4_e2m1fn",
    "int4",
    "uint4",
    "int2",
    "uint2",
]
SIMPLE = [
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
    "bfloat16",
    *NARROW,
]


def save(prefix, tensors, slices=None):
    """Write with TensorFlow's own kernel: name -> array, and "shape slice" by name."""
    slices = slices or {}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[name.split("|")[0] for name in tensors],
        shape_and_slices=[slices.get(name, "") for name in tensors],
        tensors=list(tensors.values()),
    )
    return prefix


def assert_equal_to_tensorflow(path, prefix=None, skip=()):
    """Names, types, shapes, order and all values are TensorFlow's; returns the checkpoint."""
    checkpoint = open_checkpoint(path)
    reader = tf.train.load_checkpoint(str(prefix or path))
    shapes = reader.get_variable_to_shape_map()
    assert [tensor.key for tensor in checkpoint] == sorted(shapes)
    for tensor in checkpoint:
        assert list(tensor.shape) == shapes[tensor.key]
        assert tensor.dtype.tensorflow == reader.get_variable_to_dtype_map()[tensor.key].name
        if tensor.key in skip or tensor.dtype.kind == "opaque":
            continue
        expected, found = np.asarray(reader.get_tensor(tensor.key)), tensor.load()
        assert found.shape == expected.shape
        if tensor.dtype.kind == "string":
            assert found.tolist() == expected.tolist()
        else:
            assert found.tobytes() == expected.tobytes(), tensor.key
        assert check_stored(tensor.extent)
    return checkpoint


def test_every_type_reads_as_tensorflow_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for name in SIMPLE:
        dtype = tf.dtypes.as_dtype(name)
        values = rng.integers(-8 if dtype.is_integer and not dtype.is_unsigned else 0, 7, (3, 5))
        if dtype.is_complex:
            values = values + 1j * rng.standard_normal((3, 5))
        tensors[f"t/{name}"] = tf.constant(values.astype(dtype.as_numpy_dtype))
    checkpoint = assert_equal_to_tensorflow(save(tmp_path / "m", tensors))
    assert {tensor.dtype.name for tensor in checkpoint} == set(SIMPLE)
    assert checkpoint.format == "tensorflow"
    assert checkpoint["t/int4"].load().tolist() == tensors["t/int4"].numpy().tolist()


@pytest.mark.parametrize("name", NARROW)
def test_every_code_of_a_narrow_type_reads_as_tensorflow_reads_it(tmp_path, name):
    dtype = tf.dtypes.as_dtype(name)
    codes = np.arange(1 << DTYPES[name].bits, dtype=np.uint8)
    # A type below a byte takes one byte an element, in memory as in the file.
    value = tf.constant(codes.view(dtype.as_numpy_dtype))
    checkpoint = assert_equal_to_tensorflow(save(tmp_path / "m", {"w": value}))
    tensor = checkpoint["w"]
    assert tensor.dtype is DTYPES[name]
    assert tensor.load().dtype == dtype.as_numpy_dtype
    same = tensor.load().astype(np.float32) == codes.view(dtype.as_numpy_dtype).astype(np.float32)
    assert (same | np.isnan(tensor.load().astype(np.float32))).all()


def test_quantised_types_keep_their_stored_integers(tmp_path):
    tensors = {}
    for name in ("qint8", "quint8", "qint32", "qint16", "quint16"):
        plain = tf.constant([0, 1, 100], name.removeprefix("q"))
        tensors[name] = tf.bitcast(plain, name)
    checkpoint = open_checkpoint(save(tmp_path / "m", tensors))
    assert [(t.name, t.dtype.name, t.load().tolist()) for t in checkpoint] == [
        (name, name, [0, 1, 100]) for name in sorted(tensors)
    ]


def test_strings_of_any_length_and_shape_read_as_bytes(tmp_path):
    tensors = {
        "several": tf.constant([[b"", b"x" * 300], [b"\xff\x00", "ä".encode()]]),
        "scalar": tf.constant(b"one"),
        "empty": tf.constant([], tf.string, (0, 3)),
        "blank": tf.constant([b"", b""]),
    }
    checkpoint = assert_equal_to_tensorflow(save(tmp_path / "m", tensors))
    assert {tensor.role for tensor in checkpoint} == {"other"}
    assert checkpoint["scalar"].load()[()] == b"one"
    assert checkpoint["several"].nbytes == 1 + 2 + 1 + 1 + 4 + 300 + 2 + 2


def test_empty_tensors_and_scalars_keep_their_shapes(tmp_path):
    tensors = {"none": tf.zeros((0, 4)), "scalar": tf.constant(2.5), "one": tf.ones((1, 1, 1))}
    checkpoint = assert_equal_to_tensorflow(save(tmp_path / "m", tensors))
    assert checkpoint["none"].shape == (0, 4)


def test_names_of_any_bytes_are_listed(tmp_path):
    names = ["ä/重", "a b", "a:0", "UPPER/lower", "~", "x" * 5000]
    checkpoint = assert_equal_to_tensorflow(
        save(tmp_path / "m", {name: tf.constant(float(i)) for i, name in enumerate(names)})
    )
    assert set(checkpoint.tensors) == set(names)


def test_twenty_thousand_variables_in_several_blocks_are_all_there(tmp_path):
    tensors = {f"v/{i:05d}": np.float32(i) for i in range(20000)}
    checkpoint = open_checkpoint(save(tmp_path / "m", tensors))
    assert list(checkpoint.tensors) == sorted(tensors)
    for name in ("v/00000", "v/09999", "v/19999"):
        assert checkpoint[name].load() == tensors[name]
    reader = tf.train.load_checkpoint(str(tmp_path / "m"))
    assert set(reader.get_variable_to_shape_map()) == set(checkpoint.tensors)


def float_entries(names, start=0):
    data = np.arange(start, start + 6 * len(names), dtype="<f4")
    entries = {}
    for i, name in enumerate(names):
        piece = data[6 * i : 6 * i + 6].tobytes()
        entries[name] = tf_files.entry(
            1, (2, 3), offset=24 * i, size=24, crc=tf_files.masked(piece)
        )
    return entries, data.tobytes()


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("interval", [1, 4])
@pytest.mark.parametrize("snappy", [False, True])
def test_any_block_size_interval_and_compression_reads_alike(tmp_path, size, interval, snappy):
    entries, data = float_entries([b"n%02d" % i for i in range(20)])
    everything = [(b"", tf_files.header()), *sorted(entries.items())]
    blocks = []
    for start in range(0, len(everything), size):
        part = everything[start : start + size]
        content = tf_files.block(part, interval)
        stored = tf_files.snappy_literals(content) if snappy else content
        blocks.append((part[-1][0], stored, int(snappy)))
    (tmp_path / "m.index").write_bytes(tf_files.assemble(blocks))
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    assert len(assert_equal_to_tensorflow(tmp_path / "m")) == 20


def test_big_endian_bundles_are_swapped_on_reading(tmp_path):
    values = {
        b"f": np.array([1.5, -2, 3e10], ">f4"),
        b"h": np.array([1.5, -2], ">f2"),
        b"i": np.array([1, -(2**40)], ">i8"),
        b"b": np.array([1, 2, 3], "u1"),
        b"c": np.array([1 + 2j, -3.5j], ">c8"),
    }
    numbers = {b"f": 1, b"h": 19, b"i": 9, b"b": 4, b"c": 8}
    entries, data = {}, b""
    for name, value in values.items():
        raw = value.tobytes()
        entries[name] = tf_files.entry(
            numbers[name], value.shape, offset=len(data), size=len(raw), crc=tf_files.masked(raw)
        )
        data += raw
    stored, crc = tf_files.string_tensor([b"ab", b""], "big")
    entries[b"s"] = tf_files.entry(7, (2,), offset=len(data), size=len(stored), crc=crc)
    prefix = tf_files.write_bundle(
        tmp_path / "m", entries, data + stored, head=tf_files.header(big_endian=True)
    )
    checkpoint = open_checkpoint(prefix)
    reader = tf.train.load_checkpoint(str(prefix))
    for name, value in values.items():
        found = checkpoint[name.decode()].load()
        assert found.tolist() == value.tolist()
        assert found.tobytes() == reader.get_tensor(name.decode()).tobytes()
        assert check_stored(checkpoint[name.decode()].extent)
    assert checkpoint["s"].load().tolist() == [b"ab", b""]


def test_several_data_files_are_one_checkpoint(tmp_path):
    first, data = float_entries([b"a"])
    piece = np.arange(6, dtype="<f4").tobytes()
    second = tf_files.entry(1, (6,), shard=1, size=24, crc=tf_files.masked(piece))
    prefix = tf_files.write_bundle(
        tmp_path / "m", {**first, b"b": second}, head=tf_files.header(2), shards=[data, piece]
    )
    checkpoint = assert_equal_to_tensorflow(prefix)
    assert [os.path.basename(path) for path in checkpoint.files] == [
        "m.index",
        "m.data-00000-of-00002",
        "m.data-00001-of-00002",
    ]


def test_aligned_and_overlapping_entries_read_alike(tmp_path):
    values = np.arange(8, dtype="<f4").tobytes()
    entries = {
        b"a": tf_files.entry(1, (4,), offset=64, size=16, crc=tf_files.masked(values[:16])),
        b"b": tf_files.entry(1, (4,), offset=72, size=16, crc=tf_files.masked(values[8:24])),
        b"c": tf_files.entry(1, (4,), offset=64, size=16, crc=tf_files.masked(values[:16])),
    }
    prefix = tf_files.write_bundle(tmp_path / "m", entries, bytes(64) + values)
    checkpoint = assert_equal_to_tensorflow(prefix)
    assert checkpoint.aliases == {"c": "a"}


def test_partitioned_variables_of_tensorflow_1_are_pasted_together(tmp_path):
    v1 = tf.compat.v1
    shapes = {"p": (10, 4), "q": (6, 9)}
    with tf.Graph().as_default(), v1.Session() as session:
        for name, axis in (("p", 0), ("q", 1)):
            v1.get_variable(
                name,
                shapes[name],
                partitioner=v1.fixed_size_partitioner(3, axis),
                use_resource=True,
            )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "m"), write_meta_graph=False)
    checkpoint = assert_equal_to_tensorflow(tmp_path / "m")
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == shapes
    whole = checkpoint["p"].load().reshape(-1)
    assert checkpoint["p"].read(13, 29).tolist() == whole[13:29].tolist()


def test_slices_in_two_dimensions_read_as_one_tensor(tmp_path):
    whole = np.arange(48, dtype="f4").reshape(6, 8)
    tensors, slices = {}, {}
    for row in (0, 3):
        for column in (0, 4):
            tensors[f"w|{row}{column}"] = whole[row : row + 3, column : column + 4]
            slices[f"w|{row}{column}"] = f"6 8 {row},3:{column},4"
    checkpoint = assert_equal_to_tensorflow(save(tmp_path / "m", tensors, slices))
    assert checkpoint["w"].load().tolist() == whole.tolist()


def test_slices_in_several_data_files_read_as_one_tensor(tmp_path):
    whole = np.arange(24, dtype="<f4").reshape(4, 6)
    top, bottom = whole[:2].tobytes(), whole[2:].tobytes()
    extents = ([(0, 2), (0, None)], [(2, 2), (0, 6)])
    entries = {
        # As TensorFlow leaves it: a shard number that means nothing.
        b"w": tf_files.entry(1, (4, 6), shard=1, slices=extents),
        bytes.fromhex("00 77 00 01 01 02 80 82 80 7f"): tf_files.entry(
            1, (2, 6), size=48, crc=tf_files.masked(top)
        ),
        bytes.fromhex("00 77 00 01 01 02 82 82 80 86"): tf_files.entry(
            1, (2, 6), shard=1, size=48, crc=tf_files.masked(bottom)
        ),
    }
    prefix = tf_files.write_bundle(
        tmp_path / "m", entries, head=tf_files.header(2), shards=[top, bottom]
    )
    assert assert_equal_to_tensorflow(prefix)["w"].load().tolist() == whole.tolist()


def test_variables_split_by_a_sharding_callback_are_whole(tmp_path):
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=600)
    values = np.random.default_rng(2).standard_normal((5, 200)).astype("f4")
    checkpoint = tf.train.Checkpoint(w=tf.Variable(values), b=tf.Variable([1.0, 2.0]))
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    prefix = checkpoint.write(str(tmp_path / "m"), options=options)
    found = assert_equal_to_tensorflow(prefix)
    assert found["w"].load().tolist() == values.tolist()
    assert len(found.files) > 3


def test_opening_reads_no_data_file(tmp_path, monkeypatch):
    prefix = save(tmp_path / "m", {"w": np.ones(1000, "f4"), "s": np.array([b"a"])})
    from wtool.sources import FileSource

    read_from = []
    original = FileSource.read_into

    def watch(self, offset, buffer):
        read_from.append(self.name)
        original(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", watch)
    wtool.open(prefix)
    assert {os.path.basename(name) for name in read_from} == {"m.index"}


def test_a_damaged_tensor_is_found_by_its_stored_checksum(tmp_path):
    prefix = save(tmp_path / "m", {"w": np.ones(1000, "f4"), "x": np.ones(3, "f4")})
    data = tmp_path / "m.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[2000] ^= 1
    data.write_bytes(raw)
    checkpoint = open_checkpoint(prefix)
    assert check_stored(checkpoint["x"].extent)
    with pytest.raises(MalformedInput, match="tensor damaged: its checksum does not match"):
        check_stored(checkpoint["w"].extent)
