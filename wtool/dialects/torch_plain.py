"""Plain tensors of one dictionary, taken in one loop: in a large state dict nothing else counts.

What is made of each is what ObjectReader.find, the walk and the checkpoint make of it. All that
differs from the usual form in any way, good or bad, is left to them, before anything was changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Tensor
from wtool.encodings.pickle_nodes import Call
from wtool.errors import WtoolError
from wtool.extents import Strided

if TYPE_CHECKING:
    from wtool.dialects.torch_objects import ObjectReader
    from wtool.dialects.torch_storages import StorageTable

Entry = tuple[str, Any]


def take_plain(
    entries: Iterator[Entry],
    reader: ObjectReader,
    table: StorageTable,
    path: tuple[str, ...],
    role: str | None,
    limits: tuple[int, int, int],
    tensors: list[Any],
) -> tuple[Entry | None, int]:
    """Add the plain tensors that come next to `tensors`; (the entry behind them, characters).

    That entry is the first that is anything else, None where there is none; it was not looked into.
    Plain is a view of a kind that the reader has found before. table: where the reader finds its
    storages. path, role: of the dictionary.
    limits: what each name counts besides its last key, and at most; what all may count, of which
    the names that were taken count the characters.
    """
    kinds, first_on, others = reader.views, table.plain, table.known
    locate, scope = table.locate, table.scope
    new, place, full = Strided.__new__, Strided.place, Tensor.at_path
    besides, longest, room = limits
    used = 0
    entry: Entry | None = None
    try:
        for entry in entries:
            component, node = entry
            kind = kinds.get(node.view) if type(node) is Call else None
            if kind is None:
                return entry, used
            length = besides + len(component)
            if length > longest or used + length > room:
                return entry, used
            geometry, nbytes = kind
            key = node.key
            extent = new(Strided)
            first = first_on.get(key)
            if first is not None:
                if first.storage_nbytes != nbytes or first.dtype is not geometry.dtype:
                    return entry, used
                place(extent, first.source, first.base, nbytes, geometry, first.storage)
            elif key in others:
                return entry, used
            else:
                source, base = locate(key, nbytes)
                place(extent, source, base, nbytes, geometry, (scope, key))
                first_on[key] = extent
            tensors.append(full((*path, component), extent, role))
            used += length
    except WtoolError:
        return entry, used
    return None, used
