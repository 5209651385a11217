"""HDF5 object headers: the messages of one object, and the meaning of those that datasets need.

Source: HDF5 File Format Specification 3.0, sections IV.A.1 and IV.A.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from wtool.encodings.hdf5_image import Fields, Image
from wtool.encodings.hdf5_types import Hdf5Type, parse_space, parse_type
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError

(SPACE, LINK_INFO, TYPE, FILL, LINK, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION) = (
    0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x10,
)  # fmt: skip
SYMBOL_TABLE, ATTRIBUTE_INFO = 0x11, 0x15
SHARED = 0x02

MAX_MESSAGES = 100_000
MAX_CONTINUATIONS = 10_000
# A chunk is decompressed whole.
MAX_CHUNK_NBYTES = 128 << 20
MAX_FILTERS = 8


class Message(NamedTuple):
    """One message of an object header: its kind, its bytes, and where they are in the file."""

    kind: int
    shared: bool
    data: bytes
    offset: int


@dataclass(frozen=True)
class Filter:
    """One step that was applied to each chunk: its number in HDF5's registry and its parameters."""

    number: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a dataset's bytes are.

    kind: "compact" or "contiguous", with address and nbytes; "chunked", with the address of the
    chunk index and the shape of a chunk in elements. address is None where nothing was ever
    written.
    """

    kind: str
    address: int | None
    nbytes: int = 0
    chunk: tuple[int, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """A named value of an object, not yet decoded. shape is None for an empty value."""

    name: str
    type: Hdf5Type
    shape: tuple[int, ...] | None
    data: bytes


def read_messages(image: Image, address: int) -> list[Message]:
    """All messages of the object whose header is at `address`, continuation blocks included."""
    prefix = image.read(address, 16, "HDF5 object header")
    if prefix.startswith(b"OHDR"):
        return _read_version_2(image, address)
    fields = image.cursor(prefix, address, "HDF5 object header")
    fields.version(1)
    fields.skip(1)
    count, _, size = fields.numbers(2, 4, 4)
    messages: list[Message] = []
    blocks = [(address + 16, size)]
    seen = set(blocks)
    for start, nbytes in blocks:
        block = image.fields(start, nbytes, "HDF5 object header block")
        while block.left >= 8 and len(messages) < count:
            kind, length, flags = block.numbers(2, 2, 1)
            block.skip(3)
            _add(image, messages, Message(kind, bool(flags & SHARED), b"", block.offset), block,
                 length, blocks, seen)  # fmt: skip
    return messages


def _read_version_2(image: Image, address: int) -> list[Message]:
    """Messages of a header that begins with OHDR."""
    what = "HDF5 object header"
    nbytes = min(40, image.source.size - address)
    fields = image.fields(address, nbytes, what, b"OHDR")
    fields.version(2)
    flags = fields.number(1)
    if flags & 0x20:
        fields.skip(16)
    if flags & 0x10:
        fields.skip(4)
    size = fields.number(1 << (flags & 3))
    messages: list[Message] = []
    blocks = [(fields.offset, size)]
    seen = set(blocks)
    for index, (start, length) in enumerate(blocks):
        if index == 0:
            block = image.fields(start, length, what)
        else:
            block = image.fields(start, max(length - 4, 4), what, b"OCHK")
        # What is left at the end is a gap too small for a message.
        while block.left >= (6 if flags & 4 else 4):
            kind, length, message_flags = block.numbers(1, 2, 1)
            if flags & 4:
                block.skip(2)
            _add(image, messages, Message(kind, bool(message_flags & SHARED), b"", block.offset),
                 block, length, blocks, seen)  # fmt: skip
    return messages


def _add(
    image: Image,
    messages: list[Message],
    message: Message,
    block: Fields,
    length: int,
    blocks: list[tuple[int, int]],
    seen: set[tuple[int, int]],
) -> None:
    """Take the message's bytes; a continuation adds its block to the work."""
    data = block.take(length)
    messages.append(message._replace(data=data))
    if len(messages) > MAX_MESSAGES or len(blocks) > MAX_CONTINUATIONS:
        raise UnsafeInput("HDF5 object header too long", offset=message.offset)
    if message.kind == CONTINUATION:
        fields = image.cursor(data, message.offset, "HDF5 continuation message")
        target = (fields.address(), fields.length())
        if target[0] is None or target in seen:
            raise MalformedInput("HDF5 object header continues in a loop", offset=message.offset)
        seen.add((target[0], target[1]))
        blocks.append((target[0], target[1]))


def parse_layout(image: Image, message: Message, type: Hdf5Type) -> Layout:
    """The layout of a dataset of `type`; UnsafeInput where its values are in other files."""
    fields = image.cursor(message.data, message.offset, "HDF5 data layout")
    version = fields.number(1)
    if version not in (3, 4):
        raise UnsupportedError(
            "HDF5 data layout of another version", offset=message.offset, expected="3 or 4",
            found=version,
        )  # fmt: skip
    kind = fields.number(1)
    if kind == 0:
        size = fields.number(2)
        address = fields.offset
        fields.skip(size)
        return Layout("compact", address, size)
    if kind == 1:
        return Layout("contiguous", fields.address(), fields.length())
    if kind == 3:
        raise UnsafeInput("virtual dataset: its values are in other files, which are never opened")
    if kind != 2:
        raise MalformedInput("unknown HDF5 data layout", offset=message.offset, found=kind)
    if version == 4:
        raise UnsupportedError(
            "chunks with an index of HDF5 1.10 or later are not read",
            hint="save the file with libver='earliest'",
        )
    rank = fields.number(1)
    index = fields.address()
    sizes = tuple(fields.number(4) for _ in range(rank))
    if rank < 2 or 0 in sizes or sizes[-1] != type.size:
        raise MalformedInput("bad chunk shape", offset=message.offset, found=sizes)
    nbytes = 1
    for size in sizes:
        nbytes *= size
    if nbytes > MAX_CHUNK_NBYTES:
        raise UnsafeInput(
            "chunk too large", expected=f"at most {MAX_CHUNK_NBYTES} bytes", found=nbytes
        )
    return Layout("chunked", index, nbytes, sizes[:-1])


def parse_fill(image: Image, message: Message) -> bytes:
    """One element as stored, for places that were never written; empty where it is zero."""
    fields = image.cursor(message.data, message.offset, "HDF5 fill value")
    version = fields.version(1, 2, 3)
    if version == 3:
        defined = fields.number(1) & 0x20
    else:
        fields.skip(2)
        defined = fields.number(1) or version == 1
    value = fields.take(fields.number(4)) if defined else b""
    return value if value.strip(b"\0") else b""


def parse_filters(image: Image, message: Message) -> tuple[Filter, ...]:
    """The filters of a dataset, in the order in which they were applied on writing."""
    fields = image.cursor(message.data, message.offset, "HDF5 filter pipeline")
    version = fields.version(1, 2)
    count = fields.number(1)
    if count > MAX_FILTERS:
        raise UnsafeInput(
            "too many HDF5 filters", offset=message.offset, expected=MAX_FILTERS, found=count
        )
    if version == 1:
        fields.skip(6)
    filters = []
    for _ in range(count):
        number = fields.number(2)
        name_size = fields.number(2) if version == 1 or number >= 256 else 0
        _, values = fields.numbers(2, 2)
        fields.skip(name_size + (-name_size % 8 if version == 1 else 0))
        filters.append(Filter(number, tuple(fields.number(4) for _ in range(values))))
        if version == 1 and values % 2:
            fields.skip(4)
    return tuple(filters)


def parse_attribute(image: Image, data: bytes, offset: int) -> Attribute:
    """One attribute message, its value still as bytes."""
    fields = image.cursor(data, offset, "HDF5 attribute")
    version = fields.version(1, 2, 3)
    flags = fields.number(1)
    name_size, type_size, space_size = fields.numbers(2, 2, 2)
    if version == 3:
        fields.skip(1)
    padding = 8 if version == 1 else 1
    raw = fields.take(name_size)
    fields.skip(-name_size % padding)
    name = decode_name(raw.rstrip(b"\0"), offset)
    if version > 1 and flags & 3:
        # The type is stored elsewhere; Keras never does this, so the value is just not read.
        return Attribute(name, Hdf5Type(None, 1, "a named type"), None, b"")
    type = parse_type(image.cursor(fields.take(type_size), fields.offset - type_size, fields.what))
    fields.skip(-type_size % padding)
    at = fields.offset
    shape = parse_space(image.cursor(fields.take(space_size), at, fields.what))
    fields.skip(-space_size % padding)
    return Attribute(name, type, shape, fields.take(fields.left))


def decode_name(raw: bytes, offset: int) -> str:
    """A name as text; MalformedInput where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput(
            "HDF5 name is not UTF-8", offset=offset, found=repr(raw[:40])
        ) from error
