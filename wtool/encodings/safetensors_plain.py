"""A safetensors header as the reference writes it: all tensors alike, read with one pattern.

For headers of compact JSON in the order of the data, without escapes in names. For all else the
answer is None: the strict JSON reader and the rules of safetensors_header take it, or say what is
wrong. They decide; what is accepted here they accept, with the same answer.
"""

from __future__ import annotations

import json
import re
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING

from wtool.encodings import strict_json
from wtool.errors import MalformedInput

if TYPE_CHECKING:
    from wtool.encodings.safetensors_header import Entry

WHITESPACE = " \t\r\n"
# Numbers are checked where they are known to be few, or by writing them again.
_TENSOR = (
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+)","shape":\[([0-9,]*)\],'
    r'"data_offsets":\[([0-9]{1,20}),([0-9]{1,20})\]\}([,}])'
)
_FIXED = len('"":{"dtype":"","shape":[],"data_offsets":[,]}')
_SHAPE = r"((0|[1-9][0-9]{0,19})(,(0|[1-9][0-9]{0,19}))*)?"
_METADATA = '{"__metadata__":'


def read_plain(
    data: bytes | bytearray, base: int, available: int
) -> tuple[tuple[tuple[str, Entry], ...], dict] | None:
    """((name, Entry) of each tensor, metadata) of the header `data`, which lies at `base`; None
    where it is not plain, or its tensors do not fill the `available` bytes behind it.
    """
    strict_json.check_size(data, base)
    try:
        text = data.decode("utf-8").rstrip(WHITESPACE)
        metadata, start = _read_metadata(text, base)
    except (ValueError, RecursionError, MalformedInput):
        return None
    found = re.findall(_TENSOR, text[start:])
    if not found:
        return None
    names, dtypes, shapes, begins, ends, separators = zip(*found, strict=True)
    count = len(names)
    columns = (names, dtypes, shapes, begins, ends, separators)
    if (
        sum(len("".join(column)) for column in columns) + count * _FIXED != len(text) - start
        or "".join(separators) != "," * (count - 1) + "}"
        or begins != ("0", *ends[:-1])
        or len({*names, "__metadata__"}) != count + 1
    ):
        return None
    stops = list(map(int, ends))
    if stops[-1] != available or tuple(map(str, stops)) != ends:
        return None
    starts = [0, *stops[:-1]]
    entries = _entries(dtypes, shapes, starts, stops)
    return None if entries is None else (tuple(zip(names, entries, strict=True)), metadata)


def _read_metadata(text: str, base: int) -> tuple[dict, int]:
    """(what stands first as `__metadata__`, where the tensors start); ValueError where no texts."""
    if not text.startswith(_METADATA):
        return {}, len("{") if text.startswith("{") else len(text)
    _, end = json.JSONDecoder().raw_decode(text, len(_METADATA))
    metadata = strict_json.loads(text[len(_METADATA) : end].encode(), base=base)
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise ValueError("metadata of another kind")
    return metadata, end + 1 if text[end : end + 1] == "," else len(text)


def _entries(
    dtypes: tuple[str, ...], shapes: tuple[str, ...], starts: list[int], stops: list[int]
) -> list[Entry] | None:
    """An Entry each; None where a type is unknown, or a shape has another size."""
    from wtool.encodings.safetensors_header import BITS, U64_MAX, Entry, check_size

    kinds = list(zip(dtypes, shapes, map(sub, stops, starts), strict=True))
    # Many tensors have one type, shape and size: each is checked once.
    sizes: dict[tuple[str, str, int], tuple[int, ...]] = {}
    for kind in set(kinds):
        dtype, shape_text, nbytes = kind
        if dtype not in BITS or not re.fullmatch(_SHAPE, shape_text):
            return None
        shape = tuple(map(int, shape_text.split(","))) if shape_text else ()
        if max(shape, default=0) > U64_MAX:
            return None
        try:
            check_size("", Entry(dtype, shape, 0, nbytes))
        except MalformedInput:
            return None
        sizes[kind] = shape
    found = map(sizes.__getitem__, kinds)
    rows = zip(dtypes, found, starts, stops, strict=True)
    return list(map(tuple.__new__, repeat(Entry), rows))
