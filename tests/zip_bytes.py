"""Zip files written field by field, so that each field can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field


@dataclass
class Entry:
    """One member. `local` and `central` override fields of one header only."""

    name: bytes
    data: bytes
    method: int = 0
    packed: bytes | None = None
    local: dict = field(default_factory=dict)
    central: dict = field(default_factory=dict)
    extra: bytes = b""
    central_extra: bytes = b""

    def __post_init__(self):
        if self.packed is None:
            self.packed = deflate(self.data) if self.method == 8 else self.data


def deflate(data: bytes) -> bytes:
    """Raw deflate."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def build(
    entries: list[Entry], *, end: dict | None = None, comment: bytes = b"", prefix: bytes = b""
) -> bytes:
    """The file. `end` overrides fields of the end record: disk, here, count, size, offset."""
    out = bytearray(prefix)
    directory = bytearray()
    for entry in entries:
        start = len(out)
        fields = {
            "signature": b"PK\3\4", "flags": 0, "method": entry.method,
            "crc": zlib.crc32(entry.data), "packed": len(entry.packed), "size": len(entry.data),
            "name": entry.name, "extra_size": len(entry.extra), "offset": start, "disk": 0,
        }  # fmt: skip
        here = fields | entry.local
        out += struct.pack(
            "<4sHHHHHIIIHH", here["signature"], 20, here["flags"], here["method"], 0, 0,
            here["crc"], here["packed"], here["size"], len(here["name"]), here["extra_size"],
        )  # fmt: skip
        out += here["name"] + entry.extra + entry.packed
        there = fields | {"signature": b"PK\1\2"} | entry.central
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", there["signature"], 20, 20, there["flags"], there["method"],
            0, 0, there["crc"], there["packed"], there["size"], len(there["name"]),
            len(entry.central_extra), 0, there["disk"], 0, 0, there["offset"],
        )  # fmt: skip
        directory += there["name"] + entry.central_extra
    last = {
        "disk": 0, "here": len(entries), "count": len(entries), "size": len(directory),
        "offset": len(out), "comment": len(comment),
    } | (end or {})  # fmt: skip
    out += directory
    out += struct.pack(
        "<4sHHHHIIH", b"PK\5\6", last["disk"], last["disk"], last["here"], last["count"],
        last["size"], last["offset"], last["comment"],
    )  # fmt: skip
    return bytes(out + comment)
