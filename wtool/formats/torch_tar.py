"""PyTorch's first files, from before 0.1.10: a tar archive of pickles and raw storages.

    storages   pickle(count); each: pickle((key, location, class)), int64 numel, raw elements;
               pickle([(view key, root key, first element, elements), ...])
    tensors    pickle(count); each: pickle((key, storage key, class)), int32 rank, 4 bytes padding,
               int64 sizes, int64 strides, int64 first element
    pickle     the object; persistent ids are the decimal keys of tensors and storages, or
               (class, source file, source text) of a whole module
    sys_info   the writer's machine, which changes nothing

All little-endian. Nothing is extracted; storages are read where they lie in the archive.
Source: torch 2.13 `torch/serialization.py`, `legacy_load` (for `weights_only=False` alone).
"""

from __future__ import annotations

import struct
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.dialects.torch_storages import STORAGE_TYPES, Storage
from wtool.dialects.torch_stream import PickleStream
from wtool.encodings.pickle_nodes import Call, Global, Persistent, describe
from wtool.encodings.tar_directory import is_tar, read_directory
from wtool.errors import MalformedInput, TruncatedInput, WtoolError, shorten
from wtool.extents import MAX_RANK
from wtool.formats import Format, Probe
from wtool.sources import Source, WindowSource, absolute

MEMBERS = ("sys_info", "pickle", "tensors", "storages")
# Pickles of some dozen bytes between blobs.
WINDOW_BYTES = 4 << 10
# Longest key in digits: keys are addresses.
MAX_KEY_DIGITS = 20
_REBUILD = Global("torch._utils", "_rebuild_tensor")


def claims(probe: Probe) -> bool:
    """Whether the file is a tar archive with the members `storages`, `tensors` and `pickle`.

    Only a file that starts with such a member is looked at further: any other archive that is cut
    short or broken is nobody's.
    """
    if not is_tar(probe.head):
        return False
    name = probe.head[:100].split(b"\0", 1)[0].decode("latin-1")
    if name not in MEMBERS and not name.startswith("././@PaxHeader"):
        return False
    try:
        found = read_directory(probe.source)
    except WtoolError:
        return name in MEMBERS
    return "storages" in found and "tensors" in found


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The Checkpoint of an archive; reads its headers, pickles and the geometry of its tensors."""
    from wtool.dialects.torch_checkpoint import build_checkpoint
    from wtool.dialects.torch_objects import ObjectReader

    members = read_directory(probe.source)
    sources: dict[str, Source] = {}
    for name in MEMBERS[1:]:
        member = members.get(name)
        if member is None:
            raise MalformedInput(f"archive has no member '{name}'", path=probe.path)
        sources[name] = WindowSource(probe.source, member.offset, member.nbytes)
    storages = read_storages(sources["storages"])
    tensors = read_tensors(sources["tensors"], storages)
    classes: dict[str, None] = {}

    def persistent(id: Any) -> Any:
        if isinstance(id, tuple):
            return _module(id, classes)
        key = _key(id)
        node: Call | Persistent | None = tensors.get(key) if key is not None else None
        if node is None and key in storages:
            node = Persistent(key)
        if node is None:
            raise MalformedInput("persistent id names no tensor or storage", found=describe(id))
        return node

    stream = PickleStream(sources["pickle"])
    pickled = stream.next_pickle("member 'pickle'", persistent=persistent)
    notes = []
    if classes:
        names = ", ".join(shorten(name) for name in list(classes)[:3])
        notes.append(f"carries the Python source of {names}; it was not run")
    reader = ObjectReader(lambda node: storages[node.id])
    return build_checkpoint(probe.path, FORMAT.name, pickled, reader, root=root, notes=notes)


def read_storages(source: Source) -> dict[int, Storage]:
    """The storages of the member `storages` by key, views of others among them."""
    stream = PickleStream(source, window_bytes=WINDOW_BYTES)
    found: dict[int, Storage] = {}
    for index in range(_count(stream, "storages")):
        what = f"storage {index + 1}"
        entry = stream.next_pickle(what).value
        if not isinstance(entry, tuple) or len(entry) != 3 or type(entry[0]) is not int:
            raise MalformedInput(
                f"entry of {what}", expected="(key, location, class)", found=describe(entry)
            )
        key, _location, cls = entry
        dtype = STORAGE_TYPES.get(cls.full) if type(cls) is Global else None
        if dtype is None:
            raise MalformedInput(f"class of {what} is unknown", found=describe(cls))
        if key in found:
            raise MalformedInput("two storages have one key", found=describe(key))
        numel = int.from_bytes(stream.next_bytes(8, what), "little", signed=True)
        if numel < 0:
            raise MalformedInput(f"number of elements of a storage, {what}", found=numel)
        nbytes = numel * dtype.itemsize
        if nbytes > source.size - stream.position:
            raise TruncatedInput(
                f"member 'storages' ends within {what}",
                path=source.name,
                offset=absolute(source, stream.position)[1],
                expected=f"{nbytes} bytes",
                found=source.size - stream.position,
            )
        base = absolute(source, stream.position)[1]
        found[key] = Storage(source, stream.position, nbytes, dtype, (source.name, base))
        stream.position += nbytes
    views = stream.next_pickle("list of views").value
    for view in views if isinstance(views, list) else (views,):
        key, storage = _view(view, found)
        if key in found:
            raise MalformedInput("two storages have one key", found=describe(key))
        found[key] = storage
    return found


def _view(view: Any, storages: dict[int, Storage]) -> tuple[int, Storage]:
    """(key, storage) of a part of another storage, by (key, root key, first element, elements)."""
    if isinstance(view, tuple) and len(view) == 4 and all(type(part) is int for part in view):
        key, root_key, first, numel = view
        root = storages.get(root_key)
        if root is not None and key != root_key and first >= 0 and numel >= 0:
            shift = root.shift + first
            nbytes = (shift + numel) * root.dtype.itemsize
            if nbytes <= root.nbytes:
                place = root.source, root.base, nbytes, root.dtype, root.identity
                return key, Storage(*place, shift=shift)
    raise MalformedInput(
        "view of a storage",
        expected="(key, key of a storage, first element, elements) within it",
        found=describe(view),
    )


def read_tensors(source: Source, storages: dict[int, Storage]) -> dict[int, Call]:
    """The tensors of the member `tensors` by key, as the calls that would rebuild them."""
    stream = PickleStream(source)
    found: dict[int, Call] = {}
    for index in range(_count(stream, "tensors")):
        what = f"tensor {index + 1}"
        entry = stream.next_pickle(what).value
        if not isinstance(entry, tuple) or len(entry) != 3 or type(entry[0]) is not int:
            raise MalformedInput(
                f"entry of {what}", expected="(key, storage key, class)", found=describe(entry)
            )
        key, storage, _class = entry
        if type(storage) is not int or storage not in storages:
            raise MalformedInput(
                f"{what} names a storage that is not there", found=describe(storage)
            )
        if key in found or key in storages:
            raise MalformedInput("two tensors or storages have one key", found=describe(key))
        (rank,) = struct.unpack("<i4x", stream.next_bytes(8, what))
        if not 0 <= rank <= MAX_RANK:
            raise MalformedInput(f"dimensions of {what}", expected=f"0 to {MAX_RANK}", found=rank)
        numbers = struct.unpack(f"<{2 * rank + 1}q", stream.next_bytes(16 * rank + 8, what))
        args = Persistent(storage), numbers[-1], numbers[:rank], numbers[rank:-1]
        found[key] = Call(_REBUILD, args)
    return found


def _count(stream: PickleStream, what: str) -> int:
    """The number that begins a member; each entry takes more than a byte of it."""
    count = stream.next_pickle(f"number of {what}").value
    if type(count) is not int or not 0 <= count <= stream.source.size:
        raise MalformedInput(
            f"number of {what}", expected=f"0 to {stream.source.size}", found=describe(count)
        )
    return count


def _key(id: Any) -> int | None:
    """The number that a persistent id writes in decimal digits; None for anything else."""
    if isinstance(id, str) and len(id) <= MAX_KEY_DIGITS and id.isascii() and id.isdigit():
        return int(id)
    return None


def _module(id: tuple, classes: dict[str, None]) -> Any:
    """The class that a record (class, source file, source text) stands for."""
    if len(id) != 3 or type(id[0]) not in (Global, Call):
        raise MalformedInput("record of a module without its class", found=describe(id))
    if id[2]:
        classes[getattr(id[0], "full", "")] = None
    return id[0]


FORMAT = Format(
    "torch-tar", "PyTorch tar archive of 2016", (".pt", ".pth", ".tar"), claims, open_file
)
