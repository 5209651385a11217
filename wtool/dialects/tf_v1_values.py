"""Values of a slice in a TensorFlow V1 checkpoint: the typed lists of a TensorProto.

Floats, doubles and complex numbers are packed little-endian arrays; integers, halves and booleans
are varints; strings are one field each. Nothing says type or shape here; they stand in the file's
meta.

Source: TensorFlow 2.21 `core/framework/tensor.proto`, `core/util/saved_tensor_slice_util.h`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.encodings.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Field, expect, fields
from wtool.errors import MalformedInput

if TYPE_CHECKING:
    import numpy as np

# Number of the TensorProto field that holds the values of each type.
VALUE_FIELDS = {"float32": 5, "float64": 6, "string": 8, "complex64": 9, "int64": 10, "bool": 11}
VALUE_FIELDS |= {"complex128": 12, "float16": 13}
VALUE_FIELDS |= dict.fromkeys(
    ("int32", "int16", "int8", "uint8", "uint16", "qint8", "quint8", "qint16", "quint16", "qint32"),
    7,
)
# Types whose packed list is the array itself.
RAW = frozenset(("float32", "float64", "complex64", "complex128"))


def decode_values(
    data: bytes, start: int, stop: int, dtype: DType, shape: tuple[int, ...]
) -> np.ndarray:
    """The array (shape, carrier) in the TensorProto `data[start:stop]`."""
    import math

    import numpy

    number = VALUE_FIELDS[dtype.name]
    found = [field for field in fields(data, start, stop) if field[0] == number]
    count = math.prod(shape)
    if dtype.kind == "string":
        for field in found:
            expect(field, LENGTH, "string of a tensor")
        _check_count(len(found), count)
        strings = numpy.empty(count, object)
        strings[:] = [data[a:b] for _, _, a, b in found]
        return strings.reshape(shape)
    if dtype.name in RAW:
        raw = b"".join(_raw(data, field, dtype) for field in found)
        if len(raw) % dtype.itemsize:
            raise MalformedInput("packed values end within one", found=f"{len(raw)} bytes")
        _check_count(len(raw) // dtype.itemsize, count)
        return (
            numpy.frombuffer(raw, dtype.carrier.newbyteorder("<"))
            .astype(dtype.carrier)
            .reshape(shape)
        )
    packed = b"".join(_packed(data, field) for field in found)
    return _integers(packed, count, dtype).reshape(shape)


def _raw(data: bytes, field: Field, dtype: DType) -> bytes:
    """The bytes of one occurrence of a float list, packed or not."""
    width = dtype.itemsize // dtype.components
    if field[1] == LENGTH:
        return data[field[2] : field[3]]
    expect(field, FIXED32 if width == 4 else FIXED64, "values of a tensor")
    return field[2].to_bytes(width, "little")


def _packed(data: bytes, field: Field) -> bytes:
    """The varints of one occurrence of an integer list, packed or not, as bytes."""
    if field[1] == LENGTH:
        return data[field[2] : field[3]]
    expect(field, VARINT, "values of a tensor")
    value, out = field[2], bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integers(packed: bytes, count: int, dtype: DType) -> np.ndarray:
    """(count,) values of `dtype` from varints; each must lie in its range."""
    import numpy

    codes = numpy.frombuffer(packed, numpy.uint8)
    ends = numpy.flatnonzero(codes < 0x80) + 1
    if len(codes) and (not len(ends) or ends[-1] != len(codes)):
        raise MalformedInput("varint runs past its end")
    _check_count(len(ends), count)
    starts = numpy.concatenate((numpy.zeros(1, ends.dtype), ends))[:-1]
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    if longest > 10:
        raise MalformedInput("varint too long", expected="at most 10 bytes", found=longest)
    values = numpy.zeros(count, numpy.uint64)
    for place in range(longest):
        longer = numpy.flatnonzero(lengths > place)
        part = (codes[starts[longer] + place] & 0x7F).astype(numpy.uint64)
        if place == 9 and part.max(initial=0) > 1:
            raise MalformedInput("varint does not fit in 64 bits")
        values[longer] |= part << numpy.uint64(7 * place)
    signed = values.view(numpy.int64)
    if dtype.name == "float16":
        _check_range(signed, 0, 0xFFFF)
        return values.astype(numpy.uint16).view(numpy.float16)
    if dtype.kind == "bool":
        return values != 0
    limits = numpy.iinfo(dtype.carrier)
    _check_range(signed, int(limits.min), int(limits.max))
    return signed.astype(dtype.carrier)


def _check_count(found: int, expected: int) -> None:
    if found != expected:
        raise MalformedInput("slice holds another number of values", expected=expected, found=found)


def _check_range(values: np.ndarray, low: int, high: int) -> None:
    if len(values) and (values.min() < low or values.max() > high):
        raise MalformedInput(
            "value out of the range of its type",
            expected=f"{low} to {high}",
            found=f"{values.min()} to {values.max()}",
        )
