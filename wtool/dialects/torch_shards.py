"""The `.metadata` of a torch.distributed checkpoint: tensors, chunks, and where each chunk lies.

A plain pickle of `Metadata`; its nodes are read here field by field, and whatever else it holds is
left alone. Source: torch 2.13 `torch/distributed/checkpoint/metadata.py`, `filesystem.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wtool.dialects.torch_entries import component
from wtool.dtypes import BY_TORCH, DType
from wtool.encodings.pickle_nodes import Call, Dict, Global, describe
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError
from wtool.extents import INT64_MAX, check_shape

# Chunks of one tensor: the largest jobs have some ten thousand ranks.
MAX_CHUNKS = 100_000

_MODULE = "torch.distributed.checkpoint.metadata"
METADATA = f"{_MODULE}.Metadata"
TENSOR = f"{_MODULE}.TensorStorageMetadata"
OBJECT = f"{_MODULE}.BytesStorageMetadata"
PROPERTIES = f"{_MODULE}.TensorProperties"
CHUNK = f"{_MODULE}.ChunkStorageMetadata"
INDEX = f"{_MODULE}.MetadataIndex"
PLACE = "torch.distributed.checkpoint.filesystem._StorageInfo"
# Old releases had the same classes under these names.
_FORMER = {
    "torch.distributed._shard.checkpoint.metadata": _MODULE,
    "torch.distributed._shard.checkpoint.filesystem": "torch.distributed.checkpoint.filesystem",
}


@dataclass(frozen=True)
class Place:
    """Where one chunk or object is stored: a whole torch file within another file."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Entry:
    """One name of the checkpoint. A tensor has a dtype, a shape and chunks; an object has none.

    path: the keys under which the state dict nested it, where the planner says so.
    chunks: (offsets, sizes) of each.
    """

    name: str
    path: tuple[str, ...]
    dtype: DType | None
    shape: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


Places = dict[tuple[str, tuple[int, ...] | None], Place]


def read_metadata(root: Any) -> tuple[list[Entry], Places]:
    """(entries in stored order, place of each (name, chunk offsets or None)).

    Raises MalformedInput where a field is missing or of the wrong kind, UnsupportedError where data
    were transformed (compressed).
    """
    fields = _fields(root, METADATA)
    described = fields.get("state_dict_metadata")
    stored = fields.get("storage_data")
    if not isinstance(described, Dict) or not isinstance(stored, Dict):
        raise MalformedInput(
            "metadata without its tables", expected="state_dict_metadata and storage_data"
        )
    planned = fields.get("planner_data")
    paths = planned if isinstance(planned, Dict) else Dict()
    entries = [_entry(name, value, paths.get(name)) for name, value in _named(described)]
    return entries, dict(_place(key, value) for key, value in stored.pairs())


def _named(table: Dict) -> Iterator[tuple[str, Any]]:
    for name, value in table.pairs():
        if not isinstance(name, str):
            raise MalformedInput("name that is no text", found=describe(name))
        yield name, value


def _entry(name: str, value: Any, path: Any) -> Entry:
    keys = path if isinstance(path, tuple) and path else (name,)
    if not all(isinstance(key, str | int) for key in keys):
        raise MalformedInput("path of neither text nor numbers", tensor=name)
    parts = tuple(component(key) for key in keys)
    if _full(value) == OBJECT:
        return Entry(name, parts, None, (), ())
    fields = _fields(value, TENSOR, name)
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        raise MalformedInput("tensor without a list of chunks", tensor=name)
    if len(chunks) > MAX_CHUNKS:
        raise UnsafeInput(
            "too many chunks", tensor=name, expected=f"at most {MAX_CHUNKS}", found=len(chunks)
        )
    shape = check_shape(_sizes(fields.get("size"), name))
    return Entry(
        name,
        parts,
        _dtype(fields.get("properties"), name),
        shape,
        tuple(_chunk(chunk, name) for chunk in chunks),
    )


def _chunk(value: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    fields = _fields(value, CHUNK, name)
    return _sizes(fields.get("offsets"), name), _sizes(fields.get("sizes"), name)


def _dtype(properties: Any, name: str) -> DType:
    """The element type: first of the tuple that is the state of TensorProperties."""
    state = properties.state if _full(properties) == PROPERTIES else None
    found = state[0] if isinstance(state, tuple) and state else None
    if isinstance(state, Dict):
        found = state.get("dtype")
    if type(found) is Global and found.module == "torch" and found.name in BY_TORCH:
        return BY_TORCH[found.name]
    raise MalformedInput("unknown element type", tensor=name, found=describe(found))


def _place(key: Any, value: Any) -> tuple[tuple[str, tuple[int, ...] | None], Place]:
    index = _fields(key, INDEX)
    name, offset = index.get("fqn"), index.get("offset")
    if not isinstance(name, str):
        raise MalformedInput("stored chunk without a name", found=describe(name))
    fields = _fields(value, PLACE, name)
    file = fields.get("relative_path")
    start: Any = fields.get("offset")
    nbytes: Any = fields.get("length")
    numbers = all(type(n) is int and abs(n) <= INT64_MAX for n in (start, nbytes))
    if not isinstance(file, str) or not numbers:
        raise MalformedInput(
            "place of a chunk",
            tensor=name,
            expected="file, offset and length",
            found=describe(file),
        )
    if fields.get("transform_descriptors"):
        raise UnsupportedError(
            "chunks are transformed (compressed), which is not read",
            tensor=name,
            found=describe(fields["transform_descriptors"]),
        )
    where = None if offset is None else _sizes(offset, name)
    return (name, where), Place(str(file), start, nbytes)


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(
        type(n) is int and 0 <= n <= INT64_MAX for n in value
    ):
        raise MalformedInput(
            "sizes that are no numbers from 0 on", tensor=name, found=describe(value)
        )
    return tuple(value)


def _fields(value: Any, kind: str, name: str | None = None) -> Dict:
    """The attributes of an object of class `kind`."""
    state = value.state if _full(value) == kind else None
    if not isinstance(state, Dict):
        raise MalformedInput(
            "unexpected object in the metadata", tensor=name, expected=kind, found=describe(value)
        )
    return state


def _full(value: Any) -> str:
    """Class of an object node, by today's name; "" for anything else."""
    if type(value) is not Call or type(value.function) is not Global:
        return ""
    function = value.function
    return f"{_FORMER.get(function.module, function.module)}.{function.name}"
