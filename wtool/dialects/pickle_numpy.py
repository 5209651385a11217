"""NumPy arrays and scalars as they are pickled, by both names of NumPy's inner modules (1 and 2).

Element types are read by our own list; no text of the file reaches NumPy.
Source: NumPy 2.4 `_core/multiarray`, `_core/numeric._frombuffer`; NEP 52 for the renamed modules.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

from wtool.dtypes import DTYPES, ML_DTYPES, DType
from wtool.encodings.pickle_nodes import Call, Global, raw_bytes
from wtool.errors import MalformedInput, shorten

RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

_CODE = re.compile(r"([biufcSUVOMmag])(\d{0,10})")
_NUMBERS = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip
_SCALAR_CODES = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "float16": "e", "float32": "f", "float64": "d", "complex64": "ff", "complex128": "dd",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ElementType:
    """dtype: None where elements are not numbers. nbytes: of one element, None where not known."""

    dtype: DType | None
    nbytes: int | None
    big_endian: bool


@dataclass(frozen=True, slots=True, eq=False)
class PickledArray:
    """dtype: None where elements are not numbers. fortran: whether the first index runs fastest."""

    dtype: DType | None
    shape: tuple[int, ...]
    data: bytes
    fortran: bool
    big_endian: bool


def read_array(node: Any) -> PickledArray | None:
    """The array that a node stands for; None where it is no array or holds Python objects.

    Raises MalformedInput where bytes and shape do not agree.
    """
    if type(node) is not Call:
        return None
    if node.full in RECONSTRUCT:
        state = node.state
        if not isinstance(state, tuple) or len(state) != 5:
            raise MalformedInput("state of a NumPy array", expected="5 values")
        _, shape, element_node, fortran, content = state
    elif node.full in FROM_BUFFER:
        if len(node.args) != 4:
            raise MalformedInput("arguments of a NumPy array", expected=4, found=len(node.args))
        content, element_node, shape, order = node.args
        fortran = order == "F"
    else:
        return None
    element = read_element_type(element_node)
    data = raw_bytes(content)
    if element is None or data is None or element.nbytes is None:
        return None
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedInput("shape of a NumPy array", expected="a tuple of integers")
    if math.prod(shape) * element.nbytes != len(data):
        raise MalformedInput(
            "NumPy array of another size than its shape",
            expected=f"{shape} x {element.nbytes} bytes",
            found=f"{len(data)} bytes",
        )
    return PickledArray(element.dtype, shape, data, bool(fortran), element.big_endian)


def read_scalar(node: Any) -> Any:
    """The number that a pickled NumPy scalar stands for; None where it is none."""
    if type(node) is not Call or node.full not in SCALAR or len(node.args) != 2:
        return None
    element = read_element_type(node.args[0])
    data = raw_bytes(node.args[1])
    code = (
        None if element is None or element.dtype is None else _SCALAR_CODES.get(element.dtype.name)
    )
    if element is None or data is None or code is None:
        return None
    if len(data) != element.nbytes:
        raise MalformedInput(
            "NumPy scalar of another size than its type",
            expected=f"{element.nbytes} bytes",
            found=f"{len(data)}",
        )
    values = struct.unpack((">" if element.big_endian else "<") + code, data)
    return complex(*values) if len(values) == 2 else values[0]


def read_element_type(node: Any) -> ElementType | None:
    """What a pickled numpy.dtype says; None where the node is none.

    Raises MalformedInput for a type code that NumPy does not have.
    """
    if type(node) is not Call or node.full != "numpy.dtype" or not node.args:
        return None
    code, state = node.args[0], node.state
    order = state[1] if isinstance(state, tuple) and len(state) >= 2 else "<"
    big_endian = order == ">"
    if type(code) is Global:
        if code.module == "ml_dtypes" and code.name in ML_DTYPES and code.name in DTYPES:
            dtype = DTYPES[code.name]
            return ElementType(dtype, dtype.itemsize, False) if dtype.bits >= 8 else None
        return None
    if not isinstance(code, str):
        raise MalformedInput("NumPy type code is no text", found=type(code).__name__)
    match = _CODE.fullmatch(code)
    if match is None:
        raise MalformedInput("NumPy type code is unknown", found=shorten(repr(code[:40])))
    known = _NUMBERS.get(code)
    if known is not None:
        return ElementType(DTYPES[known], DTYPES[known].itemsize, big_endian)
    kind, width = match[1], int(match[2] or 0)
    if kind in "SVa":
        return ElementType(None, width, big_endian)
    return ElementType(None, 4 * width if kind == "U" else None, big_endian)
