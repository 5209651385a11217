"""Seeded damage to a file's bytes: what disks, networks and attackers do, in small."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Values at which lengths, offsets and counts tip over.
TELLING = (
    b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8, b"\xff" * 7 + b"\x7f",
    b"\x00" * 7 + b"\x80", b"\x00" * 8, b"\x80" * 10, b"\xf0\xff\xff\xff\xff\xff\xff\xff",
)  # fmt: skip
# Digits in a text header.
NUMBERS = (b"-1", b"0", b"1e9", b"NaN", b"9" * 19, b"9" * 30, b"18446744073709551615", b"null")


def mutated(data: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    """`data` with one to three kinds of damage; `others` are files that a splice may take from."""
    result = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        generator.choice(KINDS)(result, generator, others)
    return bytes(result)


def _place(data: bytearray, generator: random.Random) -> int:
    """A position, more often near an end, where headers and directories are."""
    near = generator.choice((64, 600, len(data)))
    place = generator.randrange(max(1, min(near, len(data))))
    return place if generator.random() < 0.5 else max(0, len(data) - 1 - place)


def _flip_bits(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(generator.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, generator)] ^= 1 << generator.randrange(8)


def _set_bytes(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, generator)
    value = generator.choice(TELLING)
    data[place : place + len(value)] = value


def _set_random(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, generator)
    data[place : place + 1] = generator.randbytes(1)


def _cut(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    del data[generator.randrange(len(data) + 1) :]


def _remove(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, generator)
    del data[place : place + generator.choice((1, 2, 4, 8, 64))]


def _insert(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, generator)
    data[place:place] = generator.choice((generator.randbytes(4), *TELLING, *NUMBERS))


def _swap_fields(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    width = generator.choice((1, 2, 4, 8))
    if len(data) >= 2 * width:
        first, second = (min(_place(data, generator), len(data) - width) for _ in range(2))
        one, two = data[first : first + width], data[second : second + width]
        data[first : first + width], data[second : second + width] = two, one


def _repeat(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, generator)
    piece = data[place : place + generator.choice((1, 8, 40, 200))]
    data[place:place] = piece * generator.choice((1, 1, 3))


def _splice(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    source = generator.choice(others)
    if source:
        start = generator.randrange(len(source))
        piece = source[start : start + generator.choice((4, 16, 100))]
        place = _place(data, generator)
        data[place : place + len(piece)] = piece


def _change_digits(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    if digits:
        place = generator.choice(digits)
        value = generator.choice((*NUMBERS, b"%d" % generator.randrange(100)))
        data[place : place + 1] = value


KINDS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _set_random,
    _cut,
    _remove,
    _insert,
    _swap_fields,
    _repeat,
    _splice,
    _change_digits,
)
