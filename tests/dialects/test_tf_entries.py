"""Entries of a bundle: the quick reader of usual ones agrees with the one for all of them."""

from __future__ import annotations

import random

import pytest
import tf_files as tf

from wtool.dialects.tf_entries import read_entry, read_shape
from wtool.errors import WtoolError


def outcome(value: bytes, shapes):
    try:
        return read_entry(value, shapes)
    except WtoolError as error:
        return str(error)


def test_an_entry_reads_the_same_whether_its_shape_was_seen_before_or_not():
    rng = random.Random(1)
    quick = 0
    for _ in range(20_000):
        sizes = [rng.choice((0, 1, 5, 300)) for _ in range(rng.randrange(4))]
        value = bytearray(
            tf.entry(
                rng.choice((1, 3, 9, 19)),
                sizes,
                offset=rng.choice((0, 5, 2**40, 2**60)),
                size=rng.choice((0, 7, 2**33)),
                shard=rng.choice((0, 1)),
                crc=rng.choice((0, 77)),
            )
        )
        for _ in range(rng.randrange(3)):
            telling = (0, 1, 8, 0x12, 0x18, 0x20, 0x28, 0x35, 0x80, 0xFF, rng.randrange(256))
            value[rng.randrange(len(value))] = rng.choice(telling)
        value = bytes(value)
        first = outcome(value, {})
        # With its shape known an entry may take the quick way; without, it never does.
        known = {tf.shape(sizes): read_shape(tf.shape(sizes))}
        assert outcome(value, known) == first
        quick += not isinstance(first, str)
    assert quick > 5000


def test_fields_of_an_entry_are_those_that_were_written():
    value = tf.entry(9, (2, 3), offset=2**40, size=48, shard=7, crc=0xDEADBEEF)
    known = {tf.shape((2, 3)): read_shape(tf.shape((2, 3)))}
    for shapes in ({}, known):
        entry = read_entry(value, shapes)
        assert entry.dtype.name == "int64"
        assert entry.shape == (2, 3)
        assert (entry.offset, entry.size, entry.shard) == (2**40, 48, 7)
        assert entry.crc32c == 0xDEADBEEF


@pytest.mark.parametrize("message", [b"\x12\x02\x08\x80", b"\x0a", b"\x12\x05ab"])
def test_a_broken_shape_is_refused(message):
    with pytest.raises(WtoolError):
        read_shape(message)
