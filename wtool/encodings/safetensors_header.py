"""The header of a safetensors file: u64 length, JSON, and the rules that tie it to the data.

Source: the reference implementation, safetensors 0.8.0 (`SafeTensors::read_metadata`,
`Metadata::validate`). Every fault is its own message. Stricter than the reference in three places
where two readers could disagree about one file: a name given twice, a tensor written as an array,
and `{"F32": null}` as a type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from wtool.encodings import strict_json
from wtool.encodings.cut_short import cut_short
from wtool.encodings.safetensors_plain import read_plain
from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import Source, read_bytes

LENGTH_NBYTES = 8
# The reference's own limit.
MAX_HEADER_NBYTES = 100_000_000
U64_MAX = (1 << 64) - 1
METADATA_KEY = "__metadata__"

# Bits per element of each type name.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor of the header; begin and end in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """entries: (name, Entry) in the order of their bytes. data_start: offset of the first of them.

    metadata: the file's own text. unknown_fields: names of tensors with fields that the format
    lacks.
    """

    entries: tuple[tuple[str, Entry], ...]
    metadata: dict[str, str]
    data_start: int
    unknown_fields: tuple[str, ...]


def read_header(source: Source) -> Header:
    """The header of `source`, every rule checked, the file's size included; reads no tensor byte.

    Raises TruncatedInput where the file ends early (naming the tensor), MalformedInput or
    UnsafeInput for all other faults.
    """
    length = _header_length(source)
    data = read_bytes(source, LENGTH_NBYTES, length)
    data_start = LENGTH_NBYTES + length
    plain = read_plain(data, LENGTH_NBYTES, source.size - data_start)
    if plain is not None:
        return Header(*plain, data_start, ())
    members = strict_json.loads(data, base=LENGTH_NBYTES, on_object=_compact)
    if type(members) is not dict:
        raise MalformedInput(
            "header is not an object of tensors", expected="{...}", found=_kind(members)
        )
    metadata = _metadata(members.pop(METADATA_KEY, None))
    unknown = []
    for name, value in members.items():
        if type(value) is not Entry:
            members[name], extra = _entry(name, value)
            if extra:
                unknown.append(name)
    entries = tuple(sorted(members.items(), key=lambda member: (member[1].begin, member[1].end)))
    _check_layout(entries, data_start, source)
    return Header(entries, metadata, data_start, tuple(unknown))


def _header_length(source: Source) -> int:
    """Bytes of JSON, checked against the limit and the file."""
    if source.size < LENGTH_NBYTES:
        raise TruncatedInput(
            "file too short for a safetensors header length",
            expected=f"{LENGTH_NBYTES} bytes",
            found=source.size,
        )
    length = int.from_bytes(read_bytes(source, 0, LENGTH_NBYTES), "little")
    if length > MAX_HEADER_NBYTES:
        raise UnsafeInput(
            "header too large", offset=0, expected=f"at most {MAX_HEADER_NBYTES}", found=length
        )
    if LENGTH_NBYTES + length > source.size:
        raise TruncatedInput(
            "the file ends within its header",
            offset=source.size,
            expected=f"{length} bytes of header",
            found=source.size - LENGTH_NBYTES,
            hint="the download or copy was cut short: fetch it again",
        )
    return length


def _compact(pairs: strict_json.Pairs) -> Any:
    """An Entry where the pairs are a sound tensor in the usual form, else a dict for `_entry`."""
    if len(pairs) == 3:
        (key1, dtype), (key2, shape), (key3, offsets) = pairs
        if (
            key1 == "dtype"
            and key2 == "shape"
            and key3 == "data_offsets"
            and type(shape) is list
            and type(offsets) is list
            and len(offsets) == 2
            and type(dtype) is str
            and dtype in BITS
            and all(type(size) is int and 0 <= size <= U64_MAX for size in shape)
        ):
            begin, end = offsets
            if type(begin) is int and type(end) is int and begin >= 0 and 0 <= end <= U64_MAX:
                return Entry(dtype, tuple(shape), begin, end)
    return dict(pairs)


def _entry(name: str, value: Any) -> tuple[Entry, bool]:
    """(Entry, whether it has unknown fields) of an object not in the usual form, or the fault."""
    if type(value) is not dict:
        raise MalformedInput(
            "tensor is not an object",
            tensor=name,
            expected="{dtype, shape, data_offsets}",
            found=_kind(value),
        )
    for field in ("dtype", "shape", "data_offsets"):
        if field not in value:
            raise MalformedInput(f"tensor has no {field}", tensor=name)
    dtype = value["dtype"]
    if type(dtype) is not str or dtype not in BITS:
        found = repr(dtype) if isinstance(dtype, str | int) else _kind(dtype)
        raise MalformedInput("unknown dtype", tensor=name, expected=", ".join(BITS), found=found)
    shape = _sizes(name, "shape", value["shape"])
    offsets = _sizes(name, "data_offsets", value["data_offsets"])
    if len(offsets) != 2:
        raise MalformedInput(
            "bad data_offsets",
            tensor=name,
            expected="[begin, end]",
            found=f"{len(offsets)} numbers",
        )
    return Entry(dtype, shape, offsets[0], offsets[1]), len(value) > 3


def _sizes(name: str, field: str, value: Any) -> tuple[int, ...]:
    """`value` as integers from 0 to 2^64 - 1."""
    if type(value) is not list:
        raise MalformedInput(f"{field} is not a list", tensor=name, found=_kind(value))
    for number in value:
        if type(number) is not int or not 0 <= number <= U64_MAX:
            raise MalformedInput(
                f"bad number in {field}",
                tensor=name,
                expected="an integer from 0 to 2^64 - 1",
                found=str(number)[:40] if isinstance(number, str | int) else _kind(number),
            )
    return tuple(value)


def _metadata(value: Any) -> dict[str, str]:
    """The `__metadata__` member: text to text; absent and null are empty."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise MalformedInput(
            f"{METADATA_KEY} is not an object of texts",
            found="a tensor" if type(value) is Entry else _kind(value),
        )
    for key, text in value.items():
        if type(text) is not str:
            raise MalformedInput(
                f"{METADATA_KEY} value is not text", found=f"{_kind(text)} for {key[:80]!r}"
            )
    return value


def _check_layout(entries: tuple[tuple[str, Entry], ...], data_start: int, source: Source) -> None:
    """The tensors fill the bytes behind the header: no hole, no overlap, nothing left over."""
    available = source.size - data_start
    position = 0
    for name, entry in entries:
        if entry.end < entry.begin:
            raise MalformedInput(
                "data ends before it begins",
                tensor=name,
                expected=f"an end from {entry.begin} on",
                found=entry.end,
            )
        if entry.begin != position:
            fault = "a hole before" if entry.begin > position else "overlapping bytes in"
            raise MalformedInput(
                f"{fault} the tensor's data",
                tensor=name,
                offset=data_start + entry.begin,
                expected=f"data_offsets from {position} on",
                found=f"{entry.begin}",
            )
        check_size(name, entry)
        position = entry.end
    if position > available:
        spans = ((name, data_start + e.begin, data_start + e.end) for name, e in entries)
        error = cut_short(source.name, source.size, spans)
        if error is not None:
            raise error
    if position < available:
        raise MalformedInput(
            "bytes after the last tensor",
            offset=data_start + position,
            expected=f"a file of {data_start + position} bytes",
            found=source.size,
        )


def check_size(name: str, entry: Entry) -> None:
    """Shape x bits is the length of the data; the product stays in u64, taken left to right."""
    count = 1
    for size in entry.shape:
        count *= size
        if count > U64_MAX:
            break
    bits = count * BITS[entry.dtype]
    if bits > U64_MAX:
        raise MalformedInput(
            "too many elements", tensor=name, expected="at most 2^64 - 1 bits", found=entry.shape
        )
    if bits % 8:
        raise MalformedInput(
            f"{entry.dtype} tensor does not end on a byte",
            tensor=name,
            expected="a whole number of bytes",
            found=f"{bits} bits for shape {entry.shape}",
        )
    if entry.end - entry.begin != bits // 8:
        raise MalformedInput(
            "size differs from the shape",
            tensor=name,
            expected=f"{bits // 8} bytes for {entry.dtype} {entry.shape}",
            found=entry.end - entry.begin,
        )


def _kind(value: Any) -> str:
    """What a JSON value is, for messages."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
    return names.get(type(value), "a number")
