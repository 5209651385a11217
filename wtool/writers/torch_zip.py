"""Writes PyTorch's zip files, as torch.load reads them: with weights_only, with mmap, from torch
1.6 on.

Layout: `archive/data.pkl`, `archive/byteorder`, `archive/data/N`, `archive/version`; stored, data
on multiples of 64 bytes, real checksums. No `.format_version`: it would announce data descriptors.
Facts of a conversion lie in `archive/extra/`, where torch keeps files of the user and `torch.load`
does not look; of shards, in the index.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dtypes import DTYPES
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.encodings.pickle_writer import ORDERED_DICT, dumps
from wtool.writers.plans import (
    Loss,
    Plan,
    PlannedFile,
    extras_losses,
    facts_of,
    metadata_losses,
    refuse_unsupported,
    resolve_owner,
)
from wtool.writers.shards import index_file, split
from wtool.writers.torch_nested import can_nest, nest
from wtool.writers.torch_storages import StorageTable, View, place
from wtool.writers.zip_files import Record, zip_file

CONTAINER = "torch"
# The same prefix for every file, so that its bytes do not depend on its name.
ARCHIVE = "archive"
ALIGNMENT = 64
VERSION = b"3\n"
BYTE_ORDER = b"little"

# Element types that have a storage class of their own; torch 1.6 reads them.
STORAGE_CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
# Element types that torch 2.1 and later store as bytes, with the type beside them.
UNTYPED = [
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e5m2fnuz",
    "float8_e4m3fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn",
    "complex32",
    "uint16",
    "uint32",
    "uint64",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
]
HELD = frozenset(DTYPES[name] for name in (*STORAGE_CLASSES, *UNTYPED))

_REBUILD_V2 = Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_V3 = Global("torch._utils", "_rebuild_tensor_v3")
_UNTYPED_STORAGE = Global("torch.storage", "UntypedStorage")


def plan(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    untie: bool = False,
    max_shard_bytes: int | None = None,
    flat: bool = False,
) -> Plan:
    """Plan one file at `path`, or shards beside it and an index, as `pytorch_model.bin` has them.

    A checkpoint that still has all tensors of its PyTorch file under their names keeps its nesting;
    any other becomes one dictionary of tensors. untie: give every tensor a storage of its own;
    otherwise tied tensors share one, within a shard. flat: drop the nesting.
    Raises UnsupportedError listing every tensor that torch cannot hold.
    """
    path = os.fspath(path)
    refuse_unsupported(list(checkpoint), CONTAINER, _reason_against)
    facts = facts_of(checkpoint)
    losses = metadata_losses(checkpoint, CONTAINER, kept=facts)
    if not flat and max_shard_bytes is None and can_nest(checkpoint.tree, checkpoint.tensors):
        table = place(checkpoint, untie=untie)
        nested = nest(
            checkpoint.tree,
            checkpoint.tensors,
            lambda tensor: rebuild_node(tensor, table.views[tensor.name]),
        )
        losses += [*table.losses, *nested.losses]
        file = torch_file(path, dumps(nested.root), table, tuple(checkpoint.tensors), facts)
        return Plan(CONTAINER, (file,), tuple(losses))
    losses += extras_losses(checkpoint, CONTAINER)
    aliases = {} if untie else dict(checkpoint.aliases)
    owners = {name: resolve_owner(aliases, name) for name in aliases}
    shards = split(list(checkpoint), owners, path, max_shard_bytes)
    inside = facts if len(shards) == 1 else {}
    files = [
        _plan_file(shard.path, shard.tensors, checkpoint, untie, losses, inside) for shard in shards
    ]
    if len(shards) > 1:
        files.append(index_file(path, shards, facts, owners))
    return Plan(CONTAINER, tuple(files), tuple(losses))


def _reason_against(tensor: Tensor) -> str | None:
    if tensor.dtype not in HELD:
        return f"type {tensor.dtype.name}"
    if tensor.dtype.bits < 8 and (not tensor.shape or tensor.shape[-1] % 2):
        return f"{tensor.dtype.name} with an odd last dimension"
    return None


def _plan_file(
    path: str,
    tensors: Sequence[Tensor],
    checkpoint: Checkpoint,
    untie: bool,
    losses: list[Loss],
    facts: Mapping[str, str],
) -> PlannedFile:
    part = Checkpoint(
        checkpoint.path, checkpoint.format, {tensor.name: tensor for tensor in tensors}
    )
    table = place(part, untie=untie)
    losses.extend(table.losses)
    root = Dict((tensor.name, rebuild_node(tensor, table.views[tensor.name])) for tensor in part)
    root.cls = ORDERED_DICT
    return torch_file(path, dumps(root), table, tuple(part.tensors), facts)


def rebuild_node(tensor: Tensor, view: View) -> Call:
    """The call that torch makes to rebuild `tensor` over its storage."""
    hooks = Dict()
    hooks.cls = ORDERED_DICT
    shape, strides, dtype = tensor.shape, view.strides, tensor.dtype
    if dtype.bits < 8:
        # torch counts pairs of 4-bit values: float4_e2m1fn_x2.
        per_byte = 8 // dtype.bits
        shape = (*shape[:-1], shape[-1] // per_byte)
        strides = (*(stride // per_byte for stride in strides[:-1]), 1)
    itemsize = dtype.itemsize
    numel = view.storage.nbytes // itemsize
    if dtype.name in STORAGE_CLASSES:
        kind = Global("torch", STORAGE_CLASSES[dtype.name])
        storage = Persistent(("storage", kind, view.storage.key, "cpu", numel))
        return Call(_REBUILD_V2, (storage, view.first, shape, strides, False, hooks))
    nbytes = view.storage.nbytes
    storage = Persistent(("storage", _UNTYPED_STORAGE, view.storage.key, "cpu", nbytes))
    element: Any = Global("torch", str(dtype.torch))
    return Call(_REBUILD_V3, (storage, view.first, shape, strides, False, hooks, element))


def torch_file(
    path: str,
    pickled: bytes,
    table: StorageTable,
    names: tuple[str, ...],
    facts: Mapping[str, str],
) -> PlannedFile:
    """The archive of `pickled`, the storages that it names, and a record for each of `facts`."""
    records = [
        Record(f"{ARCHIVE}/data.pkl", pickled),
        Record(f"{ARCHIVE}/byteorder", BYTE_ORDER),
        *(
            Record(f"{ARCHIVE}/data/{storage.key}", tensor=storage.tensor)
            for storage in table.storages
        ),
        Record(f"{ARCHIVE}/version", VERSION),
        *(Record(f"{ARCHIVE}/extra/{name}", text.encode()) for name, text in facts.items()),
    ]
    return zip_file(path, records, ALIGNMENT, names)
