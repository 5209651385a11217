"""Snappy: each kind of element by hand after the format description, and what breaks its rules."""

from __future__ import annotations

import pytest
import tf_files as tf

from wtool.encodings.snappy import decompress
from wtool.errors import InputError

LONG = bytes(range(256)) * 300


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x09\x08abc" + bytes((0b000_010_01, 3)), b"abcabcabc"),
        (b"\x09\x08abc" + bytes((5 << 2 | 2, 3, 0)), b"abcabcabc"),
        (b"\x09\x08abc" + bytes((5 << 2 | 3, 3, 0, 0, 0)), b"abcabcabc"),
        (b"\x05\x00a" + bytes((0b000_000_01, 1)), b"aaaaa"),
        (tf.varint(100) + bytes((60 << 2, 99)) + LONG[:100], LONG[:100]),
        (tf.varint(60000) + bytes((61 << 2,)) + (59999).to_bytes(2, "little") + LONG[:60000],
         LONG[:60000]),
        (tf.varint(70000) + bytes((62 << 2,)) + (69999).to_bytes(3, "little") + LONG[:70000],
         LONG[:70000]),
        (tf.varint(700) + bytes((63 << 2,)) + (695).to_bytes(4, "little") + LONG[:696]
         + bytes((0b010_000_01, 0x80)), LONG[:696] + LONG[696 - 640 : 700 - 640]),
    ],
)  # fmt: skip
def test_each_element_gives_its_bytes(data, expected):
    assert decompress(data, max_bytes=1 << 20) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x04\x08abc", "another size than it declares"),
        (b"\x02\x08abc", "another size than it declares"),
        (b"\x09\x08abc" + bytes((0b000_010_01, 0)), "copies from before its start"),
        (b"\x09\x08abc" + bytes((0b000_010_01, 4)), "copies from before its start"),
        (b"\x03\x08ab", "ends within a literal"),
        (b"\x03" + bytes((61 << 2, 1)), "ends within a literal's length"),
        (b"\x09\x08abc" + bytes((5 << 2 | 3, 3)), "ends within a copy"),
        (b"\xff\xff\x7f\x00a", "impossible size"),
        (b"\xff\xff\xff\xff\x0f" + b"a" * 9, "too large"),
        (b"", "varint runs past its end"),
    ],
)
def test_a_broken_block_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        decompress(data, max_bytes=1 << 26)
