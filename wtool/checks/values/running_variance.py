"""A running variance is not positive.

Why it is bad: batch normalisation divides by its root. A negative one gives NaN in evaluation; one
that is 0 everywhere says that the statistics were never filled in.

Example: `layer2.bn.running_var` is -0.013 at 5.

How to mend it: run some batches through the model in training mode to measure the statistics again,
then save; no training is needed.

Single zeros are a warning: a channel that is always 0 has such a variance, and works.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject, first_where
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    import numpy as np

LEAVES = frozenset(("running_var", "moving_variance"))


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each variance with values below 0, or with zeros."""
    for tensor, facts in subject.measured():
        low = facts.moments.minimum
        if split_leaf(tensor.name)[1] not in LEAVES or low is None or low > 0:
            continue
        zeros = facts.moments.zeros
        place = first_where(tensor, _is_negative if low < 0 else _is_zero)
        if low < 0:
            message = f"variances fall to {low:.6g}"
        else:
            message = f"{zeros:,} of {tensor.count:,} variances are 0"
        yield Finding(
            message,
            tensor.name,
            place[0] if place else None,
            place[1] if place else low,
            severity=None if low < 0 or zeros == tensor.count else "warning",
        )


def _is_negative(block: np.ndarray) -> np.ndarray:
    return block < 0


def _is_zero(block: np.ndarray) -> np.ndarray:
    return block == 0


RULE = Rule(
    "WT003",
    "running-variance",
    "error",
    "measure the statistics again by running batches in training mode, then save",
    find,
    __doc__,
)
