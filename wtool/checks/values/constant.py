"""A weight of two or more dimensions holds one value everywhere.

Why it is bad: all units of the layer compute the same thing, and training keeps them the same. Such
a tensor was filled by a placeholder, not by training.

Example: `classifier.weight`, 10 x 512, every value 0.01.

How to mend it: restore or convert the tensor again; initialise it at random if it is new.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each matrix or kernel whose values are equal and not 0."""
    for tensor, facts in subject.matrices():
        moments = facts.moments
        many = max(tensor.shape) < tensor.count  # a vector in disguise may be all ones
        flat = moments.finite == tensor.count and moments.minimum == moments.maximum
        if many and flat and moments.minimum:
            yield Finding(
                f"all {tensor.count:,} values are {moments.minimum:.6g}",
                tensor.name,
                value=moments.minimum,
            )


RULE = Rule(
    "WT005",
    "constant",
    "warning",
    "restore or convert the tensor again",
    find,
    __doc__,
)
