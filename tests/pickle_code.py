"""Pickles written opcode by opcode, for what no pickler writes."""

from __future__ import annotations

import struct


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """BININT where it fits, else LONG1 or LONG4."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) < 256:
        return b"\x8a" + bytes([len(raw)]) + raw
    return b"\x8b" + struct.pack("<I", len(raw)) + raw


def name(full: str) -> bytes:
    """GLOBAL of "module name"."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(full: str, *args: bytes) -> bytes:
    """REDUCE of a global on arguments that are opcodes already."""
    return name(full) + b"(" + b"".join(args) + b"tR"


def sizes(*values: int) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: bytes = text("0"),
    location: bytes = text("cpu"),
    numel: bytes = integer(4),
) -> bytes:
    """BINPERSID of a storage."""
    return b"(" + text("storage") + kind + key + location + numel + b"tQ"


EMPTY_HOOKS = b"ccollections\nOrderedDict\n)R"


def tensor(
    place: bytes | None = None,
    offset: bytes = integer(0),
    size: bytes = sizes(4),
    stride: bytes = sizes(1),
) -> bytes:
    """A call of torch._utils._rebuild_tensor_v2."""
    place = storage() if place is None else place
    return call(
        "torch._utils._rebuild_tensor_v2", place, offset, size, stride, b"\x89", EMPTY_HOOKS
    )


def pickle(*body: bytes) -> bytes:
    """PROTO 2, the body, STOP."""
    return b"\x80\x02" + b"".join(body) + b"."
