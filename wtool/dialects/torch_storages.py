"""Storages of torch: what a persistent id says, and which bytes of a container it names.

Source: torch 2.13 `torch/serialization.py` (`persistent_load`), `torch/storage.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from wtool.dtypes import BY_TORCH, DType
from wtool.encodings.pickle_nodes import ByteText, Call, Global, Persistent, describe
from wtool.errors import MalformedInput, UnsupportedError, shorten
from wtool.extents import INT64_MAX, Strided
from wtool.sources import Source

# Storage class -> name of its element type. UntypedStorage counts bytes.
_CLASSES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
# What follows 'storage', class, key, location and numel: nothing, in zip files.
_LENGTHS = (5,)
STORAGE_TYPES: dict[str, DType] = {
    f"{module}.{name}": BY_TORCH[dtype]
    for module in ("torch", "torch.cuda")
    for name, dtype in _CLASSES.items()
}
for _name in ("torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.cuda.UntypedStorage"):
    STORAGE_TYPES[_name] = BY_TORCH["uint8"]


class Storage(NamedTuple):
    """The bytes of one storage.

    source, base, nbytes: where they are. dtype: of the storage class, uint8 where it is untyped.
    identity: equal for tensors that share the storage, unequal for all others of the model.
    shift: elements of `dtype` before its own first one, where it is a view of another (legacy).
    """

    source: Source
    base: int
    nbytes: int
    dtype: DType
    identity: Hashable
    shift: int = 0


@dataclass(slots=True, eq=False)
class StorageId:
    """A checked persistent id. numel: elements of the whole storage, as the id counts them."""

    dtype: DType
    key: str
    location: str
    numel: int
    nbytes: int
    rest: tuple


def read_storage_id(node: Any, *, items: tuple[int, ...] = _LENGTHS) -> StorageId:
    """What a persistent id ('storage', class, key, location, numel, ...) says.

    items: the lengths that the container's ids may have. MalformedInput for anything else.
    """
    dtype, key, nbytes = _check_id(node, items)
    location, numel = node.id[3:5]
    place = location if isinstance(location, str) else location.decode("latin-1")
    return StorageId(dtype, key, place, numel, nbytes, node.id[5:])


def _check_id(node: Any, items: tuple[int, ...]) -> tuple[DType, str, int]:
    """(element type, key, bytes) of a persistent id in which all is as it must be."""
    if type(node) is Call and node.full == "torch.storage._load_from_bytes":
        raise UnsupportedError(
            "tensor of a plain pickle, whose storage is a torch file of its own",
            hint="save it with torch.save",
        )
    if type(node) is not Persistent:
        raise MalformedInput("tensor without a storage", found=type(node).__name__)
    id = node.id
    if type(id) is not tuple or len(id) not in items or id[0] != "storage":
        raise MalformedInput(
            "persistent id of another kind",
            expected="('storage', class, key, location, numel)",
            found=f"tuple of {len(id)}" if type(id) is tuple else type(id).__name__,
        )
    cls, key, location, numel = id[1], id[2], id[3], id[4]
    dtype = STORAGE_TYPES.get(cls.full) if type(cls) is Global else None
    if dtype is None:
        raise MalformedInput("class of a storage is unknown", found=describe(cls))
    if type(key) not in (str, ByteText) or "\0" in key:
        raise MalformedInput("key of a storage is no text", found=describe(key))
    if not isinstance(location, str | bytes):
        raise MalformedInput("device of a storage is no text", found=type(location).__name__)
    nbytes = numel * dtype.itemsize if type(numel) is int else -1
    if not 0 <= nbytes <= INT64_MAX:
        raise MalformedInput(
            "number of elements in a storage",
            expected="0 to 2^63 - 1 bytes",
            found=numel if type(numel) is int and numel.bit_length() < 200 else type(numel),
        )
    return dtype, key, nbytes


class StorageTable:
    """Storages by key; each key is looked up once and must always say the same.

    locate(key, nbytes): (source, base) of that many bytes; an InputError where the container does
    not have them. scope: tells the storages of one file from those of another.
    """

    def __init__(
        self, locate: Callable[[str, int], tuple[Source, int]], *, scope: Hashable
    ) -> None:
        self.locate = locate
        self.scope = scope
        self.known: dict[str, Storage] = {}
        # The first plain tensor on a storage says all that is to be known of it; see torch_plain.
        self.plain: dict[str, Strided] = {}

    def __call__(self, node: Any) -> Storage:
        """The storage that a persistent id names; MalformedInput where two ids contradict."""
        return self.named(*_check_id(node, _LENGTHS))

    def named(self, dtype: DType, key: str, nbytes: int) -> Storage:
        """The storage `key`, which an id says to be of that element type and size."""
        known = self.known.get(key)
        if known is None and key in self.plain:
            first = self.plain[key]
            known = self.known[key] = Storage(
                first.source, first.base, first.storage_nbytes, first.dtype, first.storage
            )
        if known is not None:
            if known.dtype is not dtype or known.nbytes != nbytes:
                raise MalformedInput(
                    f"storage '{shorten(key)}' is named in two ways",
                    expected=f"{known.nbytes // known.dtype.itemsize} x {known.dtype}",
                    found=f"{nbytes // dtype.itemsize} x {dtype}",
                )
            return known
        source, base = self.locate(key, nbytes)
        storage = self.known[key] = Storage(source, base, nbytes, dtype, (self.scope, key))
        return storage

    def keys(self) -> set[str]:
        """Keys that were looked up so far."""
        return self.known.keys() | self.plain.keys()
