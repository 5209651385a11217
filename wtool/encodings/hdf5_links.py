"""The members of an HDF5 group: old-style symbol tables, and links of new-style groups.

Hard links only; what leads elsewhere is refused by name.

Source: HDF5 File Format Specification 3.0, sections III.A.1, III.B, III.C, IV.A.2.c and IV.A.2.g.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.encodings.hdf5_heaps import FractalHeap, read_local_heap, read_records
from wtool.encodings.hdf5_image import Fields, Image
from wtool.encodings.hdf5_messages import LINK, LINK_INFO, SYMBOL_TABLE, Message, decode_name
from wtool.errors import MalformedInput, UnsafeInput


def read_links(image: Image, messages: list[Message]) -> Iterator[tuple[str, int]]:
    """(name, address of the object header) of each member of a group."""
    for message in messages:
        fields = image.cursor(message.data, message.offset, "HDF5 group")
        if message.kind == SYMBOL_TABLE:
            yield from _symbols(image, fields.address(), fields.address())
        elif message.kind == LINK:
            yield _link(fields)
        elif message.kind == LINK_INFO:
            fields.version(0)
            if fields.number(1) & 1:
                fields.skip(8)
            heap_address, index = fields.address(), fields.address()
            if heap_address is not None:
                heap = FractalHeap(image, heap_address)
                for record in read_records(image, index, (5,)):
                    data, offset = heap.get(record[4:])
                    yield _link(image.cursor(data, offset, "HDF5 link"))


def _link(fields: Fields) -> tuple[str, int]:
    """One link message of a new-style group."""
    fields.version(1)
    flags = fields.number(1)
    kind = fields.number(1) if flags & 8 else 0
    if flags & 4:
        fields.skip(8)
    if flags & 16:
        fields.skip(1)
    name = decode_name(fields.take(fields.number(1 << (flags & 3))), fields.offset)
    if kind != 0:
        raise _leads_away(name, {1: "soft", 64: "external"}.get(kind, "user-defined"))
    address = fields.address()
    if address is None:
        raise MalformedInput(f"HDF5 link '{name[:80]}' has no address", offset=fields.offset)
    return name, address


def _leads_away(name: str, kind: str) -> UnsafeInput:
    return UnsafeInput(f"HDF5 {kind} link '{name[:80]}': links are never followed")


def _symbols(image: Image, tree: int | None, heap_address: int | None) -> Iterator[tuple[str, int]]:
    """(name, address of the object header) of each entry of an old-style group."""
    names, names_at = read_local_heap(image, heap_address)
    # (address, its level as its parent has it): -1 is a symbol node, None the root of the tree.
    pending: list[tuple[int | None, int | None]] = [(tree, None)]
    seen = set()
    while pending:
        address, level = pending.pop()
        if address in seen:
            raise MalformedInput("HDF5 group tree runs in a loop", offset=address)
        seen.add(address)
        if level == -1:
            yield from _symbol_node(image, address, names, names_at)
            continue
        children, found = _tree_node(image, address)
        if level is not None and found != level:
            raise MalformedInput("HDF5 group tree has a node at the wrong level", offset=address)
        pending.extend((child, found - 1) for child in reversed(children))


def _tree_node(image: Image, address: int | None) -> tuple[list[int | None], int]:
    """(children, level) of a node of an old-style group's B-tree."""
    what = "HDF5 group tree"
    head = image.fields(address, 8, what, b"TREE")
    kind, level, count = head.numbers(1, 1, 2)
    if kind != 0:
        raise MalformedInput("HDF5 group tree of another kind", offset=address, found=kind)
    size = 8 + 2 * image.address_size + count * (image.length_size + image.address_size)
    fields = image.fields(address, size, what, b"TREE")
    fields.skip(4 + 2 * image.address_size)
    children = []
    for _ in range(count):
        fields.length()
        children.append(fields.address())
    return children, level


def _symbol_node(
    image: Image, address: int | None, names: bytes, names_at: int
) -> Iterator[tuple[str, int]]:
    """The entries of one leaf."""
    what = "HDF5 symbol node"
    head = image.fields(address, 8, what, b"SNOD")
    head.version(1)
    head.skip(1)
    count = head.number(2)
    size = 2 * image.address_size + 24
    fields = image.fields(address, 8 + count * size, what, b"SNOD")
    fields.skip(4)
    for _ in range(count):
        name_at = fields.number(image.address_size)
        target = fields.address()
        cached = fields.number(4)
        fields.skip(20)
        end = names.find(b"\0", name_at)
        if end < 0 or name_at >= len(names):
            raise MalformedInput("HDF5 name outside its heap", offset=names_at, found=name_at)
        name = decode_name(names[name_at:end], names_at + name_at)
        if cached == 2:
            raise _leads_away(name, "soft")
        if target is None:
            raise MalformedInput(f"HDF5 object '{name[:80]}' has no address", offset=address)
        yield name, target
