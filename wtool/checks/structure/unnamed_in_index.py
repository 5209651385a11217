"""A shard holds tensors that the index does not place there.

Why it is bad: loaders that follow the index never see them, loaders that read all shards do: one
model, two behaviours. The index is of another save, or a shard was replaced.

Example: `model-00002-of-00003.safetensors` holds `lm_head.weight`, which the index does not name.

How to mend it: write the shards and their index together again (`wtool convert --max-shard-size`).
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each tensor of a shard that is not the index's tensor of that name."""
    for path, shard in subject.parts():
        if path == subject.checkpoint.path or subject.checkpoint.format != "sharded":
            continue
        for tensor in shard:
            named = subject.checkpoint.tensors.get(tensor.name)
            placed = named is not None and (named.source is None or named.source.name == path)
            if not placed and tensor.key == tensor.name:
                yield Finding(
                    "is in the shard, but the index does not name it there", tensor.name, file=path
                )


RULE = Rule(
    "WT028",
    "unnamed-in-index",
    "warning",
    "write shards and index together again",
    find,
    __doc__,
)
