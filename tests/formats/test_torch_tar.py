"""torch's tar archives of 2016 against torch, which still reads them, and the ones that attack."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile

import numpy as np
import pytest
import torch

from wtool.errors import InputError, MalformedInput, UnsafeInput, WtoolError
from wtool.formats import Probe, find_format, open_checkpoint
from wtool.formats.torch_tar import FORMAT


class OldTensor:
    """Stands for a tensor of 2016: its key in the member `tensors`."""

    def __init__(self, key: int) -> None:
        self.key = key


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return str(obj.key) if isinstance(obj, OldTensor) else None


def pickled(value) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def named(value: tuple, class_name: str) -> bytes:
    """The pickle of (*value, torch.<class_name>), a class that today's torch may not have."""
    head = b"".join(pickled(part)[2:-1] for part in value)
    return b"\x80\x02(" + head + f"ctorch\n{class_name}\n".encode() + b"t."


def storages(entries, views=()) -> bytes:
    """entries: (key, storage class, array). views: (key, root key, offset, length)."""
    out = pickled(len(entries))
    for key, kind, array in entries:
        out += named((key, "cpu"), kind) + struct.pack("<q", array.size) + array.tobytes()
    return out + pickled(list(views))


def tensors(entries, ndim=None) -> bytes:
    """entries: (key, storage key, tensor class, shape, strides, offset)."""
    out = pickled(len(entries))
    for key, storage, kind, shape, strides, offset in entries:
        rank = len(shape) if ndim is None else ndim
        out += named((key, storage), kind) + struct.pack("<i4x", rank)
        out += struct.pack(f"<{2 * len(shape) + 1}q", *shape, *strides, offset)
    return out


def archive(**members) -> bytes:
    """A tar archive of the given members, in the order in which torch wrote them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                tar.addfile(info)
    return out.getvalue()


FLOATS = np.arange(12, dtype="float32")
LONGS = np.array([3, 1 << 40], dtype="int64")
BYTES = np.array([1, 0, 255], dtype="uint8")
STORAGES = [(10, "FloatStorage", FLOATS), (11, "LongStorage", LONGS), (12, "ByteStorage", BYTES)]
TENSORS = [
    (1, 10, "FloatTensor", (3, 4), (4, 1), 0),
    (2, 10, "FloatTensor", (4, 3), (1, 4), 0),
    (3, 11, "LongTensor", (2,), (1,), 0),
    (4, 12, "ByteTensor", (1, 2), (2, 1), 1),
    (5, 13, "FloatTensor", (2,), (2,), 1),
    (6, 10, "FloatTensor", (0,), (1,), 0),
]
VIEWS = [(13, 10, 4, 6)]
VALUE = {
    "w": OldTensor(1),
    "nested": {"t": OldTensor(2), "list": [OldTensor(3), OldTensor(4)]},
    "v": OldTensor(5),
    "e": OldTensor(6),
    "epoch": 7,
}


def model(**changes) -> bytes:
    parts = {
        "sys_info": pickled({"protocol_version": 1000, "little_endian": True}),
        "storages": storages(STORAGES, VIEWS),
        "tensors": tensors(TENSORS),
        "pickle": pickled(VALUE),
    }
    return archive(
        **{name: data for name, data in {**parts, **changes}.items() if data is not None}
    )


def opened(data: bytes, tmp_path, **options):
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    return open_checkpoint(path, **options)


def test_an_archive_reads_as_torch_reads_it(tmp_path):
    found = opened(model(), tmp_path)
    expected = torch.load(tmp_path / "model.pth", weights_only=False)
    flat = {
        "w": expected["w"],
        "nested.t": expected["nested"]["t"],
        "nested.list.0": expected["nested"]["list"][0],
        "nested.list.1": expected["nested"]["list"][1],
        "v": expected["v"],
        "e": expected["e"],
    }
    assert list(found.tensors) == list(flat)
    for name, tensor in flat.items():
        assert found[name].dtype.torch == str(tensor.dtype)[6:]
        np.testing.assert_array_equal(found[name].load(), tensor.numpy(), strict=True)
    assert found.format == "torch-tar"
    assert found.extras["epoch"] == 7
    assert found.aliases == {"nested.t": "w", "v": "w"}


def test_exactly_one_format_claims_an_archive(tmp_path):
    path = tmp_path / "model.tar"
    path.write_bytes(model())
    assert find_format(Probe(path)) is FORMAT


def test_an_archive_of_other_things_is_not_claimed(tmp_path):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(archive(readme=b"hello"))
    assert not FORMAT.claims(Probe(path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"storages": (tarfile.SYMTYPE, "/etc/passwd")}, UnsafeInput, "a symbolic link"),
        ({"storages": (tarfile.LNKTYPE, "pickle")}, UnsafeInput, "a hard link"),
        ({"storages": (tarfile.CHRTYPE, "")}, UnsafeInput, "a character device"),
        ({"pickle": None}, MalformedInput, "archive has no member 'pickle'"),
        ({"storages": storages(STORAGES[:1], VIEWS)}, MalformedInput, "names a storage that"),
        ({"storages": storages([*STORAGES, STORAGES[0]])}, MalformedInput, "two storages"),
        ({"storages": storages(STORAGES, [(13, 99, 0, 1)])}, MalformedInput, "view of a storage"),
        ({"storages": storages(STORAGES, [(13, 13, 0, 1)])}, MalformedInput, "view of a storage"),
        ({"storages": storages(STORAGES, [(13, 10, 8, 6)])}, MalformedInput, "view of a storage"),
        ({"storages": storages(STORAGES, [(13, 10, -1, 6)])}, MalformedInput, "view of a storage"),
        ({"storages": storages(STORAGES, [(13, 10, 8)])}, MalformedInput, "view of a storage"),
        ({"storages": pickled(-1)}, MalformedInput, "number of storages"),
        ({"storages": pickled("3")}, MalformedInput, "number of storages"),
        ({"storages": pickled(1 << 70)}, MalformedInput, "number of storages"),
        (
            {"storages": pickled(1) + named((1, "cpu"), "Storage") + bytes(8)},
            MalformedInput,
            "class",
        ),
        ({"storages": pickled(1) + pickled((1, 2, 3)) + bytes(8)}, MalformedInput, "storage"),
        (
            {"storages": pickled(1) + named((1, "cpu"), "FloatStorage") + b"\xff" * 8},
            MalformedInput,
            "elements of a storage",
        ),
        (
            {"storages": pickled(1) + named((1, "cpu"), "FloatStorage") + b"\xff" * 7 + b"\x3f"},
            InputError,
            "storage",
        ),
        ({"tensors": tensors(TENSORS, ndim=-1)}, MalformedInput, "dimensions"),
        ({"tensors": tensors(TENSORS, ndim=(1 << 31) - 1)}, MalformedInput, "dimensions"),
        ({"tensors": tensors([*TENSORS, TENSORS[0]])}, MalformedInput, "two tensors"),
        (
            {"tensors": tensors([*TENSORS[1:], (1, 10, "FloatTensor", (3, 5), (5, 1), 0)])},
            MalformedInput,
            "storage too short",
        ),
        (
            {"tensors": tensors([*TENSORS[1:], (1, 10, "FloatTensor", (3,), (-1,), 2)])},
            MalformedInput,
            "stride of a tensor",
        ),
        ({"tensors": tensors(TENSORS[:2])}, MalformedInput, "names no tensor"),
        ({"pickle": pickled({"w": OldTensor(77)})}, MalformedInput, "names no tensor"),
        ({"pickle": pickled({"w": OldTensor("x")})}, MalformedInput, "names no tensor"),
        ({"pickle": pickled({"w": OldTensor("9" * 5000)})}, MalformedInput, "names no tensor"),
    ],
)
def test_an_archive_that_contradicts_itself_is_one_clear_error(changes, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        opened(model(**changes), tmp_path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_a_cut_archive_is_an_error_at_every_length(tmp_path):
    data = model()
    # The file is padded with zeros to 10,240 bytes: cutting those is found too.
    lengths = [*range(0, len(data), 97), *range(len(data) - 300, len(data)), *range(700)]
    for length in lengths:
        with pytest.raises(InputError) as caught:
            opened(data[:length], tmp_path)
        assert "\n" not in str(caught.value)


def test_two_thousand_mutations_end_in_an_error_of_the_file_or_an_answer(tmp_path):
    generator = random.Random(2)
    whole = model()
    content = [i for i, byte in enumerate(whole) if byte] + list(range(512))
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 5))):
            data[generator.choice(content)] = generator.randrange(256)
        try:
            for tensor in opened(bytes(data), tmp_path):
                if tensor.count < 1000:
                    tensor.load()
        except WtoolError:
            continue
