"""Splitting a model over several files, and the index that joins them, as Hugging Face names both.

The rule is huggingface_hub's (0.36, `split_state_dict_into_shards_factory`): tensors in their
order; a shard is closed when the next tensor would make it larger than the limit; a tensor above
the limit gets a file of its own and closes nothing; tied tensors follow their owner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wtool.checkpoint import Tensor
from wtool.errors import UsageError
from wtool.writers.outputs import Output
from wtool.writers.plans import PlannedFile

# The number in a shard's name has five digits, and readers look for just these.
MAX_SHARDS = 99_999


@dataclass(frozen=True)
class Shard:
    """One file of a split: where, and which tensors in which order."""

    path: str
    tensors: tuple[Tensor, ...]


def split(
    tensors: Iterable[Tensor], owners: Mapping[str, str], path: str, max_shard_bytes: int | None
) -> list[Shard]:
    """Shards of at most `max_shard_bytes`, in order; one Shard at `path` itself where one is
    enough.

    owners: name of a tied tensor -> name of the tensor it goes with; its own size counts nothing.
    Raises UsageError for a limit below one byte, or one so small that names run out.
    """
    everything = tuple(tensors)
    if max_shard_bytes is None:
        return [Shard(path, everything)]
    if max_shard_bytes < 1:
        raise UsageError("bad shard size", expected="at least 1 byte", found=max_shard_bytes)
    groups: list[list[Tensor]] = []
    current: list[Tensor] = []
    size = 0
    for tensor in everything:
        if tensor.name in owners:
            continue
        if tensor.nbytes > max_shard_bytes:
            groups.append([tensor])
            continue
        if size + tensor.nbytes > max_shard_bytes:
            groups.append(current)
            current, size = [], 0
        current.append(tensor)
        size += tensor.nbytes
    if current:
        groups.append(current)
    _add_followers(groups, everything, owners)
    if len(groups) <= 1:
        return [Shard(path, everything)]
    if len(groups) > MAX_SHARDS:
        raise UsageError(
            "shards too small", expected=f"at most {MAX_SHARDS} files", found=len(groups)
        )
    stem, suffix = os.path.splitext(path)
    return [
        Shard(f"{stem}-{number:05d}-of-{len(groups):05d}{suffix}", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def _add_followers(
    groups: list[list[Tensor]], everything: Sequence[Tensor], owners: Mapping[str, str]
) -> None:
    """Put each tied tensor at the end of its owner's group."""
    if not owners:
        return
    group_of = {tensor.name: group for group in groups for tensor in group}
    for tensor in everything:
        if tensor.name in owners:
            group_of[owners[tensor.name]].append(tensor)


def index_file(
    path: str,
    shards: Sequence[Shard],
    metadata: Mapping[str, str],
    tied: Collection[str] = (),
) -> PlannedFile:
    """The index of `shards`, called `path` + ".index.json"; the file that makes the set whole.

    tied: names of tied tensors, which total_size does not count again.
    """
    total = 0
    weight_map: dict[str, str] = {}
    for shard in shards:
        for tensor in shard.tensors:
            weight_map[tensor.name] = os.path.basename(shard.path)
            if tensor.name not in tied:
                total += tensor.nbytes
    index = {
        "metadata": {"total_size": total, **dict(sorted(metadata.items()))},
        "weight_map": weight_map,
    }
    text = json.dumps(index, indent=2).encode("utf-8")

    def write(output: Output) -> None:
        output.write(text)

    return PlannedFile(f"{path}.index.json", len(text), write)
