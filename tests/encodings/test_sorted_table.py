"""The sorted table: what a right one holds, and that a wrong one is refused where it is wrong."""

from __future__ import annotations

import pytest
import tf_files as tf

from wtool.encodings.sorted_table import decode_entries, open_table
from wtool.encodings.table_lookup import Lookup
from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import BytesSource, read_bytes

ENTRIES = [(f"layer/{i:03d}/weight".encode(), bytes((i % 256,)) * (i % 7)) for i in range(100)]


def opened(data: bytes):
    return open_table(BytesSource(data, "t.index"))


def entries_of(data: bytes):
    return list(opened(data).entries())


def in_blocks(size: int):
    return [ENTRIES[start : start + size] for start in range(0, len(ENTRIES), size)]


@pytest.mark.parametrize("interval", [1, 3, 16, 1000])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_table_gives_back_its_entries_in_order(size, interval):
    assert entries_of(tf.table(in_blocks(size), interval)) == ENTRIES


def test_a_snappy_block_reads_like_a_plain_one():
    content = tf.block(ENTRIES)
    assert entries_of(tf.assemble([(b"z", tf.snappy_literals(content), 1)])) == ENTRIES


def test_a_value_is_found_by_its_key_without_its_neighbours():
    lookup = Lookup(opened(tf.table(in_blocks(7))))
    for key, value in ENTRIES:
        found = lookup.value(key)
        assert bytes(read_bytes(found, 0, found.size)) == value
    with pytest.raises(MalformedInput, match="key is not in the table"):
        lookup.value(b"layer/0000")
    with pytest.raises(MalformedInput, match="key is not in the table"):
        lookup.value(b"zzz")


def test_a_value_in_a_large_block_is_a_window_on_the_file():
    big = bytes(range(256)) * (5 << 12)
    entries = [(b"aa", b"1"), (b"aab", big), (b"aac", b"3")]
    data = tf.table([entries])
    lookup = Lookup(opened(data))
    for key, value in entries:
        found = lookup.value(key)
        assert bytes(read_bytes(found, 0, found.size)) == value
    with pytest.raises(MalformedInput, match="not in the table"):
        lookup.value(b"aabb")
    broken = bytearray(data)
    broken[2 << 20] ^= 1
    with pytest.raises(MalformedInput, match="block damaged"):
        Lookup(opened(bytes(broken))).value(b"aab")


def test_every_flipped_byte_is_noticed():
    data = tf.table(in_blocks(40))
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0x40
        with pytest.raises(InputError):
            entries_of(bytes(broken))


def test_every_cut_is_noticed():
    data = tf.table(in_blocks(40))
    for size in range(len(data)):
        with pytest.raises(InputError):
            entries_of(data[:size])


def test_bytes_in_front_are_noticed():
    with pytest.raises(InputError):
        entries_of(b"junk" + tf.table(in_blocks(40)))


def with_footer(*handles: tuple[int, int]) -> bytes:
    data = tf.table([ENTRIES])
    footer = b"".join(tf.varint(a) + tf.varint(b) for a, b in handles)
    return data[:-48] + footer.ljust(40, b"\0") + tf.MAGIC


@pytest.mark.parametrize(
    ("handles", "message"),
    [
        (((0, 1 << 63), (0, 8)), "block outside the file"),
        (((1 << 63, 8), (0, 8)), "block outside the file"),
        (((0, 8), (10**9, 8)), "block outside the file"),
    ],
)
def test_a_block_outside_the_file_is_refused_before_memory_is_taken(handles, message):
    with pytest.raises(TruncatedInput, match=message):
        opened(with_footer(*handles))


def test_a_footer_with_bytes_in_its_padding_is_refused():
    data = bytearray(tf.table([ENTRIES]))
    data[-9] = 1
    with pytest.raises(MalformedInput, match="footer not padded"):
        opened(bytes(data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\xff", "fewer restarts"),
        (b"abc", "block too short"),
        (tf.block([(b"b", b""), (b"a", b"")]), "out of order or repeated"),
        (tf.block([(b"a", b""), (b"a", b"")]), "out of order or repeated"),
        (b"\x05\x01\x00a" + bytes(4) + b"\1\0\0\0", "shares more bytes"),
        (b"\x00\x01\x7fa" + bytes(4) + b"\1\0\0\0", "runs past its block"),
        (b"\x00\x01" + bytes(4) + b"\1\0\0\0", "varint runs past its end"),
        (b"\xff" * 11 + bytes(4) + b"\1\0\0\0", "varint too long"),
        (tf.block([(b"a", b"x")], restarts=[1]), "restart where no whole key begins"),
    ],
)
def test_a_broken_block_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        decode_entries(content)


def test_keys_out_of_order_across_blocks_are_refused():
    one, two = in_blocks(50)
    data = tf.assemble([(b"a", tf.block(two), 0), (b"b", tf.block(one), 0)])
    with pytest.raises(MalformedInput, match=r"beyond the index entry"):
        entries_of(data)
    data = tf.assemble([(b"x", tf.block(two), 0), (b"y", tf.block(one), 0)])
    with pytest.raises(MalformedInput, match=r"out of order across blocks"):
        entries_of(data)


def test_two_index_entries_for_one_block_are_refused():
    content = tf.block(ENTRIES)
    handle = tf.varint(0) + tf.varint(len(content))
    out = tf.sealed(content)
    meta = tf.varint(len(out)) + tf.varint(8)
    out += tf.sealed(tf.block([]))
    index = tf.block([(b"y", handle), (b"z", handle)], interval=1)
    place = tf.varint(len(out)) + tf.varint(len(index))
    out += tf.sealed(index)
    with pytest.raises(MalformedInput, match="blocks overlap"):
        opened(out + (meta + place).ljust(40, b"\0") + tf.MAGIC)


def test_an_unknown_compression_is_refused():
    with pytest.raises(MalformedInput, match="unknown compression"):
        entries_of(tf.assemble([(b"z", tf.block(ENTRIES), 2)]))


def test_a_snappy_block_that_declares_gigabytes_is_refused():
    bomb = tf.varint(1 << 31) + bytes(100)
    with pytest.raises(UnsafeInput, match="compressed block too large"):
        entries_of(tf.assemble([(b"z", bomb, 1)]))
