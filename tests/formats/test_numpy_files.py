"""`.npy` and `.npz` against NumPy: every type, order and version; what is refused, and why."""

# ruff: noqa: E501 (a table reads best with one case a line)

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput, UnsupportedError
from wtool.formats import Probe, find_format, open_checkpoint
from wtool.formats import npy as npy_reader

PLAIN = ["f8", "f4", "f2", "c16", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def values(dtype: str, shape: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    flat = np.arange(np.prod(shape, dtype=int)) - 3
    return (flat * (1 - 0.5j) if "c" in dtype else flat).astype(dtype).reshape(shape)


def write(folder: Path, content: bytes, name: str = "x.npy") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1" if version[0] < 3 else "utf-8")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", PLAIN)
def test_every_type_and_order_reads_as_numpy_gives_it(
    dtype: str, order: str, tmp_path: Path
) -> None:
    for shape in ((2, 3, 4), (7,), (), (0, 5), (1, 1)):
        for memory in "CF":
            path = tmp_path / "x.npy"
            np.save(path, np.array(values(dtype, shape), order + dtype, order=memory))
            expected = np.load(path)
            checkpoint = open_checkpoint(path)
            assert list(checkpoint.tensors) == ["array"]
            assert checkpoint.notes == ()
            loaded = checkpoint["array"].load()
            assert loaded.dtype == expected.dtype.newbyteorder("=")
            assert loaded.shape == expected.shape
            np.testing.assert_array_equal(loaded, expected)


def test_fortran_order_reads_in_blocks_as_numpy_gives_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.asfortranarray(values("f4", (37, 11, 5)))
    np.save(path, array)
    tensor = open_checkpoint(path)["array"]
    assert tensor.strides == (1, 37, 407)
    np.testing.assert_array_equal(
        np.concatenate([b.copy() for b in tensor.blocks(64)]), array.ravel()
    )
    np.testing.assert_array_equal(tensor.read(100, 200), array.ravel()[100:200])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values("f4"), version=version)
    loaded = open_checkpoint(write(tmp_path, buffer.getvalue()))["array"].load()
    np.testing.assert_array_equal(loaded, values("f4"))


@pytest.mark.parametrize(
    ("name", "shown", "likely"),
    [
        ("bfloat16", "bits16", "perhaps bfloat16"),
        ("float8_e4m3fn", "bits8", "perhaps a float8, int4 or other small type"),
        ("int4", "bits8", "perhaps a float8, int4 or other small type"),
    ],
)
def test_bare_bytes_of_ml_dtypes_are_shown_as_bits_with_a_note(
    name: str, shown: str, likely: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    array = np.arange(6).astype(getattr(ml_dtypes, name))
    np.save(path, array)
    checkpoint = open_checkpoint(path)
    assert checkpoint["array"].dtype.name == shown
    assert checkpoint["array"].load().tobytes() == array.tobytes()
    assert likely in checkpoint.notes[0]


def test_float8_e5m2_is_known_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(4).astype(ml_dtypes.float8_e5m2))
    tensor = open_checkpoint(path)["array"]
    assert tensor.dtype.name == "float8_e5m2"
    assert tensor.load().astype(float).tolist() == [0, 1, 2, 3]


def test_bytes_after_the_array_are_noted(tmp_path: Path) -> None:
    content = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(7))
    checkpoint = open_checkpoint(write(tmp_path, content))
    assert checkpoint.notes == ("'array': not read: 3 bytes after the array",)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}",
        '{"shape":(3,),"descr":"<f4","fortran_order":False}   \n',
        " { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 3 , ) , } ",
    ],
)
def test_headers_of_other_writers_are_read(header: str, tmp_path: Path) -> None:
    data = np.float32([1, 2, 3]).tobytes()
    assert open_checkpoint(write(tmp_path, npy(header, data)))["array"].load().tolist() == [1, 2, 3]


OTHER = "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}"


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (npy(OTHER.format("'|O'", False, "(1,)")), UnsafeInput, "array of Python objects"),
        (npy(OTHER.format("'O8'", False, "(1,)")), UnsafeInput, "array of Python objects"),
        (npy(OTHER.format("'<U5'", False, "(1,)")), UnsupportedError, "array of text is not"),
        (npy(OTHER.format("'|S5'", False, "(1,)")), UnsupportedError, "array of byte strings"),
        (npy(OTHER.format("'<M8[ns]'", False, "(1,)")), UnsupportedError, "array of dates"),
        (npy(OTHER.format("'|V2147483647'", False, "(1,)")), UnsupportedError, "raw records"),
        (npy(OTHER.format("'<f16'", False, "(1,)")), UnsupportedError, "array of long doubles"),
        (npy(OTHER.format("[('a', '<f4'), ('b', '|O')]", False, "(1,)")), UnsupportedError, "fields a, b"),
        (npy(OTHER.format("'<x4'", False, "(1,)")), MalformedInput, "unknown array type: found '<x4'"),
        (npy(OTHER.format("''", False, "(1,)")), MalformedInput, "unknown array type"),
        (npy(OTHER.format("'<f4'", False, "(3)")), MalformedInput, "shape with '\\)'"),
        (npy(OTHER.format("'<f4'", False, "(-1,)")), MalformedInput, "found '-1,"),
        (npy(OTHER.format("'<f4'", False, "(1.0,)")), MalformedInput, "what NumPy writes"),
        (npy(OTHER.format("'<f4'", False, "(True,)")), MalformedInput, "dimension 'True'"),
        (npy(OTHER.format("'<f4'", False, "(1,,)")), MalformedInput, "dimension ','"),
        (npy(OTHER.format("'<f4'", False, "(" + "9" * 5000 + ",)")), MalformedInput, "dimension"),
        (npy(OTHER.format("'<f4'", False, "(1," * 5000)), MalformedInput, "what NumPy writes"),
        (npy(OTHER.format("'<f4'", False, "(" + "1," * 65 + ")")), MalformedInput, "dimension"),
        (npy(OTHER.format("'<f4'", False, "(4294967296,4294967296)")), MalformedInput, "too many elements"),
        (npy(OTHER.format("'<f4'", 0, "(1,)")), MalformedInput, "found '0'"),
        (npy(OTHER.format("'<f4'", "'False'", "(1,)")), MalformedInput, "values of other types"),
        (npy("{'descr': '<f4', 'shape': (1,)}"), MalformedInput, "keys descr, shape"),
        (npy(HEADER[:-1] + "'x': True}"), MalformedInput, "keys descr, fortran_order, shape, x"),
        (npy("{'descr': '<f4', 'descr': '<f4'}"), MalformedInput, "key 'descr'"),
        (npy(HEADER + " x"), MalformedInput, "found ' x'"),
        (npy("__import__('os').system('x')"), MalformedInput, 'found "__import__'),
        (npy("{'descr': '<f4"), MalformedInput, "what NumPy writes"),
        (npy(""), MalformedInput, "what NumPy writes"),
        (npy(HEADER, version=(4, 0)), MalformedInput, "expected 1.0 to 3.0, found 4.0"),
        (npy("{'descr': '\xff'}", version=(3, 0))[:-3] + b"\xff'}", MalformedInput, "not UTF-8"),
        (npy(HEADER)[:40], TruncatedInput, "ends within the array header: expected 67 bytes, found 40"),
        (npy(HEADER, bytes(11)), TruncatedInput, "tensor 'array': the file ends 11 bytes into the array's 12"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", UnsafeInput, "array header too long"),
        (b"\x93NUMPY\x01", MalformedInput, "not a NumPy array"),
    ],
)  # fmt: skip
def test_what_is_no_plain_array_is_refused_with_its_reason(
    content: bytes, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        open_checkpoint(write(tmp_path, content))


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_reads_as_numpy_gives_it(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    arrays = {
        "z": values("f4"),
        "a/kernel": np.asfortranarray(values(">f8")),
        "scalar": np.int64(7),
        "empty": values("u1", (0,)),
        "big": np.arange(100_000, dtype="i4"),
    }
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    assert find_format(Probe(path)).name == "npz"
    checkpoint = open_checkpoint(path)
    with np.load(path) as reference:
        assert list(checkpoint.tensors) == reference.files == list(arrays)
        for name in reference.files:
            loaded = checkpoint[name].load()
            assert loaded.dtype == reference[name].dtype.newbyteorder("=")
            assert loaded.shape == reference[name].shape
            np.testing.assert_array_equal(loaded, reference[name])
    assert checkpoint.aliases == {}
    assert checkpoint["a/kernel"].key == "a/kernel.npy"
    blocks = [block.copy() for block in checkpoint["big"].blocks(4096)]
    np.testing.assert_array_equal(np.concatenate(blocks), arrays["big"])


def test_positional_arrays_have_numpys_names(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, values("f4"), values("i8"))
    assert list(open_checkpoint(path).tensors) == ["arr_0", "arr_1"]


def test_an_object_array_is_refused_by_name_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, good=values("f4"), bad=np.array([{"a": 1}], object))
    with pytest.raises(UnsafeInput, match="tensor 'bad': array of Python objects"):
        open_checkpoint(path)


def test_arrays_of_text_and_dates_beside_tensors_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    labels = {"labels": np.array(["cat", "dog"]), "saved": np.array("2026-01-01", "M8[D]")}
    np.savez(path, a=values("f4"), **labels)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["a"]
    assert checkpoint.notes == (
        "'labels': array of text is not a tensor: left out",
        "'saved': array of dates is not a tensor: left out",
    )
    np.savez(path, **labels)
    with pytest.raises(UnsupportedError, match="tensor 'saved': array of dates is not"):
        open_checkpoint(path)


def test_a_member_that_is_no_array_is_left_out_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=values("f4"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "x")
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["a"]
    assert checkpoint.notes == ("'readme.txt' is not an array: left out",)


def test_a_broken_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deep/w.npy", npy(HEADER, bytes(5)))
    with pytest.raises(TruncatedInput, match="tensor 'deep/w': the file ends 5 bytes into"):
        open_checkpoint(path)


def test_an_array_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    content = npy(HEADER, bytes(12))
    for size in range(len(content)):
        path = write(tmp_path, content[:size])
        with pytest.raises(InputError):
            npy_reader.open_file(Probe(path))


def test_mutations_of_the_header_read_as_numpy_reads_them_or_are_refused(tmp_path: Path) -> None:
    """3,000 seeded mutations: what wtool opens, NumPy opens to the same values."""
    content = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", bytes(range(24)))
    random = np.random.default_rng(3)
    opened = 0
    alphabet = list(b"0123456789()[]{}<>|,:' bcfiuV")
    for _ in range(3_000):
        changed = bytearray(content)
        for _ in range(random.integers(1, 3)):
            place = random.integers(0, len(changed) - 24)
            match random.integers(0, 3):
                case 0:
                    changed[place] ^= 1 << random.integers(0, 8)
                case 1:
                    changed[place] = random.choice(alphabet)
                case _:
                    del changed[place : place + random.integers(1, 4)]
        path = write(tmp_path, bytes(changed))
        try:
            tensor = npy_reader.open_file(Probe(path))["array"]
        except (InputError, UnsupportedError):
            continue
        if tensor.dtype.name == "float8_e5m2":  # '<f1': NumPy writes it, and cannot read it
            continue
        expected = np.load(io.BytesIO(changed))
        assert (
            tensor.load().tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()
            or expected.dtype.kind == "b"
        )
        assert tensor.shape == expected.shape
        opened += 1
    assert opened > 10
