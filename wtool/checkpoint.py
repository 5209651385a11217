"""The registry that every reader fills and every command reads: Tensor and Checkpoint.

Both are lazy: building them reads no tensor byte. A Checkpoint exists only if it is sound: names
are unique; that spans lie inside their file and sizes equal shape x bits is checked by the extents.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wtool.dtypes import DType
from wtool.errors import MalformedInput, UnsupportedError, WtoolError
from wtool.extents import MAX_EXPANSION, MAX_EXPANSION_BYTES, Extent, Strided
from wtool.sources import Source, absolute

if TYPE_CHECKING:
    import numpy as np

# What a tensor is to the model. `layers` decides where a reader has no evidence of its own.
ROLES = ("weight", "bias", "buffer", "optimizer", "ema", "other", "unknown")
# Roles of what is no part of the model itself: state and copies that training keeps beside it.
BESIDE_MODEL = ("optimizer", "ema", "other")


@dataclass(slots=True, eq=False)
class Tensor:
    """One named tensor: what it is, and where its values lie. Nothing is read until asked for.

    name: as shown and selected. key: as stored in the file, exactly.
    dtype, shape: of the values; `extent` reads them.
    role: one of ROLES; a reader sets it only where the file states it, `layers` fills the rest.
    layer, kind: path of the layer ("features.0") and what it is ("conv"); filled by `layers`.
    kind_is_guess: the kind follows from names and shapes alone, no file states it.
    path: the name's components as nested in the file, where the file nests.
    is_parameter: the file states that it is learned, and not whether as a weight or as a bias.
    """

    name: str
    key: str
    extent: Extent
    role: str | None = None
    layer: str | None = None
    kind: str | None = None
    path: tuple[str, ...] = ()
    kind_is_guess: bool = False
    is_parameter: bool = False

    @classmethod
    def at_path(cls, path: tuple[str, ...], extent: Extent, role: str | None) -> Tensor:
        """The tensor of that path, named by it; nothing else is known. Cheaper than `Tensor()`."""
        tensor = cls.__new__(cls)
        tensor.name = tensor.key = ".".join(path)
        tensor.extent = extent
        tensor.role = role
        tensor.layer = tensor.kind = None
        tensor.path = path
        tensor.kind_is_guess = tensor.is_parameter = False
        return tensor

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.extent.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each dimension; () for a scalar."""
        return self.extent.shape

    def __repr__(self) -> str:
        """A line with what matters: type, sizes, role, kind of its layer."""
        role = f", {self.role}" if self.role else ""
        kind = f" of {self.kind} {self.layer!r}" if self.kind and self.layer else ""
        return f"<Tensor {self.name!r}: {self.dtype.name} {list(self.shape)}{role}{kind}>"

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.extent.count

    @property
    def nbytes(self) -> int:
        """Bytes of the values themselves: count x bits; for strings, what is stored."""
        extent = self.extent
        bits = extent.dtype.bits
        return (extent.count * bits + 7) // 8 if bits else extent.stored_nbytes

    @property
    def storage(self) -> Hashable:
        """Equal for two tensors on the same stored bytes."""
        return self.extent.storage

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Strides in elements where the values are strided raw bytes, else None."""
        return self.extent.strides if isinstance(self.extent, Strided) else None

    @property
    def source(self) -> Source | None:
        """The file behind the values where they are raw bytes of one file, else None."""
        return absolute(self.extent.source, 0)[0] if isinstance(self.extent, Strided) else None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that hold the values: several for a tensor pasted from pieces."""
        return tuple(source.name for source in self.extent.sources)

    @property
    def offset(self) -> int | None:
        """Offset in bytes of the first element from the start of `source`, else None."""
        extent = self.extent
        return absolute(extent.source, extent.offset)[1] if isinstance(extent, Strided) else None

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Elements [start, stop) in C order, (stop - start,) of the carrier dtype; fills `out`.

        ValueError where `out` is not a contiguous array of that shape and dtype, IndexError where
        the tensor has no such elements.
        """
        if out is not None:
            self._check_out(stop - start, out)
        try:
            return self.extent.read(start, stop, out)
        except WtoolError as error:
            raise error.locate(tensor=self.name) from error.__cause__

    def _check_out(self, count: int, out: np.ndarray) -> None:
        """ValueError where filling `out` would leave part of it or mistake its bytes."""
        carrier = self.dtype.carrier
        if (out.shape, out.dtype) != ((count,), carrier) or not out.flags.c_contiguous:
            spaced = "" if out.flags.c_contiguous else ", not contiguous"
            raise ValueError(
                f"tensor '{self.name}': out: expected {carrier} ({count},), contiguous; "
                f"found {out.dtype} {out.shape}{spaced}"
            )

    @property
    def is_expanded(self) -> bool:
        """Whether a view claims far more elements than are stored: reading them takes for ever."""
        size = self.count * self.dtype.carrier.itemsize
        stored = self.extent.storage_nbytes if isinstance(self.extent, Strided) else size
        return size > MAX_EXPANSION_BYTES and size > MAX_EXPANSION * max(stored, 1)

    def blocks(self, max_bytes: int = 1 << 20) -> Iterator[np.ndarray]:
        """All values in C order in 1-D arrays of at most `max_bytes`, each valid until the next.

        UnsupportedError where the tensor `is_expanded`.
        """
        self.refuse_expansion()
        try:
            yield from self.extent.blocks(max_bytes)
        except WtoolError as error:
            raise error.locate(tensor=self.name) from error.__cause__

    def load(self) -> np.ndarray:
        """The whole tensor: an array of `shape`, carrier dtype.

        UnsupportedError where the tensor `is_expanded`.
        """
        self.refuse_expansion()
        return self.read(0, self.count).reshape(self.shape)

    def refuse_expansion(self) -> None:
        """UnsupportedError where the tensor `is_expanded`."""
        if self.is_expanded:
            raise UnsupportedError(
                "tensor repeats a few stored bytes too often to be read whole",
                tensor=self.name,
                expected=f"at most {MAX_EXPANSION} x what is stored",
                found=f"{self.nbytes} bytes",
                hint="--exclude leaves it out",
            )


# What the names of those texts begin with that wtool writes itself: the mapping of a conversion and
# the facts of the model that weights cannot carry. Every container that has a place keeps them.
FACTS = "wtool."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weight file holds.

    path: as the user named it. format: name of the Format that opened it.
    tensors: by name, in stored order.
    metadata: text that the file carries. extras: inert non-tensor values by dotted name.
    notes: what a user should know (a prefix dropped, an entry skipped and why).
    globals: for pickles, how often each "module.name" is mentioned; nothing was imported.
    files: every file that belongs to it, sorted in shard order.
    tree: the nested structure as stored, for writers that can keep it.
    """

    path: str
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    globals: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    tree: Any = None

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Name of a tied tensor -> name of the tensor whose stored elements it repeats.

        A tensor is an alias where all its elements lie within those of another tensor that fills
        its span, or where both have the same storage and geometry. The first in stored order is
        the owner among equals; otherwise the larger.
        """
        return find_aliases(self.tensors.values())

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors.values())

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, tensor: object) -> bool:
        """Whether it has a tensor of that name, or that very Tensor."""
        if isinstance(tensor, Tensor):
            return self.tensors.get(tensor.name) is tensor
        return tensor in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __repr__(self) -> str:
        """A line: a checkpoint may have 100,000 tensors."""
        return f"<Checkpoint {self.path!r}: {self.format}, {len(self):,} tensors>"


def build(
    path: str | os.PathLike[str], format: str, tensors: Iterable[Tensor], **rest: Any
) -> Checkpoint:
    """A Checkpoint from tensors in stored order; MalformedInput where two have the same name."""
    by_name: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in by_name:
            raise MalformedInput("two tensors have the same name", path=path, tensor=tensor.name)
        by_name[tensor.name] = tensor
    rest.setdefault("files", (os.fspath(path),))
    return Checkpoint(os.fspath(path), format, by_name, **rest)


def find_aliases(tensors: Iterable[Tensor]) -> dict[str, str]:
    """See Checkpoint.aliases. O(n log n) within one storage, however many views it has."""
    first: dict[Hashable, Tensor] = {}
    shared: dict[Hashable, list[Tensor]] = {}
    for tensor in tensors:
        storage = tensor.extent.storage
        owner = first.setdefault(storage, tensor)
        if owner is not tensor:
            shared.setdefault(storage, [owner]).append(tensor)
    aliases: dict[str, str] = {}
    for group in shared.values():
        stored = [t for t in group if t.extent.stored_nbytes or t.dtype.bits == 0]
        aliases.update(_aliases_in_storage(stored))
    return aliases


def _aliases_in_storage(group: list[Tensor]) -> Iterator[tuple[str, str]]:
    """(alias, owner) among tensors of one storage, in bits from its start."""
    spans = []
    same: dict[Hashable, str] = {}
    for order, tensor in enumerate(group):
        extent = tensor.extent
        if not isinstance(extent, Strided):
            low, high, dense = 0, 1, True  # same storage means the same values
        else:
            low, high, dense = extent.low * extent.bits, extent.high * extent.bits, extent.is_dense
            if not dense:
                geometry = (extent.first, extent.shape, extent.strides, extent.bits)
                owner = same.setdefault(geometry, tensor.name)
                if owner != tensor.name:
                    yield tensor.name, owner
                    continue
        spans.append((low, -high, order, dense, tensor.name))
    spans.sort()
    cover_high, cover_name = -1, ""
    for _, minus_high, _, dense, name in spans:
        if -minus_high <= cover_high:
            yield name, cover_name
        elif dense:
            cover_high, cover_name = -minus_high, name
