"""The tar directory against Python's tarfile, and the archives that attack."""

from __future__ import annotations

import io
import tarfile

import pytest

from wtool.encodings.tar_directory import is_tar, read_directory
from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import BytesSource


def archive(*members: tuple[tarfile.TarInfo, bytes], **options) -> bytearray:
    """An uncompressed archive as Python's tarfile writes it."""
    out = io.BytesIO()
    options.setdefault("format", tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=out, mode="w:", **options) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return bytearray(out.getvalue())


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields):
    """One entry for `archive`."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(data: bytes | bytearray):
    return read_directory(BytesSource(data, "x.tar"))


def with_checksum(data: bytearray, offset: int = 0) -> bytearray:
    """`data` with the checksum of the header at `offset` made right again."""
    data[offset + 148 : offset + 156] = b" " * 8
    data[offset + 148 : offset + 156] = b"%06o\0 " % sum(data[offset : offset + 512])
    return data


def test_members_lie_where_tarfile_says():
    long_name = "folder/" * 20 + "größe"
    data = archive(
        member("storages", b"s" * 700),
        member("sub", kind=tarfile.DIRTYPE),
        member(long_name, b"n" * 512),
        member("empty"),
        member("pickle", b"p"),
    )
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    found = [(m.name, m.offset, m.nbytes) for m in directory(data).values()]
    assert found == expected
    assert [name for name, _, _ in found] == ["storages", long_name, "empty", "pickle"]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_head_of_an_archive_is_recognised_by_its_checksum(kind):
    data = archive(member("a", b"1"), format=kind)
    assert is_tar(bytes(data))
    data[0] += 1
    assert not is_tar(bytes(data))
    assert not is_tar(b"")
    assert not is_tar(bytes(512))


def test_size_in_a_pax_record_wins_over_the_header():
    data = archive(member("a", b"12345", pax_headers={"size": "5"}))
    header = data.index(b"12345") - 512
    data[header + 124 : header + 136] = b"00000000003\0"
    assert directory(with_checksum(data, header))["a"].nbytes == 5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (b"S", "a sparse file"),
        (b"L", "an entry of type b'L'"),
        (b"V", "an entry of type b'V'"),
    ],
)
def test_anything_but_a_regular_file_is_refused(kind, words):
    data = archive(member("pickle", b"1"), member("storages", kind=kind, linkname="/etc/passwd"))
    with pytest.raises(UnsafeInput, match="'storages' is not read") as caught:
        directory(data)
    assert caught.value.found == words
    assert caught.value.exit_code == 3


def test_sparse_members_of_pax_are_refused():
    info, body = member("storages", b"1")
    info.pax_headers = {"GNU.sparse.major": "1"}
    with pytest.raises(UnsafeInput, match="sparse"):
        directory(archive((info, body)))


def test_two_members_of_one_name_are_refused():
    with pytest.raises(MalformedInput, match="two archive members are named 'a'"):
        directory(archive(member("a", b"1"), member("a", b"2")))


def test_names_that_leave_the_folder_are_only_keys():
    found = directory(archive(member("../../x", b"1"), member("/abs", b"2")))
    assert list(found) == ["../../x", "/abs"]


def test_a_huge_pax_record_is_refused_before_it_is_read():
    info, body = member("a")
    info.pax_headers = {"comment": "c" * 70_000}
    with pytest.raises(UnsafeInput, match="record too long"):
        directory(archive((info, body)))


@pytest.mark.parametrize("record", [b"0 a=b\n", b"99 a=b\n", b"x a=b\n", b"5 ab\n", b"6 a=bc"])
def test_broken_pax_records_are_errors(record):
    data = archive(member("a", pax_headers={"comment": "y"}))
    start = data.index(b"13 comment=y\n")
    data[start : start + 13] = record.ljust(13, b"\0")
    with pytest.raises(MalformedInput, match="bad archive header record"):
        directory(data)


@pytest.mark.parametrize(
    "digits", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80" + b"\0" * 10 + b"\xff"]
)
def test_a_member_longer_than_the_file_is_cut_short(digits):
    data = archive(member("a", b"1"))
    data[124:136] = digits
    if digits[-1] == 0xFF and digits[1] == 0:  # 255 bytes: still inside
        assert directory(with_checksum(data))["a"].nbytes == 255
        return
    with pytest.raises(TruncatedInput, match="member ends outside the file"):
        directory(with_checksum(data))


@pytest.mark.parametrize("digits", [b"-0000000001\0", b"0000000009x\0", b"\xff" * 12])
def test_a_size_that_is_no_number_is_an_error(digits):
    data = archive(member("a", b"1"))
    data[124:136] = digits
    with pytest.raises(MalformedInput, match="bad size"):
        directory(with_checksum(data))


def test_an_archive_of_endless_members_is_refused():
    header = bytes(archive(member("a"))[:512])
    blocks = bytearray()
    for i in range(10_001):
        block = bytearray(header)
        block[:8] = b"%08d" % i
        blocks += with_checksum(block)
    with pytest.raises(UnsafeInput, match="too many archive members"):
        directory(blocks)


def test_a_cut_archive_is_an_error_at_every_length():
    data = archive(member("storages", b"s" * 700), member("pickle", b"p"))
    for length in range(len(data)):
        with pytest.raises(InputError):
            directory(data[:length])


def test_bytes_after_the_end_are_an_error():
    data = archive(member("a", b"1"))
    data[512 + 512 + 512] = 1
    with pytest.raises(MalformedInput, match="goes on after its end"):
        directory(data)
