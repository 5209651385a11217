"""Folders of torch.distributed.checkpoint: `.metadata`, and a data file per rank and writer.

`.metadata` says which chunks a tensor has and where each is stored; a stored chunk is a whole torch
file within `__<rank>_<n>.distcp`. A tensor of several chunks is read as one, block by block. Names
and nesting are those of the planner; objects that are no tensors become extras.

Opening reads `.metadata` and the objects, and proves that every chunk lies within its file; a chunk
itself is opened when its values are read. Source: torch 2.13 `torch/distributed/checkpoint/`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.dialects.torch_archive import open_archive
from wtool.dialects.torch_checkpoint import build_checkpoint
from wtool.dialects.torch_found import Found
from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_shard_extent import ShardExtent
from wtool.dialects.torch_shards import Entry, Place, Places, read_metadata
from wtool.dialects.torch_storages import Storage
from wtool.dtypes import DType
from wtool.encodings.pickle_machine import parse
from wtool.encodings.pickle_nodes import Dict, Persistent
from wtool.errors import (
    MalformedInput,
    MissingInput,
    TruncatedInput,
    UnsafeInput,
    UnsupportedError,
    WtoolError,
    counted,
    shorten,
)
from wtool.extents import Extent, Tiled
from wtool.sources import Descriptors, FileSource, Source, WindowSource, read_bytes

# The metadata of a model of 100,000 tensors on 64 ranks has about 300 MB.
MAX_METADATA_BYTES = 512 << 20
MAX_FILES = 100_000
# Objects are learning rates and counters; each costs a file to open. The rest are counted.
MAX_OBJECTS = 5000
MAX_OBJECT_BYTES = 64 << 20
MAX_LISTED = 3


def read_folder(
    path: str, format: str, metadata_path: str, *, root: str | None = None
) -> Checkpoint:
    """Every tensor whole, in the order of the metadata; see build_checkpoint for the rest.

    path: as the user named it. metadata_path: of the file `.metadata` in the folder.
    """
    metadata = FileSource(metadata_path)
    if metadata.size > MAX_METADATA_BYTES:
        raise UnsafeInput(
            "metadata too large",
            path=metadata.name,
            expected=f"at most {MAX_METADATA_BYTES} bytes",
            found=metadata.size,
        )
    data = read_bytes(metadata, 0, metadata.size)
    pickled = parse(data, name=os.path.basename(metadata_path), path=metadata.name)
    try:
        entries, places = read_metadata(pickled.value)
    except WtoolError as error:
        raise error.locate(path=metadata.name) from error.__cause__
    files = open_files(os.path.dirname(metadata_path), places)
    reader = _Reader()
    notes: list[str] = []
    tree = Dict()
    objects = 0
    for entry in entries:
        if entry.dtype is None:
            objects += 1
            if objects <= MAX_OBJECTS:
                _insert(tree, entry, reader.add_object(_place(places, entry, None, files)))
            continue
        extent = _tensor(entry, entry.dtype, places, files)
        _insert(tree, entry, reader.add_tensor(extent))
    if objects > MAX_OBJECTS:
        notes.append(f"{objects - MAX_OBJECTS} more values that are no tensors are not shown")
    chunks = sum(len(entry.chunks) for entry in entries)
    data_files = counted(len(files), "data file")
    notes.append(f"{chunks} chunks in {data_files}")
    return build_checkpoint(
        path,
        format,
        dataclasses.replace(pickled, value=tree),
        reader,
        root=root,
        notes=notes,
        files=(metadata.name, *(files[name].name for name in sorted(files))),
    )


def open_files(folder: str, places: Places) -> dict[str, Source]:
    """The data files by name: each name is checked, each file is there, each place lies in it."""
    counts: dict[str, int] = {}
    for (name, _), place in places.items():
        if place.file not in counts:
            _check_file_name(place.file, name)
        counts[place.file] = counts.get(place.file, 0) + 1
    if len(counts) > MAX_FILES:
        raise UnsafeInput("too many data files", expected=f"at most {MAX_FILES}", found=len(counts))
    paths = {file: os.path.join(folder, file) for file in counts}
    missing = [file for file in counts if not os.path.isfile(paths[file])]
    if missing:
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise MissingInput(
            f"data files are missing: {', '.join(map(shorten, missing[:MAX_LISTED]))}{more}",
            path=folder,
            expected=f"{len(counts)} files",
            found=len(counts) - len(missing),
            hint=f"{sum(counts[file] for file in missing)} stored chunks are in them",
        )
    descriptors = Descriptors()
    files: dict[str, Source] = {
        file: FileSource(path, descriptors=descriptors) for file, path in paths.items()
    }
    for (name, _), place in places.items():
        size = files[place.file].size
        if place.offset < 0 or place.nbytes < 0 or place.offset + place.nbytes > size:
            raise TruncatedInput(
                "chunk ends outside its file",
                path=paths[place.file],
                tensor=name,
                offset=place.offset,
                expected=f"{place.nbytes} bytes",
                found=max(0, size - place.offset),
            )
    return files


def _check_file_name(file: str, tensor: str) -> None:
    """UnsafeInput unless `file` is the plain name of a file in the folder itself."""
    if file in ("", ".", "..") or any(c in file for c in "/\\:\0") or not file.isprintable():
        raise UnsafeInput(
            "data file is not a plain file name",
            tensor=tensor,
            expected="a file in the folder of the metadata",
            found=repr(shorten(file)),
        )


def _place(
    places: Places, entry: Entry, offsets: tuple[int, ...] | None, files: dict[str, Source]
) -> Source:
    """The bytes of a stored chunk or object; MalformedInput where nothing says where it is."""
    place: Place | None = places.get((entry.name, offsets))
    if place is None:
        what = "object" if offsets is None else f"chunk at {offsets}"
        raise MalformedInput(
            f"{what} is stored nowhere: the checkpoint is incomplete",
            tensor=entry.name,
            expected=f"{max(1, len(entry.chunks))} stored",
            found=sum((entry.name, at) in places for at, _ in entry.chunks),
        )
    return WindowSource(files[place.file], place.offset, place.nbytes)


def _tensor(entry: Entry, dtype: DType, places: Places, files: dict[str, Source]) -> Extent:
    """The values of one tensor, pasted together from its chunks."""
    pieces: list[tuple[tuple[int, ...], Extent]] = []
    for offsets, sizes in entry.chunks:
        if 0 in sizes and (entry.name, offsets) not in places:
            continue  # a rank that holds no row stores nothing
        pieces.append((offsets, ShardExtent(_place(places, entry, offsets, files), dtype, sizes)))
    if len(pieces) == 1 and pieces[0][1].shape == entry.shape and not any(pieces[0][0]):
        return pieces[0][1]
    try:
        return Tiled(dtype, entry.shape, pieces)
    except WtoolError as error:
        raise error.locate(tensor=entry.name) from error.__cause__


def _insert(tree: Dict, entry: Entry, value: Any) -> None:
    """Put a value under the entry's path; MalformedInput where two paths meet."""
    path: Sequence[str] = entry.path if ".".join(entry.path) == entry.name else (entry.name,)
    for key in path[:-1]:
        inner = tree.setdefault(key, Dict())
        if type(inner) is not Dict:
            raise MalformedInput("path leads through another value", tensor=entry.name)
        tree = inner
    if path[-1] in tree:
        raise MalformedInput("two values have one path", tensor=entry.name)
    tree[path[-1]] = value


class _Reader(ObjectReader):
    """Finds the tensors of the metadata, and those in objects, each with storages of its own."""

    def __init__(self) -> None:
        super().__init__(self._storage)
        self._archives: list[Any] = []

    def add_tensor(self, extent: Extent) -> Persistent:
        """A node that stands for `extent`."""
        return Persistent(Found(extent))

    def add_object(self, source: Source) -> Any:
        """The nodes of an object that is stored as a whole torch file in `source`."""
        if source.size > MAX_OBJECT_BYTES:
            return f"<object of {source.size} bytes>"
        archive = open_archive(source)
        if archive.big_endian:
            raise UnsupportedError("object saved by a big-endian machine")
        index = len(self._archives)
        self._archives.append(archive.reader().storages)
        return archive.pickle("data.pkl", lambda id: Persistent((index, id))).value

    def find(self, node: Any, nesting: int = 0) -> Found | None:
        """See ObjectReader.find."""
        if type(node) is Persistent and type(node.id) is Found:
            return node.id
        return super().find(node, nesting)

    def _storage(self, node: Persistent) -> Storage:
        index, id = node.id
        return self._archives[index](Persistent(id))
