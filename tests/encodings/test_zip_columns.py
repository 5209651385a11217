"""Directories and headers by column: always the answer, or the error, of the loops."""

import random
import struct
import zipfile
from pathlib import Path

import pytest
from test_zip_directory import FAULTS, FULL, directory_of, zip64_extra
from zip_bytes import Entry, build

import wtool
from wtool.encodings import zip_columns, zip_directory
from wtool.encodings.zip_columns import Columns, read_columns
from wtool.encodings.zip_directory import read_directory
from wtool.errors import InputError
from wtool.sources import BytesSource, FileSource


def answer(data: bytes, monkeypatch, many: int):
    """All that is said of `data`, where columns are tried from `many` members on."""
    monkeypatch.setattr(zip_directory, "MANY_MEMBERS", many)
    try:
        directory = directory_of(data)
        directory.check_headers()
    except InputError as error:
        return type(error), str(error)
    return directory.names, list(directory.entries), directory.starts, directory.stored_sizes()


def both(data: bytes, monkeypatch):
    """What is said of `data`, by column and by the loops alike."""
    said = answer(data, monkeypatch, many=1)
    assert said == answer(data, monkeypatch, many=1 << 30)
    return said


def entries(count: int) -> list[Entry]:
    return [Entry(b"a/data/%d" % i, bytes([i % 256]) * (i % 70)) for i in range(count)]


def is_read_by_column(data: bytes, monkeypatch) -> bool:
    monkeypatch.setattr(zip_directory, "MANY_MEMBERS", 1)
    directory = directory_of(data)
    if not isinstance(directory.entries, Columns):
        return False
    everything = range(len(directory.names))
    return directory.entries.read_starts(directory.source, everything) is not None


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_the_same_error(fault, monkeypatch):
    both(FAULTS[fault][0], monkeypatch)


LONE = [
    fault for fault, (data, *_) in FAULTS.items() if data.count(b"PK\1\2") == 1 and data[0] == 0x50
]


@pytest.mark.parametrize("fault", LONE)
def test_each_fault_among_many_members_is_the_same_error(fault, monkeypatch):
    """The faulty entry stands among 300 good ones, its lies are kept."""
    data = FAULTS[fault][0]
    at, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    good = entries(300)
    whole = build(good)
    first, last = whole.index(b"PK\1\2"), whole.rindex(b"PK\5\6")
    central = bytearray(data[at:end])
    (offset,) = struct.unpack_from("<I", central, 42)
    if offset != FULL:
        struct.pack_into("<I", central, 42, (offset + first) % (1 << 32))
    body = whole[:first] + data[:at]
    directory = whole[first:last] + central
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 301, 301, len(directory), len(body), 0)
    both(body + directory + tail, monkeypatch)


PLAIN = {
    "torch's names": entries(1200),
    "one member": entries(1),
    "names of other alphabets": [Entry(f"a/слой/{i}".encode(), b"1") for i in range(50)],
    "upper case": [Entry(b"Model/data/%d" % i, b"12") for i in range(120)],
    "extra fields in local headers": [
        Entry(b"a/%d" % i, b"123", extra=b"FB" + struct.pack("<H", i) + b"Z" * i)
        for i in range(64)
    ],
    "sizes that only the directory has": [
        Entry(b"a/%d" % i, b"123", local={"size": size, "packed": size})
        for i, size in enumerate([0, 3, FULL])
    ],
    "members far apart": [Entry(b"a/%d" % i, bytes(9000 * (i % 3))) for i in range(60)],
}  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_members_are_read_by_column(kind, monkeypatch):
    data = build(PLAIN[kind])
    assert is_read_by_column(data, monkeypatch)
    names, members, starts, sizes = both(data, monkeypatch)
    assert names == [entry.name.decode() for entry in PLAIN[kind]]
    assert sizes == [len(entry.data) for entry in PLAIN[kind]]
    assert [data[start : start + size] for start, size in zip(starts, sizes, strict=True)] == [
        entry.data for entry in PLAIN[kind]
    ]
    assert all(type(value) is int for member in members for value in member[2:])


FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("name", ["digits-cnn.pth", "topics-rnn-training.pth", "digits-cnn.npz"])
def test_files_of_torch_and_numpy_are_read_by_column(name, monkeypatch):
    data = (FIXTURES / name).read_bytes()
    assert is_read_by_column(data, monkeypatch)
    names, members, *_ = both(data, monkeypatch)
    with zipfile.ZipFile(FIXTURES / name) as archive:
        assert names == archive.namelist()
        assert [(m.crc, m.nbytes, m.header_offset) for m in members] == [
            (found.CRC, found.file_size, found.header_offset) for found in archive.infolist()
        ]


def test_a_torch_file_opened_by_column_is_the_same_checkpoint(monkeypatch):
    path = str(FIXTURES / "digits-cnn.pth")
    expected = wtool.open(path)
    monkeypatch.setattr(zip_directory, "MANY_MEMBERS", 1)
    found = wtool.open(path)
    assert list(found.tensors) == list(expected.tensors)
    for tensor, other in zip(found, expected, strict=True):
        assert (tensor.offset, tensor.shape) == (other.offset, other.shape)
        assert tensor.load().tobytes() == other.load().tobytes()
    assert wtool.ls(found).rows == wtool.ls(expected).rows


OTHERS = {
    "deflated": [*entries(50), Entry(b"a/x", b"1" * 99, 8)],
    "code page of the first PCs": [*entries(50), Entry(b"a/\x81", b"1")],
    "a comment's signature in a name": [*entries(50), Entry(b"a/PK\1\2" + b"x" * 50, b"1")],
    "signature in a checksum": [Entry(b"a/x", b"1", central={"crc": 0x02014B50})],
    "zip64 field nobody needs": [*entries(50), Entry(b"a/x", b"1", central_extra=zip64_extra(1))],
    "names of many sizes": [Entry(b"a" * i, b"1") for i in range(1, 90)],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_read_by_the_loops(kind, monkeypatch):
    data = build(OTHERS[kind])
    assert not is_read_by_column(data, monkeypatch)
    names, *_ = both(data, monkeypatch)
    assert len(names) == len(OTHERS[kind])


def test_one_odd_header_among_others_is_left_to_the_loop(monkeypatch):
    """Sizes of both kinds in one batch; and a local header with a data descriptor's flag."""
    odd = entries(100)
    odd[7].local = {"size": 0, "packed": 0}
    odd[50].local = {"flags": 8}
    assert is_read_by_column(build(odd), monkeypatch)
    both(build(odd), monkeypatch)


def test_members_in_another_order_than_the_directory(monkeypatch):
    data = build(entries(80))
    first, last = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    rows = data[first:last].split(b"PK\1\2")[1:]
    random.Random(3).shuffle(rows)
    shuffled = data[:first] + b"".join(b"PK\1\2" + row for row in rows) + data[last:]
    assert not is_read_by_column(shuffled, monkeypatch)
    names, _, starts, sizes = both(shuffled, monkeypatch)
    found = {name: shuffled[s : s + n] for name, s, n in zip(names, starts, sizes, strict=True)}
    assert found == {entry.name.decode(): entry.data for entry in entries(80)}


def test_members_beyond_four_gigabytes(tmp_path, monkeypatch):
    """A sparse file: 40 members of 256 MB, the last of them with offsets in the zip64 field."""
    size, count = 256 << 20, 40
    path = tmp_path / "far.pth"
    directory = bytearray()
    with open(path, "wb") as file:
        for index in range(count):
            name = b"a/data/%d" % index
            at = file.tell()
            file.write(
                struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, size, size, len(name), 0)
            )
            file.write(name)
            file.seek(size, 1)
            extra = zip64_extra(at) if at >= FULL else b""
            directory += struct.pack(
                "<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, size, size, len(name),
                len(extra), 0, 0, 0, 0, min(at, FULL),
            )  # fmt: skip
            directory += name + extra
        at = file.tell()
        file.write(directory)
        end = file.tell()
        file.write(
            struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - at, at)
            + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
            + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, FULL, FULL, 0)
        )
    found = []
    for many in (1, 1 << 30):
        monkeypatch.setattr(zip_directory, "MANY_MEMBERS", many)
        opened = read_directory(FileSource(path))
        opened.check_headers()
        assert isinstance(opened.entries, Columns) == (many == 1)
        found.append((opened.names, list(opened.entries), opened.starts))
    assert found[0] == found[1]
    assert found[0][2][-1] == at - size
    for place in range(12):  # each byte of the last member's zip64 field
        changed = bytearray(directory)
        changed[-12 + place] ^= 1
        assert read_columns(bytes(changed), count, at) is None


@pytest.mark.parametrize("where", ["directory", "local header"])
def test_any_changed_byte_gives_the_answer_of_the_loops(where, monkeypatch):
    data = build(entries(20))
    first, last = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    span = range(first, last) if where == "directory" else range(first)
    for at in span:
        for flip in (0x01, 0x20, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            both(bytes(changed), monkeypatch)


@pytest.mark.slow
def test_mutations_give_the_answer_of_the_loops(monkeypatch):
    rng = random.Random(5)
    seeds = [build(PLAIN[kind]) for kind in ("upper case", "extra fields in local headers")]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) - 8)
            match rng.randrange(3):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, FULL)))
                case 2:
                    data[at : at + 4] = rng.choice((b"PK\1\2", b"PK\3\4", b"\0\0\0\0"))
        both(bytes(data), monkeypatch)


def test_batches_of_headers_are_put_together(monkeypatch):
    monkeypatch.setattr(zip_columns, "BATCH_BYTES", 5000)
    monkeypatch.setattr(zip_columns, "WINDOW_BYTES", 1000)
    data = build(PLAIN["members far apart"] + entries(500))
    assert is_read_by_column(data, monkeypatch)
    both(data, monkeypatch)


def test_some_members_only(monkeypatch):
    monkeypatch.setattr(zip_directory, "MANY_MEMBERS", 1)
    data = build(entries(30))
    directory = read_directory(BytesSource(data, "model.pth"))
    directory.check_headers([7, 3, 20])
    plain = [m.header_offset + 30 + len(m.raw_name) for m in directory.entries]
    expected = [plain[k] if k in (3, 7, 20) else -1 for k in range(30)]
    assert directory.starts == expected
    directory.check_headers([])
    assert directory.starts == expected
    assert directory.data_start(directory.find("a/data/9")) == plain[9]


def test_as_many_members_as_it_takes_are_what_zipfile_reads(tmp_path):
    """Read by column without being told so."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(zip_directory.MANY_MEMBERS):
            archive.writestr(f"a/data/{index}", str(index))
    directory = read_directory(FileSource(path))
    assert isinstance(directory.entries, Columns)
    directory.check_headers()
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for number, found in enumerate(archive.infolist()):
            member = directory.entries[number]
            assert (member.name, member.header_offset, member.crc, member.nbytes) == (
                found.filename, found.header_offset, found.CRC, found.file_size
            )  # fmt: skip
            start = directory.starts[number]
            assert data[start : start + member.nbytes] == str(number).encode()


def central(**changes) -> bytes:
    """The directory of one stored member, which may lie."""
    data = build([Entry(b"a/x", b"12345678", **changes)])
    return data[data.index(b"PK\1\2") : data.rindex(b"PK\5\6")]


def test_what_a_zip64_field_may_say():
    """In a file that could be that large; a field that names the offset and nothing else."""
    far = {"offset": FULL}
    big = {"size": FULL, "packed": FULL}
    end = 1 << 40
    assert read_columns(central(central=far, central_extra=zip64_extra(1 << 39)), 1, end)
    for changes in (
        {"central": far},
        {"central": far, "central_extra": zip64_extra(end + 1)},
        {"central": far, "central_extra": zip64_extra((1 << 64) - 100)},
        {"central": far, "central_extra": zip64_extra(1, 2)},
        {"central": far, "central_extra": b"\t\0\0\0" + zip64_extra(1)},
        {"central": far, "central_extra": b"\t\0\0\0"},
        {"central": big},
        {"central": big, "central_extra": zip64_extra(5, 5)},
    ):
        assert read_columns(central(**changes), 1, end) is None


def test_a_directory_that_begins_or_ends_elsewhere(monkeypatch):
    data = build(entries(30))
    first = data.index(b"PK\1\2")
    size = data.rindex(b"PK\5\6") - first
    for changes in (
        {"offset": first - 10, "size": size + 10},
        {"offset": first + 46 + len(b"a/data/0"), "size": size - 46 - len(b"a/data/0")},
        {"size": size - 5},
    ):
        kind, _ = both(build(entries(30), end=changes), monkeypatch)
        assert issubclass(kind, InputError)
    last = Entry(b"a/longer than a whole entry, and then PK\1\2", b"1")
    kind, _ = both(build([*entries(30), last], end={"here": 32, "count": 32}), monkeypatch)
    assert issubclass(kind, InputError)
