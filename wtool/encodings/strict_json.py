"""JSON as RFC 8259 has it, from untrusted bytes: nothing lenient, bounded depth and memory.

Python's `json` also takes NaN and Infinity, keeps the last of two equal keys, turns `-0` into 0,
reads integers of any length in quadratic time and lets lone surrogates through; here each is an
error, or a value that no caller takes for an integer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wtool.errors import MalformedInput, UnsafeInput

# serde_json, which reads the same files for safetensors, refuses level 128.
MAX_DEPTH = 127
# A value costs up to about 60 bytes once parsed, a container 72 to 250: together under half a
# gigabyte. 1.6 million containers are half a million tensors of a safetensors header.
MAX_VALUES = 4_000_000
MAX_CONTAINERS = 1_600_000
# One character outside ASCII makes Python hold the whole text in two or four bytes a character.
MAX_WIDE_NBYTES = 32 << 20
# 2^64 - 1 has 20 digits.
MAX_INTEGER_DIGITS = 20

Pairs = list[tuple[str, Any]]


class Number(str):
    """A number as written that is no plain integer: fraction, exponent, `-0`, over 20 digits."""

    __slots__ = ()


def loads(
    data: bytes | bytearray,
    *,
    base: int = 0,
    on_object: Callable[[Pairs], Any] | None = None,
) -> Any:
    """The value of one JSON text: dict, list, str, int, Number, bool, None.

    base: offset of `data` in its file, for messages. on_object: makes a value of an object's pairs
    (in order, keys unique) in place of a dict; what it makes is not looked into again.

    Raises MalformedInput with the byte where the text breaks the rules: encoding, syntax, duplicate
    key, lone surrogate, more than MAX_DEPTH levels; UnsafeInput where it would take too much
    memory.
    """
    check_size(data, base)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput(
            "JSON is not UTF-8", offset=base + error.start, found=f"byte 0x{data[error.start]:02x}"
        ) from error
    return _parse(text, base, on_object, b"\\ud" in data or b"\\uD" in data)


def _parse(text: str, base: int, on_object: Callable[[Pairs], Any] | None, surrogates: bool) -> Any:
    """The value of `text`. surrogates: whether an escape may have made a lone one."""
    import json

    def make_object(pairs: Pairs) -> Any:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise MalformedInput("JSON object has a key twice", found=repr(_first_repeated(pairs)))
        return members if on_object is None else on_object(pairs)

    decoder = json.JSONDecoder(
        object_pairs_hook=make_object,
        parse_int=_integer,
        parse_float=_fraction,
        parse_constant=_refuse_constant,
    )
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedInput(
            f"JSON is malformed: {error.msg[:1].lower()}{error.msg[1:]}",
            offset=base + len(text[: error.pos].encode("utf-8", "surrogatepass")),
            found=repr(text[error.pos : error.pos + 12]) if error.pos < len(text) else "the end",
        ) from error
    except RecursionError as error:
        raise MalformedInput(
            "JSON nests too deeply", expected=f"at most {MAX_DEPTH} levels"
        ) from error
    _walk(value, surrogates)
    return value


def _walk(value: Any, surrogates: bool) -> None:
    """MalformedInput where containers nest too deeply or a string has a lone surrogate."""
    level: list[Any] = [[value]]
    depth = -1
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise MalformedInput("JSON nests too deeply", expected=f"at most {MAX_DEPTH} levels")
        deeper: list[Any] = []
        for container in level:
            if type(container) is dict:
                if surrogates:
                    for key in container:
                        _check_text(key)
                container = container.values()
            for item in container:
                kind = type(item)
                if kind is dict or kind is list:
                    deeper.append(item)
                elif surrogates and kind is str:
                    _check_text(item)
        level = deeper


def check_size(data: bytes | bytearray, base: int) -> None:
    """UnsafeInput where parsing could take far more memory than the text; counts are bounds."""
    values = data.count(b",")
    containers = data.count(b"[") + data.count(b"{")
    if values > MAX_VALUES or containers > MAX_CONTAINERS:
        raise UnsafeInput(
            "JSON holds too many values",
            offset=base,
            expected=f"at most {MAX_VALUES} commas and {MAX_CONTAINERS} brackets",
            found=f"{values} and {containers}",
        )
    if len(data) > MAX_WIDE_NBYTES and not data.isascii():
        raise UnsafeInput(
            "JSON with characters outside ASCII is too long",
            offset=base,
            expected=f"at most {MAX_WIDE_NBYTES} bytes",
            found=f"{len(data)}",
        )


def _integer(text: str) -> int | Number:
    """A plain integer; what Python would quietly repair or take quadratic time for stays text."""
    if len(text) > MAX_INTEGER_DIGITS or text == "-0":
        return Number(text)
    return int(text)


def _fraction(text: str) -> Number:
    """A fraction or a number with an exponent, as written; it must fit a float64."""
    if abs(float(text)) == float("inf"):
        raise MalformedInput("JSON number out of range", found=text[:40])
    return Number(text)


def _refuse_constant(text: str) -> Any:
    raise MalformedInput("JSON has no such number", found=text)


def _first_repeated(pairs: Pairs) -> str:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            return key[:200]
        seen.add(key)
    return ""


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise MalformedInput("JSON string has a lone surrogate", found=f"\\u{code:04x}") from error
