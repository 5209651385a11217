"""HDF5 datatypes and dataspaces: which element type, how many, in which byte order.

Source: HDF5 File Format Specification 3.0, sections IV.A.2.b and IV.A.2.d.
"""

from __future__ import annotations

from typing import NamedTuple

from wtool.encodings.hdf5_image import Fields
from wtool.errors import MalformedInput

MAX_RANK = 32
# Compounds and arrays may nest; what Keras writes nests two deep.
MAX_DEPTH = 4

# (bytes, exponent bits, mantissa bits, exponent bias) of the floats that have a name.
_FLOATS = {
    (8, 11, 52, 1023): "float64",
    (4, 8, 23, 127): "float32",
    (2, 5, 10, 15): "float16",
    (2, 8, 7, 127): "bfloat16",
    (1, 5, 2, 15): "float8_e5m2",
    (1, 4, 3, 7): "float8_e4m3fn",
}
_CLASSES = {
    2: "dates", 4: "bit fields", 7: "references", 9: "sequences of any length", 10: "arrays",
}  # fmt: skip


class Hdf5Type(NamedTuple):
    """One element type.

    name: wtool's name of it where it is a number; "string" for text; None for all else.
    size: bytes of one element as stored. what: what it is, for messages.
    padding: of strings: 0 ends at the first NUL, 1 filled with NUL, 2 filled with spaces.
    vlen: text of any length, stored elsewhere and pointed to.
    """

    name: str | None
    size: int
    what: str
    big_endian: bool = False
    padding: int = 0
    vlen: bool = False


def parse_type(fields: Fields, depth: int = 0) -> Hdf5Type:
    """The datatype at the cursor; a sound type without a name in wtool is no error here."""
    if depth > MAX_DEPTH:
        raise MalformedInput("HDF5 datatype nests too deeply", offset=fields.offset)
    class_and_version, bits, size = fields.number(1), fields.number(3), fields.number(4)
    kind, version = class_and_version & 15, class_and_version >> 4
    if not 1 <= version <= 5 or size == 0:
        raise MalformedInput(
            "bad HDF5 datatype", offset=fields.offset - 8, found=f"version {version}, size {size}"
        )
    if kind == 0:
        return _fixed(fields, bits, size)
    if kind == 1:
        return _float(fields, bits, size)
    if kind == 3:
        return Hdf5Type("string", size, "text", padding=bits & 15)
    if kind == 5:
        # NumPy's bare bytes, which is how h5py stores bfloat16.
        name = {1: "bits8", 2: "bits16"}.get(size)
        return Hdf5Type(name, size, f"opaque records of {size} bytes")
    if kind == 6:
        return _compound(fields, bits & 0xFFFF, version, size, depth)
    if kind == 8:
        return _enumeration(fields, bits & 0xFFFF, version, size, depth)
    if kind == 9 and bits & 15 == 1:
        return Hdf5Type("string", size, "text of any length", vlen=True)
    if kind in _CLASSES:
        return Hdf5Type(None, size, _CLASSES[kind])
    raise MalformedInput("unknown class of HDF5 datatype", offset=fields.offset - 8, found=kind)


def _fixed(fields: Fields, bits: int, size: int) -> Hdf5Type:
    offset, precision = fields.numbers(2, 2)
    if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
        return Hdf5Type(None, size, f"integers of {precision} bits in {size} bytes")
    name = f"{'int' if bits & 8 else 'uint'}{precision}"
    return Hdf5Type(name, size, name, big_endian=bool(bits & 1))


def _float(fields: Fields, bits: int, size: int) -> Hdf5Type:
    offset, precision = fields.numbers(2, 2)
    exponent_at, exponent, mantissa_at, mantissa, bias = fields.numbers(1, 1, 1, 1, 4)
    order = bits & 0x41
    usual = (
        (offset, precision, mantissa_at, exponent_at) == (0, 8 * size, 0, mantissa)
        and bits >> 8 & 0xFF == precision - 1
        and bits >> 4 & 3 == 2
        and order in (0, 1)
    )
    name = _FLOATS.get((size, exponent, mantissa, bias)) if usual else None
    return Hdf5Type(name, size, name or f"unusual floats of {size} bytes", big_endian=order == 1)


def _compound(fields: Fields, count: int, version: int, size: int, depth: int) -> Hdf5Type:
    """Complex numbers, which h5py stores as a record of two floats "r" and "i"; else a record."""
    members = []
    for _ in range(min(count, 3)):
        name = _member_name(fields, version)
        if version >= 3:
            at = fields.number((size.bit_length() + 7) // 8)
        else:
            at = fields.number(4)
        if version == 1:
            fields.skip(28)
        members.append((name, at, parse_type(fields, depth + 1)))
    if count == 2:
        (first, at0, real), (second, at1, imaginary) = members
        half = size // 2
        if (
            (first, second, at0, at1) == (b"r", b"i", 0, half)
            and real == imaginary
            and real.name in ("float64", "float32")
            and size == 2 * real.size
        ):
            pair = f"complex{8 * size}"
            return Hdf5Type(pair, size, pair, big_endian=real.big_endian)
    return Hdf5Type(None, size, f"records of {count} fields")


def _enumeration(fields: Fields, count: int, version: int, size: int, depth: int) -> Hdf5Type:
    """Truth values, which h5py stores as one byte named FALSE and TRUE; else the bare integers."""
    base = parse_type(fields, depth + 1)
    if count == 2 and size == base.size == 1:
        names = [_member_name(fields, version) for _ in range(2)]
        if names == [b"FALSE", b"TRUE"] and fields.take(2) == b"\0\1":
            return Hdf5Type("bool", 1, "bool")
    return base if base.size == size else Hdf5Type(None, size, "named values")


def _member_name(fields: Fields, version: int) -> bytes:
    """A name that ends with NUL, padded to 8 bytes before version 3."""
    end = fields.data.find(b"\0", fields.position)
    if end < 0:
        raise MalformedInput("name without an end in an HDF5 datatype", offset=fields.offset)
    size = end - fields.position
    name = fields.take(size)
    fields.skip(1 if version >= 3 else 8 - size % 8)
    return name


def parse_space(fields: Fields) -> tuple[int, ...] | None:
    """The shape of the dataspace at the cursor: () for a scalar, None for a null space."""
    version = fields.version(1, 2)
    rank, flags = fields.numbers(1, 1)
    kind = 1
    if version == 1:
        fields.skip(5)
    else:
        kind = fields.number(1)
    if rank > MAX_RANK or kind > 2 or (kind != 1 and rank):
        raise MalformedInput(
            "bad HDF5 dataspace", offset=fields.offset, found=f"rank {rank}, kind {kind}"
        )
    shape = tuple(fields.length() for _ in range(rank))
    if flags & 1:
        fields.skip(rank * fields.length_size)
    return None if kind == 2 else shape
