"""Cut zip files that attack: one line, bounded time; test_doctor has those that torch wrote."""

import struct
import time

import pytest
from pickle_code import integer, pickle, storage, tensor, text
from zip_bytes import Entry, build

from wtool.errors import TruncatedInput
from wtool.formats import open_checkpoint

# 2^40 references to one empty tuple in forty pairs; a tuple too deep for Python's stack.
SHARED = b")" + b"2\x86" * 40
DEEP = b")" + b"\x85" * 100_000
HUGE = integer(1 << 20_000)
DATA = bytes(16)


def cut(tmp_path, *records: tuple[str, bytes]):
    """The error of a zip file of these records that lacks its directory."""
    path = tmp_path / "cut.pth"
    whole = build([Entry(name.encode(), data) for name, data in records])
    path.write_bytes(whole[: whole.index(b"PK\1\2")])
    with pytest.raises(TruncatedInput) as caught:
        open_checkpoint(path)
    return caught.value


def model(key: bytes, place: bytes) -> tuple[str, bytes]:
    return "a/data.pkl", pickle(b"}" + key + tensor(place) + b"s")


@pytest.mark.parametrize("key", [SHARED, DEEP, HUGE])
def test_a_storage_whose_key_is_no_text_is_nobodys(tmp_path, key):
    error = cut(tmp_path, model(text("w"), storage(key=key)), ("a/data/0", DATA))
    assert error.tensor is None
    assert "behind the record 'a/data/0'" in str(error)


def test_a_tensor_under_a_huge_integer_is_named_by_its_size(tmp_path):
    error = cut(tmp_path, model(HUGE, storage(key=text("1"))), ("a/data/0", DATA))
    assert error.tensor == "<integer of 20001 bits>"
    assert "1 of 1 tensors are not whole" in str(error)


def test_long_names_are_cut(tmp_path):
    long = "w" * 100_000
    error = cut(tmp_path, model(text(long), storage()), ("a/data/" + "0" * 60_000, DATA))
    assert len(str(error)) < 2_000


def test_one_pickle_is_read_however_many_records_say_that_they_are_it(tmp_path):
    """Each record's bytes skip all that follows and end in one pickle of 200,000 numbers."""
    heavy = b"](" + b"K\1" * 200_000 + b"e."
    body = heavy
    for _ in range(600):
        skip = b"B" + struct.pack("<I", len(body) - len(heavy))
        name = b"a/data.pkl"
        head = struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(skip), len(skip), len(name), 0
        )
        body = head + name + skip + body
    path = tmp_path / "cut.pth"
    path.write_bytes(body)
    start = time.process_time()
    with pytest.raises(TruncatedInput):
        open_checkpoint(path)
    assert time.process_time() - start < 5
