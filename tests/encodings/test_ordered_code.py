"""OrderedCode: numbers that TensorFlow's own tests and files have, and their order."""

from __future__ import annotations

import random

import pytest

from wtool.encodings.ordered_code import (
    FULL_LENGTH,
    encode_number,
    encode_signed,
    encode_string,
    slice_key,
    slice_key_name,
)
from wtool.errors import InputError


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "80"), (1, "81"), (-1, "7f"), (63, "bf"), (-64, "40"), (64, "c040"), (-65, "3fbf"),
        (0x424242, "f0424242"), (-0x800, "3800"), (2**63 - 1, "ffc07fffffffffffffff"),
        (-(2**63), "003f8000000000000000"),
    ],
)  # fmt: skip
def test_signed_numbers_have_the_codes_of_the_reference(value, code):
    assert encode_signed(value).hex() == code


def test_signed_numbers_sort_as_their_codes():
    rng = random.Random(0)
    values = [rng.getrandbits(rng.randrange(1, 64)) * rng.choice((1, -1)) for _ in range(5000)]
    codes = [encode_signed(value) for value in sorted(set(values))]
    assert codes == sorted(codes)


def test_numbers_have_their_length_in_front():
    assert [encode_number(n).hex() for n in (0, 1, 255, 256)] == ["00", "0101", "01ff", "020100"]


def test_strings_escape_what_ends_them():
    assert encode_string(b"a\x00b\xffc") == b"a\x00\xffb\xff\x00c\x00\x01"


def test_the_key_of_a_slice_is_the_one_that_tensorflow_stores():
    key = slice_key(b"p", [(0, 2), (0, FULL_LENGTH)])
    assert key == bytes.fromhex("00 70 00 01 01 02 80 82 80 7f")
    assert slice_key(b"s", []) == bytes.fromhex("00 73 00 01 00")


@pytest.mark.parametrize("name", [b"", b"part", b"a\x00b", b"\xff\x00\xff", bytes(range(256))])
def test_the_name_comes_back_from_a_key(name):
    assert slice_key_name(slice_key(name, [(3, 4)])) == name


@pytest.mark.parametrize("key", [b"", b"a", b"\x00", b"\x00abc", b"\x00\x00\x02", b"\x00\xff\x01"])
def test_a_broken_key_is_refused(key):
    with pytest.raises(InputError):
        slice_key_name(key)
