"""HDF5's heaps: names of old groups (local), text of any length (global), many links (fractal).

Source: HDF5 File Format Specification 3.0, sections III.A.2 (version 2 B-trees), III.D, III.E,
III.G. Checksums are not verified: HDF5 has none over data, and every structure is checked for
itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.encodings.hdf5_image import Image
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError

# Records of one B-tree: links of one group, or attributes of one object.
MAX_RECORDS = 1_000_000
MAX_TREE_DEPTH = 16
# Fractal heaps double their blocks row by row; 64 rows reach beyond any file.
MAX_HEAP_ROWS = 64


def read_local_heap(image: Image, address: int | None) -> tuple[bytes, int]:
    """(the names segment of a group's local heap, its offset in the file)."""
    fields = image.fields(
        address, 8 + 2 * image.length_size + image.address_size, "HDF5 local heap", b"HEAP"
    )
    fields.version(0)
    fields.skip(3)
    size = fields.length()
    fields.length()
    segment = fields.address()
    return image.read(segment, size, "HDF5 local heap"), segment or 0


def read_global_object(image: Image, address: int, index: int, size: int) -> bytes:
    """The first `size` bytes of object `index` of the global heap collection at `address`."""
    objects = image.collections.get(address)
    if objects is None:
        objects = image.collections[address] = _read_collection(image, address)
    if index not in objects:
        raise MalformedInput("no such object in the HDF5 global heap", offset=address, found=index)
    offset, nbytes = objects[index]
    if size > nbytes:
        raise MalformedInput(
            "text is longer than its place in the HDF5 global heap",
            offset=offset,
            expected=f"at most {nbytes} bytes",
            found=size,
        )
    return image.read(offset, size, "HDF5 global heap object")


def _read_collection(image: Image, address: int) -> dict[int, tuple[int, int]]:
    """Where the objects of one collection are: index -> (offset in the file, bytes)."""
    what = "HDF5 global heap"
    prefix = image.fields(address, 8 + image.length_size, what, b"GCOL")
    prefix.version(1)
    prefix.skip(3)
    fields = image.fields(address, prefix.length(), what, b"GCOL")
    fields.skip(4 + image.length_size)
    objects: dict[int, tuple[int, int]] = {}
    while fields.left >= 8 + image.length_size:
        index = fields.number(2)
        fields.skip(6)
        nbytes = fields.length()
        if index == 0:
            break
        if index in objects:
            raise MalformedInput("HDF5 global heap has an object twice", offset=fields.offset)
        objects[index] = (fields.offset, nbytes)
        fields.skip(min(nbytes + -nbytes % 8, fields.left) if nbytes <= fields.left else nbytes)
    return objects


def read_records(image: Image, address: int | None, kinds: tuple[int, ...]) -> Iterator[bytes]:
    """The records of a version 2 B-tree, in order; its type must be one of `kinds`."""
    size = 16 + image.address_size + 2 + image.length_size
    fields = image.fields(address, size, "HDF5 B-tree", b"BTHD")
    fields.version(0)
    kind, node_size, record_size, depth = fields.numbers(1, 4, 2, 2)
    fields.skip(2)
    root, count, total = fields.address(), fields.number(2), fields.length()
    if kind not in kinds or not record_size or node_size < 10 + record_size:
        raise MalformedInput("bad HDF5 B-tree", offset=address, found=f"type {kind}")
    if depth > MAX_TREE_DEPTH or total > MAX_RECORDS:
        raise UnsafeInput("HDF5 B-tree too large", offset=address, found=f"{total} records")
    if not total:
        return
    widths = _pointer_widths(node_size, record_size, depth, image.address_size)
    pending = [(root, count, depth)]
    seen = set()
    found = 0
    while pending:
        node, records, level = pending.pop()
        if node in seen:
            raise MalformedInput("HDF5 B-tree runs in a loop", offset=node)
        seen.add(node)
        signature = b"BTIN" if level else b"BTLF"
        fields = image.fields(node, node_size, "HDF5 B-tree node", signature)
        fields.version(0)
        fields.skip(1)
        for _ in range(records):
            found += 1
            yield fields.take(record_size)
        if level:
            count_width, total_width = widths[level]
            for _ in range(records + 1):
                child = fields.address()
                child_records = fields.number(count_width)
                fields.skip(total_width)
                pending.append((child, child_records, level - 1))
    if found != total:
        raise MalformedInput("HDF5 B-tree lacks records", expected=total, found=found)


def _pointer_widths(
    node_size: int, record_size: int, depth: int, address_size: int
) -> list[tuple[int, int]]:
    """For each level, the bytes that hold a child's own and its whole subtree's record count."""
    leaf_records = (node_size - 10) // record_size
    count_width = (leaf_records.bit_length() + 7) // 8
    widths = [(0, 0)]
    reach = leaf_records
    total_width = 0
    for _ in range(depth):
        widths.append((count_width, total_width))
        pointer = address_size + count_width + total_width
        records = max(0, node_size - 10 - pointer) // (record_size + pointer)
        reach = (records + 1) * reach + records
        total_width = (reach.bit_length() + 7) // 8
    return widths


class FractalHeap:
    """A fractal heap: objects by the identifiers that B-tree records hold.

    Objects in managed blocks and tiny ones are read; huge ones and filtered heaps are refused.
    """

    def __init__(self, image: Image, address: int | None) -> None:
        size = 22 + 12 * image.length_size + 3 * image.address_size
        fields = image.fields(address, size, "HDF5 fractal heap", b"FRHP")
        fields.version(0)
        self.image = image
        self.id_size, filters, self.flags, self.max_object = fields.numbers(2, 2, 1, 4)
        fields.skip(2 * image.length_size + 2 * image.address_size)
        fields.skip(8 * image.length_size)
        self.width = fields.number(2)
        self.start_size, self.max_direct = fields.length(), fields.length()
        self.max_bits, _ = fields.numbers(2, 2)
        self.root = fields.address()
        self.root_rows = fields.number(2)
        if filters:
            raise UnsupportedError("compressed HDF5 heap is not read", offset=address)
        sound = (
            1 <= self.width <= 1024
            and self.start_size
            and self.start_size & (self.start_size - 1) == 0
            and self.start_size <= self.max_direct <= 1 << 32
            and self.max_direct & (self.max_direct - 1) == 0
            and 8 <= self.max_bits <= 64
            and self.root_rows <= MAX_HEAP_ROWS
        )
        if not sound:
            raise MalformedInput("bad HDF5 fractal heap", offset=address)
        self.offset_size = (self.max_bits + 7) // 8
        direct_width = (self.max_direct.bit_length() + 7) // 8
        self.length_size = min(direct_width, (self.max_object.bit_length() + 6) // 8 or 1)
        self.direct_rows = (self.max_direct // self.start_size).bit_length() + 1

    def get(self, identifier: bytes) -> tuple[bytes, int]:
        """(the object, its offset in the file) of a heap identifier."""
        fields = self.image.cursor(identifier, 0, "HDF5 heap identifier")
        kind = fields.number(1)
        if kind & 0x30 == 0x20:
            size = (kind & 15) + 1
            return fields.take(size), 0
        if kind & 0xF0:
            raise UnsupportedError("huge objects of an HDF5 heap are not read")
        offset, size = fields.number(self.offset_size), fields.number(self.length_size)
        block, within, block_size = self._locate(offset)
        if within + size > block_size:
            raise MalformedInput("object outside its HDF5 heap block", offset=block, found=within)
        return self.image.read(block + within, size, "HDF5 heap object"), block + within

    def _locate(self, offset: int) -> tuple[int, int, int]:
        """(address of the direct block that holds heap offset `offset`, offset in it, its size)."""
        address, rows = self.root, self.root_rows
        if rows == 0:
            return self._checked(address), offset, self.start_size
        for _ in range(MAX_HEAP_ROWS):
            row, column, start, size = self._cell(offset)
            if row >= rows:
                raise MalformedInput("object outside its HDF5 heap", found=offset)
            header = 5 + self.image.address_size + self.offset_size
            at = self._checked(address) + header
            at += (row * self.width + column) * self.image.address_size
            address = self.image.fields(at, self.image.address_size, "HDF5 heap block").address()
            offset -= start
            if row < self.direct_rows:
                return self._checked(address), offset, size
            # An indirect block of this size has as many rows as add up to it.
            rows = (size // self.start_size // self.width).bit_length()
        raise MalformedInput("HDF5 heap nests too deeply")

    def _cell(self, offset: int) -> tuple[int, int, int, int]:
        """(row, column, first offset, size) of the doubling table's block that holds `offset`."""
        size, start = self.start_size, 0
        for row in range(MAX_HEAP_ROWS):
            if row > 1:
                size *= 2
            if offset < start + size * self.width:
                column = (offset - start) // size
                return row, column, start + column * size, size
            start += size * self.width
        raise MalformedInput("object outside its HDF5 heap", found=offset)

    def _checked(self, address: int | None) -> int:
        if address is None:
            raise MalformedInput("HDF5 heap block has no address")
        return address
