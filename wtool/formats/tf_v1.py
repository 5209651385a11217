"""TensorFlow V1 checkpoints: one table that holds names and values, or shards of such tables."""

from __future__ import annotations

import os

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dialects.tf_evidence import state_kinds
from wtool.dialects.tf_paths import V1_SHARD_NAME, Target, find_target, siblings
from wtool.dialects.tf_v1 import read_v1
from wtool.errors import MissingInput
from wtool.formats import Format, Probe, refuse_root


def claims(probe: Probe) -> bool:
    """Whether the path leads to a V1 checkpoint."""
    target = find_target(probe.path)
    return target is not None and target.kind == "v1"


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The checkpoint; reads the list of tensors, no values."""
    refuse_root(root, "a TensorFlow checkpoint")
    target = find_target(probe.path)
    if target is None:
        raise MissingInput("no TensorFlow checkpoint", path=probe.path)
    paths = _files(target)
    tensors = [
        Tensor(name, name, extent, "other" if extent.dtype.kind == "string" else None)
        for name, extent in read_v1(paths)
    ]
    evidence = state_kinds(
        tensors, [tensor.key for tensor in tensors], prefix=target.prefix, directory=None
    )
    notes = (*target.notes, *evidence.notes)
    return build(
        probe.path,
        FORMAT.name,
        tensors,
        metadata=evidence.metadata,
        notes=notes,
        files=tuple(paths),
    )


def _files(target: Target) -> list[str]:
    """The file, or all shards; MissingInput where one of them does not exist."""
    if os.path.isfile(target.prefix):
        return [target.prefix]
    shards = siblings(target.prefix, V1_SHARD_NAME)
    matches = [V1_SHARD_NAME.search(path) for path in shards]
    totals = {int(match[2]) for match in matches if match}
    if not shards:
        raise MissingInput("no such checkpoint", path=target.prefix)
    if len(totals) > 1:
        raise MissingInput(
            "shards of two checkpoints under one name",
            path=target.prefix,
            found=" and ".join(f"of {total}" for total in sorted(totals)),
        )
    there = {int(match[1]) for match in matches if match}
    total = totals.pop()
    for shard in range(min(total, len(there) + 1)):
        if shard not in there:
            path = f"{target.prefix}-{shard:05d}-of-{total:05d}"
            raise MissingInput(f"shard {shard + 1} of {total} is missing", path=path)
    return shards


FORMAT = Format("tensorflow_v1", "TensorFlow V1 checkpoint", (".ckpt",), claims, open_file)
