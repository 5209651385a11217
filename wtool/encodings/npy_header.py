"""The header of a `.npy` array: a small parser for the one Python literal that NumPy writes.

Never evaluated, never unpickled. Source: NumPy 2.4 `numpy/lib/format.py`, format versions 1.0 to
3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput, UnsupportedError
from wtool.sources import Source, read_bytes

MAGIC = b"\x93NUMPY"
# A header of three short values takes 128 bytes; NumPy itself stops at 10,000.
MAX_HEADER_NBYTES = 1 << 16
MAX_RANK = 64
# 2^64 - 1 has 20 digits.
MAX_DIGITS = 20
MAX_LISTED = 4

# Type characters after the byte order, as NumPy's `descr` has them -> name of the element type.
# `f1` is what ml_dtypes gives float8_e5m2; all its other types appear as bare bytes, `V1` and `V2`.
TYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "f1": "float8_e5m2",
    "c16": "complex128", "c8": "complex64",
    "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8",
    "b1": "bool", "V1": "bits8", "V2": "bits16",
}  # fmt: skip
UNSUPPORTED = {
    "U": "text", "S": "byte strings", "a": "byte strings", "M": "dates", "m": "time spans",
    "V": "raw records", "f": "long doubles", "c": "long double complex numbers",
}  # fmt: skip
_NO_NUMBERS = frozenset("USaMm")
_TOKEN = re.compile(
    r"[ \t\n\r\f]*(?:'(?P<single>[^'\\\n]*)'|\"(?P<double>[^\"\\\n]*)\"|(?P<number>0|[1-9][0-9]*)L?"
    r"|(?P<word>True|False)|(?P<mark>[{}\[\](),:]))"
)


class NoNumbers(UnsupportedError):
    """The array is sound, and what it holds is no numbers: text, dates."""


@dataclass(frozen=True)
class NpyHeader:
    """dtype: name of the element type. data_start: offset in bytes of the first element.

    fortran_order: the first index moves fastest. big_endian: bytes of each component are swapped.
    """

    dtype: str
    shape: tuple[int, ...]
    fortran_order: bool
    big_endian: bool
    data_start: int


def read_header(source: Source) -> NpyHeader:
    """The header at the start of `source`.

    Raises MalformedInput where it is not what NumPy writes, UnsafeInput for Python objects,
    UnsupportedError for sound arrays that are no tensor (text, records, dates), each with the
    reason.
    """
    if source.size < 10 or bytes(read_bytes(source, 0, 6)) != MAGIC:
        raise MalformedInput("not a NumPy array", offset=0, expected="\\x93NUMPY")
    major, minor = read_bytes(source, 6, 2)
    if major not in (1, 2, 3) or minor != 0:
        raise MalformedInput(
            "unknown version of the array format", expected="1.0 to 3.0", found=f"{major}.{minor}"
        )
    width = 2 if major == 1 else 4
    length = int.from_bytes(read_bytes(source, 8, width), "little")
    if length > MAX_HEADER_NBYTES:
        raise UnsafeInput(
            "array header too long", expected=f"at most {MAX_HEADER_NBYTES} bytes", found=length
        )
    start = 8 + width
    if start + length > source.size:
        raise TruncatedInput(
            "the file ends within the array header",
            expected=f"{start + length} bytes",
            found=source.size,
        )
    raw = read_bytes(source, start, length)
    try:
        text = raw.decode("latin-1" if major < 3 else "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput("array header is not UTF-8", offset=start + error.start) from error
    descr, fortran_order, shape = _parse(text)
    dtype, big_endian = _type_of(descr)
    return NpyHeader(dtype, shape, fortran_order, big_endian, start + length)


def _type_of(descr: str) -> tuple[str, bool]:
    """(name of the element type, whether it is big-endian) of NumPy's `descr` text."""
    order, code = (descr[0], descr[1:]) if descr[:1] in ("<", ">", "|", "=") else ("|", descr)
    if code.startswith("O"):
        raise UnsafeInput(
            "array of Python objects: its data is a pickle, which is never read",
            found=repr(descr[:20]),
            hint="save it as an array of numbers",
        )
    if code in TYPES:
        return TYPES[code], order == ">"
    kind = UNSUPPORTED.get(code[:1])
    if kind and re.fullmatch(r"[0-9]{0,10}(\[[0-9A-Za-z]{1,8}\])?", code[1:]):
        error = NoNumbers if code[0] in _NO_NUMBERS else UnsupportedError
        raise error(f"array of {kind} is not a tensor", found=repr(descr[:20]))
    raise MalformedInput("unknown array type", found=repr(descr[:40]))


def _parse(text: str) -> tuple[str, bool, tuple[int, ...]]:
    """(descr, fortran_order, shape) of the literal `{'descr': ..., 'fortran_order': ..., ...}`."""
    tokens = _tokens(text)
    values: dict[str, str | bool | tuple[int, ...]] = {}
    _expect(tokens, "{")
    token = next(tokens)
    while token != ("mark", "}"):
        if token[0] != "text" or token[1] in values:
            raise _broken(f"key {token[1]!r}")
        _expect(tokens, ":")
        values[token[1]] = _value(tokens, text)
        token = next(tokens)
        if token == ("mark", ","):
            token = next(tokens)
        elif token != ("mark", "}"):
            raise _broken(repr(token[1]))
    if next(tokens)[0] != "end":
        raise _broken("text after the closing brace")
    descr, order, shape = (values.get(key) for key in ("descr", "fortran_order", "shape"))
    if len(values) != 3 or type(descr) is not str:
        raise _broken(f"keys {', '.join(values)}"[:200])
    if type(order) is not bool or type(shape) is not tuple:
        raise _broken("values of other types")
    return descr, order, shape


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each token, then ("end", ""), for ever."""
    position = 0
    end = len(text.rstrip(" \t\n\r\f"))
    while position < end:
        match = _TOKEN.match(text, position, end)
        if match is None:
            raise _broken(repr(text[position : position + 12]))
        kind = match.lastgroup or ""
        yield "text" if kind in ("single", "double") else kind, match.group(kind)
        position = match.end()
    while True:
        yield "end", ""


def _value(tokens: Iterator[tuple[str, str]], text: str) -> str | bool | tuple[int, ...]:
    """A text, True, False, or a tuple of integers; UnsupportedError for a list of fields."""
    kind, token = next(tokens)
    if kind == "text":
        return token
    if kind == "word":
        return token == "True"
    if token == "[":
        fields = re.findall(r"\(\s*'([^'\\]{1,60})'", text)
        raise UnsupportedError(
            "structured array is not a tensor",
            found=f"fields {', '.join(fields[:MAX_LISTED])}{', ...' * (len(fields) > MAX_LISTED)}",
        )
    if token != "(":
        raise _broken(repr(token))
    sizes: list[int] = []
    kind, token = next(tokens)
    while token != ")":
        if kind != "number" or len(token) > MAX_DIGITS or len(sizes) >= MAX_RANK:
            raise _broken(f"dimension {token[:40]!r}")
        sizes.append(int(token))
        kind, token = next(tokens)
        if token == ",":
            kind, token = next(tokens)
        elif token != ")" or len(sizes) == 1:
            raise _broken(f"shape with {token!r}")
    return tuple(sizes)


def _expect(tokens: Iterator[tuple[str, str]], mark: str) -> None:
    token = next(tokens)
    if token != ("mark", mark):
        raise _broken(f"{token[1]!r} for {mark!r}")


def _broken(found: str) -> MalformedInput:
    return MalformedInput(
        "array header is not what NumPy writes",
        expected="{'descr': text, 'fortran_order': bool, 'shape': tuple}",
        found=found,
    )
