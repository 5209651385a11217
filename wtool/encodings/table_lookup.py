"""Values of a sorted table by key, without reading the table: blocks are found through the index.

Small blocks are decoded whole and the last one is kept, since neighbours are asked for together. A
large block (it holds one large value as a rule) is checked once in flat memory, then only the
headers of its entries are read; its value is a window on the file.
"""

from __future__ import annotations

from wtool.encodings.protobuf import read_varint
from wtool.encodings.sorted_table import Handle, Table, check_block, show
from wtool.errors import MalformedInput, TruncatedInput, WtoolError
from wtool.sources import BytesSource, Source, WindowSource, read_bytes

SMALL_BLOCK_BYTES = 4 << 20
# Three varints and a key; a longer key is no tensor's.
ENTRY_HEAD_BYTES = 128 << 10


class Lookup:
    """Finds values in `table`. Safe to use from several threads."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._last: tuple[int, dict[bytes, bytes]] | None = None
        self._checked: dict[int, int] = {}

    def value(self, key: bytes) -> Source:
        """The value under `key`; MalformedInput where the table has none."""
        source = self.table.source
        handle = self.table.find_block(key)
        found: Source | None = None
        if handle is not None:
            try:
                found = self._in_block(handle, key)
            except WtoolError as error:
                raise error.locate(path=source.name, offset=handle.offset) from None
        if found is None:
            raise MalformedInput("key is not in the table", path=source.name, found=show(key))
        return found

    def _in_block(self, handle: Handle, key: bytes) -> Source | None:
        source = self.table.source
        if handle.size > SMALL_BLOCK_BYTES:
            compression = self._checked.get(handle.offset)
            if compression is None:
                compression = self._checked[handle.offset] = check_block(source, handle)
            if compression == 0:
                return _window(source, handle, key)
        last = self._last
        if last is None or last[0] != handle.offset:
            last = self._last = (handle.offset, dict(self.table.block(handle)))
        value = last[1].get(key)
        return None if value is None else BytesSource(value, source.name)


def _window(source: Source, handle: Handle, key: bytes) -> Source | None:
    """The value under `key` in a large block that is not compressed, as a window on `source`."""
    block = WindowSource(source, handle.offset, handle.size)
    restarts = int.from_bytes(read_bytes(block, handle.size - 4, 4), "little")
    end = handle.size - 4 - 4 * restarts
    if end < 0:
        raise MalformedInput("block holds fewer restarts than it says", expected=restarts)
    position = 0
    current = b""
    while position < end:
        head = bytes(read_bytes(block, position, min(ENTRY_HEAD_BYTES, end - position)))
        shared, place = read_varint(head, 0, len(head))
        unshared, place = read_varint(head, place, len(head))
        size, place = read_varint(head, place, len(head))
        if shared > len(current) or unshared > len(head) - place:
            raise MalformedInput(
                "bad key in a block",
                expected=f"at most {len(current)} shared and {len(head) - place} own bytes",
                found=f"{shared} and {unshared}",
            )
        new = current[:shared] + head[place : place + unshared]
        if position and new <= current:
            raise MalformedInput("keys out of order or repeated", found=show(new))
        current = new
        start = position + place + unshared
        if size > end - start:
            raise TruncatedInput(
                "entry runs past its block", expected=f"{size} bytes", found=end - start
            )
        if current == key:
            return WindowSource(block, start, size)
        position = start + size
    return None
