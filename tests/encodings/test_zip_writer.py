"""The zip writer against Python's zipfile and torch, beyond 4 GiB and 65,535 members as well."""

from __future__ import annotations

import zipfile
import zlib

import pytest
import torch

from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.encodings.pickle_writer import ORDERED_DICT, dumps
from wtool.encodings.zip_writer import MAX16, directory, lay_out
from wtool.errors import UnsupportedError

GIB = 1 << 30


def write_sparse(path, records: list[tuple[str, int, bytes]], alignment: int = 64) -> None:
    """An archive of (name, size, first bytes); the rest of each member is a hole of zeros."""
    members = lay_out([(name, size) for name, size, _ in records], alignment)
    crcs = []
    with open(path, "wb") as file:
        for member, (_, size, data) in zip(members, records, strict=True):
            # The checksum of the holes is never asked for.
            crcs.append(zlib.crc32(data) if len(data) == size else 0)
            file.seek(member.offset)
            file.write(member.local_header(crcs[-1]) + data)
        file.seek(members[-1].end if members else 0)
        file.write(directory(members, crcs))


def rebuilt(key: str, numel: int) -> Call:
    hooks = Dict()
    hooks.cls = ORDERED_DICT
    storage = Persistent(("storage", Global("torch", "ByteStorage"), key, "cpu", numel))
    function = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(function, (storage, 0, (numel,), (1,), False, hooks))


def test_members_beyond_4_gib_are_found_by_torch_and_zipfile(tmp_path):
    sizes = {"0": 5 * GIB, "1": 2, "2": (1 << 32) - 1, "3": (1 << 32) - 2, "4": 2}
    root = Dict((key, rebuilt(key, size)) for key, size in sizes.items())
    pickled = dumps(root)
    records = [("archive/data.pkl", len(pickled), pickled)]
    marks = {key: f"{key}!".encode() for key in sizes}
    records += [(f"archive/data/{key}", size, marks[key]) for key, size in sizes.items()]
    records += [("archive/version", 2, b"3\n")]
    write_sparse(tmp_path / "big.pth", records)
    with zipfile.ZipFile(tmp_path / "big.pth") as archive:
        assert [(i.filename, i.file_size) for i in archive.infolist()] == [
            (name, size) for name, size, _ in records
        ]
        for key in sizes:
            with archive.open(f"archive/data/{key}") as member:
                assert member.read(2) == marks[key]
    found = torch.load(tmp_path / "big.pth", weights_only=True, mmap=True)
    for key, size in sizes.items():
        assert found[key].shape == (size,)
        assert bytes(found[key][:2].tolist()) == marks[key]
        assert found[key].data_ptr() % 64 == 0


@pytest.mark.parametrize("count", [0, 1, MAX16 - 1, MAX16, 70_000])
def test_any_number_of_members_is_listed_by_zipfile(tmp_path, count):
    records = [(f"{i}", 1, b"%d" % (i % 10)) for i in range(count)]
    write_sparse(tmp_path / "many.zip", records, alignment=1)
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert archive.namelist() == [name for name, _, _ in records]
        for index in (0, count // 2, count - 1) if count else ():
            assert archive.read(str(index)) == records[index][2]


@pytest.mark.parametrize("alignment", [1, 2, 64, 4096])
def test_data_lies_on_multiples_of_the_alignment(tmp_path, alignment):
    records = [("é" * i + str(i), i, bytes(range(i))) for i in range(1, 70)]
    members = lay_out([(name, size) for name, size, _ in records], alignment)
    assert all(member.data_offset % alignment == 0 for member in members)
    write_sparse(tmp_path / "a.zip", records, alignment)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert {n: archive.read(n) for n in archive.namelist()} == {n: d for n, _, d in records}


def test_names_and_alignments_that_zip_cannot_hold_are_refused():
    with pytest.raises(UnsupportedError):
        lay_out([("x" * 65_536, 0)])
    for alignment in (0, 65_536):
        with pytest.raises(UnsupportedError):
            lay_out([("x", 0)], alignment)
