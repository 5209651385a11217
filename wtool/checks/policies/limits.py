"""The model is larger than the policy allows.

Why it is bad: it does not fit where it is to run, or something was saved that does not belong.

Example: `[limits] parameters = 25000000`, and the model has 25,557,032.

How to mend it: see what takes the room (`wtool count FILE`); raise the limit if it is right.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import LEARNED, Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each of [limits] bytes, tensors, parameters that is exceeded; ties count once.

    file_bytes and shard_bytes are limits of WT053 and WT054.
    """
    owners = subject.owners
    sums = {
        "bytes": sum(tensor.nbytes for tensor in owners),
        "tensors": len(subject.checkpoint),
        "parameters": parameters(subject),
    }
    for key, number in sums.items():
        limit = subject.policy.limits.get(key)
        if limit is not None and number > limit:
            yield Finding(f"{number:,} {key}, the policy allows {limit:,}", value=number)


def parameters(subject: Subject) -> int:
    """Elements of weights and biases, tied ones once."""
    return sum(tensor.count for tensor in subject.owners if tensor.role in LEARNED)


RULE = Rule(
    "WT062",
    "limits",
    "error",
    "see what takes the room with wtool count",
    find,
    __doc__,
)
