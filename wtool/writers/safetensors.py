"""Writes safetensors files, byte for byte as the reference writer (safetensors 0.8.0) does.

Tensors sorted by element type, the widest first, then by name; `__metadata__` first, sorted; header
padded with spaces to 8 bytes. Source: safetensors `tensor.rs`, `prepare` and `Dtype`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence

from wtool.checkpoint import Checkpoint, Tensor
from wtool.errors import UnsupportedError
from wtool.writers.outputs import Output
from wtool.writers.plans import (
    Loss,
    Plan,
    PlannedFile,
    carried_metadata,
    extras_losses,
    refuse_unsupported,
    resolve_owner,
    same_values,
)
from wtool.writers.shards import index_file, split
from wtool.writers.streams import copy_values, stored_size

CONTAINER = "safetensors"
# The reference's `Dtype` in the order of its declaration: files are sorted by it, descending.
DTYPE_ORDER = [
    "BOOL",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "U8",
    "I8",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
]
RANK = {name: rank for rank, name in enumerate(DTYPE_ORDER)}
# The reference refuses to read a longer header.
MAX_HEADER_BYTES = 100_000_000
METADATA_KEY = "__metadata__"


def plan(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    untie: bool = False,
    max_shard_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Plan:
    """Plan one file at `path`, or shards beside it and an index.

    untie: write tied tensors twice; otherwise one tensor, and {removed: kept} in the metadata (of
    the file, or of the index where there are shards), as Hugging Face libraries do.
    max_shard_bytes: largest sum of tensors in one shard. metadata: replaces the checkpoint's own.
    Raises UnsupportedError listing every tensor that the format cannot hold.
    """
    path = os.fspath(path)
    refuse_unsupported(list(checkpoint), CONTAINER, _reason_against)
    losses = extras_losses(checkpoint, CONTAINER)
    texts = carried_metadata(checkpoint) if metadata is None else dict(metadata)
    for name, kept in list(texts.items()):
        # Aliases that the source recorded are tensors of the checkpoint now; they are found anew.
        if name in checkpoint.tensors and kept in checkpoint.tensors:
            del texts[name]
    removed = {} if untie else _exact_ties(checkpoint, losses)
    for name in removed:
        if name in texts:
            losses.append(Loss("metadata", name, "its name is needed for a tied tensor"))
    tensors = [tensor for tensor in checkpoint if tensor.name not in removed]
    shards = split(tensors, {}, path, max_shard_bytes)
    is_tied = len(shards) == 1 and bool(removed)
    if is_tied or (texts and checkpoint.format.startswith("torch")):
        # Hugging Face loaders refuse metadata that does not name a framework.
        texts.setdefault("format", "pt")
    if len(shards) == 1:
        texts.update(removed)
        return Plan(CONTAINER, (_plan_file(path, tensors, texts),), tuple(losses))
    files = [_plan_file(shard.path, shard.tensors, texts) for shard in shards]
    return Plan(CONTAINER, (*files, index_file(path, shards, removed)), tuple(losses))


def _reason_against(tensor: Tensor) -> str | None:
    if tensor.dtype.safetensors is None:
        return f"type {tensor.dtype.name}"
    if tensor.name == METADATA_KEY:
        return "a tensor of the name that is reserved for metadata"
    if tensor.count * tensor.dtype.bits % 8:
        return f"{tensor.dtype.name} values that do not fill whole bytes"
    if not _is_unicode(tensor.name):
        return "a name that is not Unicode text"
    return None


def _exact_ties(checkpoint: Checkpoint, losses: list[Loss]) -> dict[str, str]:
    """{removed: kept} for tensors equal to their owner; a Loss for slices and transposes of it."""
    aliases = dict(checkpoint.aliases)
    removed = {}
    for name in aliases:
        owner = resolve_owner(aliases, name)
        if same_values(checkpoint[name], checkpoint[owner]):
            removed[name] = owner
        else:
            losses.append(Loss("ties", name, f"a part or another view of '{owner}'"))
    return removed


def _plan_file(path: str, tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> PlannedFile:
    ordered = sorted(tensors, key=_order)
    header = header_bytes(ordered, metadata, path)
    nbytes = len(header) + sum(stored_size(tensor) for tensor in ordered)

    def write(output: Output) -> None:
        output.write(header)
        for tensor in ordered:
            copy_values(tensor, output)

    return PlannedFile(path, nbytes, write, tuple(tensor.name for tensor in ordered))


def _order(tensor: Tensor) -> tuple[int, bytes]:
    # Names compare as their UTF-8 bytes in the reference.
    return -RANK[tensor.dtype.safetensors or ""], tensor.name.encode("utf-8")


def header_bytes(tensors: Sequence[Tensor], metadata: Mapping[str, str], path: str) -> bytes:
    """The header with its length in front, for `tensors` in file order, all in supported types.

    Raises UnsupportedError where it would be longer than readers accept, or text is not Unicode.
    """
    table: dict[str, object] = {}
    if metadata:
        table[METADATA_KEY] = dict(sorted(metadata.items(), key=lambda item: item[0]))
    position = 0
    for tensor in tensors:
        end = position + stored_size(tensor)
        table[tensor.name] = {
            "dtype": tensor.dtype.safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    try:
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnsupportedError("metadata that is not Unicode text", path=path) from error
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise UnsupportedError(
            "safetensors header too long",
            path=path,
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            found=len(text),
            hint="write shards",
        )
    return len(text).to_bytes(8, "little") + text


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
