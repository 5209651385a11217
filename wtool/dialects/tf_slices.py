"""TensorSliceProto: which part of a tensor a slice covers, and the key under which it is stored.

A dimension without a length is whole; its key says (0, -1). One stored as (0, n) is whole too, but
has another key, so the extents are kept exactly as stored.

Source: TensorFlow 2.21 `core/framework/tensor_slice.proto`, `tensor_slice.cc`.
"""

from __future__ import annotations

from wtool.encodings.ordered_code import FULL_LENGTH
from wtool.encodings.protobuf import LENGTH, VARINT, expect, fields, signed
from wtool.errors import MalformedInput
from wtool.extents import MAX_RANK

# Of one tensor. Writers make tens (one per device or shard); a million is an attack.
MAX_SLICES = 100_000

Extents = tuple[tuple[int, int], ...]


def read_slice(data: bytes, start: int, stop: int, shape: tuple[int, ...]) -> Extents:
    """(start, length) per dimension as stored, FULL_LENGTH for none, of a slice of `shape`.

    Raises MalformedInput where the slice has another rank or reaches outside.
    """
    extents: list[tuple[int, int]] = []
    for field in fields(data, start, stop):
        if field[0] != 1:
            continue
        expect(field, LENGTH, "extent of a slice")
        if len(extents) == MAX_RANK:
            raise MalformedInput("slice has too many dimensions", expected=f"at most {MAX_RANK}")
        extents.append(_read_extent(data, field[2], field[3]))
    if len(extents) != len(shape):
        raise MalformedInput(
            "slice and tensor differ in rank", expected=len(shape), found=len(extents)
        )
    for (begin, length), size in zip(extents, shape, strict=True):
        whole = length == FULL_LENGTH
        if begin < 0 or (whole and begin) or (not whole and (length < 0 or begin + length > size)):
            raise MalformedInput(
                "slice outside its tensor",
                expected=f"within 0:{size}",
                found=f"{begin}:{begin + length}" if not whole else f"{begin}:",
            )
    return tuple(extents)


def slice_box(extents: Extents, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(starts, sizes) of a slice of `shape`."""
    starts = tuple(begin for begin, _ in extents)
    sizes = tuple(
        size if length == FULL_LENGTH else length
        for (_, length), size in zip(extents, shape, strict=True)
    )
    return starts, sizes


def _read_extent(data: bytes, start: int, stop: int) -> tuple[int, int]:
    begin, length = 0, FULL_LENGTH
    for field in fields(data, start, stop):
        if field[0] == 1:
            expect(field, VARINT, "start of a slice")
            begin = signed(field[2])
        elif field[0] == 2:
            # A member of a oneof: written even where it is 0.
            expect(field, VARINT, "length of a slice")
            length = signed(field[2])
            if length < 0:
                raise MalformedInput("negative length of a slice", found=length)
    return begin, length
