"""The totals that a shard index states are not those of its tensors.

Why it is bad: loaders plan memory and progress by `total_size`, model pages count parameters by it;
a wrong one says that the index and the shards are of two different saves.

Example: `total_size` is 548,105,171 and the tensors take 548,118,077 bytes.

How to mend it: write the shards and their index together again (`wtool convert --max-shard-size`).
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import LEARNED, Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each of total_size and total_parameters that is wrong, tied tensors or not."""
    checkpoint = subject.checkpoint
    if checkpoint.format not in ("sharded", "keras_shards"):
        return
    owners, everything = subject.owners, list(checkpoint)
    sizes = {sum(t.nbytes for t in some) for some in (owners, everything)}
    yield from _compare(checkpoint.metadata.get("total_size"), "total_size", sizes, "bytes")
    counts = {sum(t.count for t in some) for some in (owners, everything)}
    counts |= {sum(t.count for t in owners if t.role in LEARNED)}
    stated = checkpoint.metadata.get("total_parameters")
    yield from _compare(stated, "total_parameters", counts, "elements")


def _compare(stated: str | None, key: str, right: set[int], unit: str) -> Iterator[Finding]:
    # Some writers compute the sum in floating point: "548118077.0".
    if stated is not None and stated.removesuffix(".0") not in {str(number) for number in right}:
        yield Finding(
            f"the index says {key} {stated[:40]}, the tensors have {max(right)} {unit}",
            value=stated[:40],
        )


RULE = Rule(
    "WT027",
    "index-totals",
    "warning",
    "write shards and index together again",
    find,
    __doc__,
)
