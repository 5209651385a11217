"""The zip directory against Python's zipfile, and against files that lie."""

import io
import random
import struct
import threading
import zipfile

import pytest
from bounded import bounded
from zip_bytes import Entry, build, deflate

from wtool.encodings.zip_directory import read_directory
from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import BytesSource, read_bytes


def directory_of(data: bytes):
    return read_directory(BytesSource(data, "model.pth"))


def read_all(data: bytes) -> dict[str, bytes]:
    directory = directory_of(data)
    return {
        name: bytes(directory.read(member, 1 << 20)) for name, member in directory.members.items()
    }


SIMPLE = [Entry(b"a/one", b"first" * 20), Entry(b"a/two", b""), Entry(b"a/three", b"\0" * 999, 8)]


def test_members_are_those_of_zipfile():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/plain", b"x" * 100)
        archive.writestr("a/small", b"y" * 5000, zipfile.ZIP_DEFLATED)
        archive.writestr("a/empty", b"")
        archive.writestr("a/é", b"z")
        archive.mkdir("a/folder")
        archive.comment = b"hello"
    data = stream.getvalue()
    with zipfile.ZipFile(stream) as archive:
        expected = {name: archive.read(name) for name in archive.namelist()}
    assert read_all(data) == expected
    assert list(read_all(data)) == list(expected)


def test_zip64_fields_are_read_where_they_are_needed():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("a/b", "w", force_zip64=True) as f:
        f.write(b"x" * 1000)
    assert read_all(stream.getvalue()) == {"a/b": b"x" * 1000}


def test_a_file_with_a_64_bit_end_record_is_read():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for index in range(70_000):
            archive.writestr(f"a/{index}", b"")
    directory = directory_of(stream.getvalue())
    assert directory.names == [f"a/{index}" for index in range(70_000)]


def test_lookup_is_exact_before_case_is_ignored():
    directory = directory_of(build(SIMPLE))
    assert directory.find("a/one").name == "a/one"
    assert directory.find("A/ONE").name == "a/one"
    assert directory.find("a/four") is None


def test_deflated_members_are_read_in_any_order_in_bounded_memory():
    data = bytes(random.Random(1).choices(range(7), k=3_000_000))
    directory = directory_of(build([Entry(b"a/x", data, 8)]))
    source = directory.open(directory.find("a/x"))
    assert source.size == len(data)
    for start, size in ((0, 10), (2_000_000, 1000), (5, 5), (2_999_999, 1), (0, len(data))):
        assert read_bytes(source, start, size) == data[start : start + size]
    with pytest.raises(TruncatedInput):
        read_bytes(source, 2_999_999, 2)


def test_threads_may_share_a_deflated_member():
    data = bytes(random.Random(2).choices(range(9), k=300_000))
    directory = directory_of(build([Entry(b"a/x", data, 8)]))
    source = directory.open(directory.find("a/x"))
    wrong = []

    def read(seed):
        rng = random.Random(seed)
        for _ in range(20):
            start = rng.randrange(len(data) - 1000)
            if read_bytes(source, start, 1000) != data[start : start + 1000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def zip64_extra(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


FULL = 0xFFFFFFFF
ONE = Entry(b"a/one", b"first" * 20)
BOMB = deflate(b"\0" * 1000)


def entry(**changes) -> Entry:
    return Entry(**({"name": b"a/x", "data": b"12345678" * 8} | changes))


# Fault -> the file, the error, what is said. "read" faults show when members are read.
FAULTS = {
    "same name twice": (build([ONE, ONE]), UnsafeInput, "one name, case ignored"),
    "same name but for case": (
        build([ONE, Entry(b"A/One", b"")]), UnsafeInput, "one name, case ignored: found 'A/One'"
    ),
    "NUL in a name": (build([entry(name=b"a/x\0y")]), UnsafeInput, "a NUL in it"),
    "empty name": (build([entry(name=b"")]), UnsafeInput, "empty name"),
    "other name in the local header": (
        build([entry(local={"name": b"a/y"})]), MalformedInput, "disagree on name"
    ),
    "other size in the local header": (
        build([entry(local={"size": 9})]), MalformedInput, "disagree on name, method or size"
    ),
    "other method in the local header": (
        build([entry(local={"method": 8})]), MalformedInput, "disagree on name, method"
    ),
    "encrypted in the local header": (
        build([entry(local={"flags": 1})]), MalformedInput, "according to its local header"
    ),
    "no local header": (
        build([entry(local={"signature": b"PK\3\5"})]), MalformedInput, "no local header"
    ),
    "two entries to one header": (
        build([ONE, entry(central={"offset": 0})]), MalformedInput, "overlaps"
    ),
    "overlapping members": (
        build([ONE, entry(central={"offset": 40})]), MalformedInput, "overlaps"
    ),
    "header offset outside": (
        build([entry(central={"offset": 1 << 30})]), MalformedInput, "overlaps"
    ),
    "size outside": (
        build([entry(central={"size": 1 << 30, "packed": 1 << 30})]), MalformedInput, "overlaps"
    ),
    "stored with two sizes": (
        build([entry(central={"size": 65})]), MalformedInput, "sizes that cannot be"
    ),
    "extra field outside": (
        build([entry(local={"extra_size": 60_000})]), MalformedInput, "reaches into the next"
    ),
    "extra field over the data": (
        build([entry(local={"extra_size": 1}), ONE]), MalformedInput, "reaches into the next"
    ),
    "deflate flag on stored data": (
        build([entry(method=8, packed=b"\xff" * 64)]), MalformedInput, "not deflate data"
    ),
    "deflated data end early": (
        build([entry(method=8, packed=deflate(b"12345678" * 7))]), MalformedInput, "end early"
    ),
    "deflated data go on": (
        build([entry(method=8, packed=deflate(b"12345678" * 9))]), MalformedInput, "do not end"
    ),
    "bytes after deflated data": (
        build([entry(method=8, packed=deflate(b"12345678" * 8) + b"zz")]),
        MalformedInput, "bytes after the deflate data",
    ),
    "cut deflated data": (
        build([entry(method=8, packed=deflate(b"12345678" * 8)[:-1])]), MalformedInput, "deflate"
    ),
    "beyond what deflate can give": (
        build([entry(method=8, packed=BOMB, central={"size": 1 << 30})]),
        MalformedInput, "sizes that cannot be",
    ),
    "encrypted": (build([entry(central={"flags": 1})]), MalformedInput, "is encrypted"),
    "strongly encrypted": (
        build([entry(central={"flags": 0x41})]), MalformedInput, "is encrypted"
    ),
    "masked": (build([entry(central={"flags": 0x2000})]), MalformedInput, "is encrypted"),
    "patched": (build([entry(central={"flags": 0x20})]), MalformedInput, "holds a patch"),
    "bzip2": (build([entry(method=12, packed=b"x")]), MalformedInput, "found bzip2 (12)"),
    "lzma": (build([entry(method=14, packed=b"x")]), MalformedInput, "found lzma (14)"),
    "zstd": (build([entry(method=93, packed=b"x")]), MalformedInput, "found zstd (93)"),
    "method 77": (build([entry(method=77, packed=b"x")]), MalformedInput, "found method 77"),
    "another disk": (build([entry(central={"disk": 1})]), MalformedInput, "another disk"),
    "part of several": (build([ONE], end={"disk": 1}), MalformedInput, "a part of several"),
    "members elsewhere": (build([ONE], end={"here": 0}), MalformedInput, "a part of several"),
    "count too large": (
        build([ONE], end={"here": 2, "count": 2}), MalformedInput, "too short for its members"
    ),
    "count too small": (
        build([ONE, SIMPLE[1]], end={"here": 1, "count": 1}), MalformedInput, "more bytes than"
    ),
    "directory outside": (
        build([ONE], end={"offset": 1 << 30}), MalformedInput, "ends outside its place"
    ),
    "directory elsewhere": (
        build([ONE], end={"offset": 0}), MalformedInput, "entry is broken"
    ),
    "comment outside": (
        build([ONE], end={"comment": 9}), TruncatedInput, "comment ends outside"
    ),
    "prepended bytes": (
        b"junk" + build([ONE]), MalformedInput, "entry is broken"
    ),
    "zip64 field missing": (
        build([entry(central={"size": FULL, "packed": FULL})]), MalformedInput, "without the zip64"
    ),
    "zip64 field short": (
        build([entry(central={"size": FULL, "packed": FULL}, central_extra=zip64_extra(64))]),
        MalformedInput, "zip64 field too short",
    ),
    "zip64 size of 2^63": (
        build([
            entry(
                central={"size": FULL, "packed": FULL},
                central_extra=zip64_extra(1 << 63, 1 << 63),
            )
        ]),
        MalformedInput, "out of range",
    ),
    "zip64 offset of 2^62": (
        build([entry(central={"offset": FULL}, central_extra=zip64_extra(1 << 62))]),
        MalformedInput, "overlaps",
    ),
    "an end inside the comment": (
        build([ONE], comment=build([Entry(b"a/y", b"")])[-22:]),
        UnsafeInput, "two ends of its directory",
    ),
    "no end": (b"PK\3\4" + b"\0" * 100, TruncatedInput, "without the end record"),
    "nothing": (b"", TruncatedInput, "without the end record"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_lies_is_one_line(fault):
    data, kind, message = FAULTS[fault]
    with bounded(), pytest.raises(InputError) as caught:
        read_all(data)
    assert type(caught.value) is kind
    line = str(caught.value)
    assert line.startswith("model.pth:")
    assert message in line
    assert "\n" not in line


def end64(count=1, size=0, offset=0, *, at=0, signature=b"PK\6\6", disks=1, **plain):
    """The simple file with 64-bit end records that say what they are told."""
    data = build([ONE])
    body, end = data[:-22], data[-22:]
    size, offset = size or len(body) - body.rindex(b"PK\1\2"), offset or body.rindex(b"PK\1\2")
    record = struct.pack("<4sQHHIIQQQQ", signature, 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at or len(body), disks)
    return body + record + locator + end


def test_a_64_bit_end_record_must_agree_with_the_other():
    assert read_all(end64()) == {"a/one": b"first" * 20}
    for fault, message in (
        (end64(count=2), "disagree: expected 2, found 1"),
        (end64(size=1 << 63), "disagree"),
        (end64(at=1 << 40), "not where its locator says"),
        (end64(disks=3), "not where its locator says"),
        (end64(signature=b"PK\6\5"), "no 64-bit end record"),
    ):
        with pytest.raises(MalformedInput, match=message):
            read_all(fault)


def test_a_deflate_bomb_is_not_inflated_into_memory():
    data = b"\0" * (100 << 20)
    directory = directory_of(build([Entry(b"a/data.pkl", data, 8)]))
    with pytest.raises(UnsafeInput, match="too large to be read whole"):
        directory.read(directory.find("a/data.pkl"), 1 << 30)
    # As a tensor it may be read: piece by piece.
    source = directory.open(directory.find("a/data.pkl"))
    assert read_bytes(source, (100 << 20) - 4, 4) == b"\0\0\0\0"


def test_names_that_leave_a_folder_are_only_names():
    data = build([Entry(b"../../etc/passwd", b"1"), Entry(b"/a", b"2"), Entry(b"a\\b", b"3")])
    assert list(read_all(data)) == ["../../etc/passwd", "/a", "a\\b"]


def test_a_file_cut_anywhere_is_an_error_of_the_input():
    data = build(SIMPLE)
    for length in range(len(data)):
        with pytest.raises(InputError):
            read_all(data[:length])


def test_mutations_never_raise_anything_else():
    rng = random.Random(11)
    seeds = [build(SIMPLE), end64()]
    for _ in range(4000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) - 8)
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, FULL)))
            else:
                del data[at : at + rng.randint(1, 8)]
        try:
            read_all(bytes(data))
        except InputError:
            continue
