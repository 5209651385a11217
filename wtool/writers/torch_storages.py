"""Which storages a torch file gets, and how each tensor lies in its storage.

Tied tensors share one storage, as slices and transposes of it where they are that. A tensor that
fills its span keeps its strides (channels last); any other becomes contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dtypes import DType
from wtool.extents import Strided, c_strides
from wtool.writers.plans import Loss, resolve_owner, same_values
from wtool.writers.streams import stored_size


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that one record will hold: the values of `tensor` in C order."""

    key: str
    tensor: Tensor

    @property
    def nbytes(self) -> int:
        """Size of the record."""
        return stored_size(self.tensor)


@dataclass(frozen=True)
class View:
    """A tensor's place: `first` and `strides` count elements of the storage."""

    storage: Storage
    first: int
    strides: tuple[int, ...]


@dataclass
class StorageTable:
    """The storages in order of first use, and the views by tensor name."""

    storages: list[Storage] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)

    def add(self, tensor: Tensor) -> Storage:
        """A new storage with the values of `tensor`."""
        storage = Storage(str(len(self.storages)), tensor)
        self.storages.append(storage)
        return storage


def place(checkpoint: Checkpoint, *, untie: bool = False) -> StorageTable:
    """Storages and views for all tensors. A tie that no view can express is a Loss."""
    table = StorageTable()
    aliases = {} if untie else dict(checkpoint.aliases)
    for tensor in checkpoint:
        owner = checkpoint[resolve_owner(aliases, tensor.name)]
        if owner.name not in table.views:
            table.views[owner.name] = _own_view(table, owner)
        if tensor is not owner:
            view = _shared_view(tensor, owner, table.views[owner.name])
            if view is None:
                reason = f"its view of '{owner.name}' has no counterpart in torch"
                table.losses.append(Loss("ties", tensor.name, reason))
                view = _own_view(table, tensor)
            table.views[tensor.name] = view
    return table


def _own_view(table: StorageTable, tensor: Tensor) -> View:
    extent = tensor.extent
    if not isinstance(extent, Strided) or not _keeps_strides(extent) or not extent.count:
        return View(table.add(tensor), 0, c_strides(tensor.shape))
    if extent.is_contiguous:
        return View(table.add(tensor), 0, c_strides(tensor.shape))
    flat = Strided(
        extent.source,
        extent.base,
        extent.storage_nbytes,
        extent.dtype,
        (extent.count,),
        first=extent.low,
        big_endian=extent.big_endian,
        conj=extent.conj,
        neg=extent.neg,
        storage=extent.storage,
    )
    storage = table.add(Tensor(tensor.name, tensor.key, flat))
    return View(storage, 0, extent.strides)


def _keeps_strides(extent: Strided) -> bool:
    """Whether torch can hold the elements where they lie: whole bytes, no stride below zero."""
    whole_bytes = extent.bits == extent.dtype.bits and extent.bits % 8 == 0
    forward = all(stride >= 0 for stride in extent.strides)
    # A subclass may compute or prove something on reading: only plain strided bytes are re-cut.
    return type(extent) is Strided and whole_bytes and extent.is_dense and forward


def _shared_view(tensor: Tensor, owner: Tensor, view: View) -> View | None:
    """The view of `tensor` in its owner's storage; None where torch has none."""
    if same_values(tensor, owner):
        return view
    ours, theirs = tensor.extent, owner.extent
    if not (type(ours) is Strided and type(theirs) is Strided and _keeps_strides(theirs)):
        return None
    if _reading(ours) != _reading(theirs) or any(stride < 0 for stride in ours.strides):
        return None
    return View(view.storage, ours.first - theirs.low, ours.strides)


def _reading(extent: Strided) -> tuple[DType, int, bool, bool, bool]:
    """How stored bytes become values: two views must agree on it to share converted bytes."""
    return extent.dtype, extent.bits, extent.big_endian, extent.conj, extent.neg
