"""A tensor holds an infinite value.

Why it is bad: infinity becomes NaN at the next subtraction or product with 0. Usually a cast to a
narrower type overflowed, or training diverged.

Example: `fc.weight` has 2 infinite values, the first at 3, 17, after a cast to float16.

How to mend it: cast again from the wider file, keeping this tensor wide or clamping it (`wtool cast
--keep`, `--on-overflow clamp`); else restore it from an earlier checkpoint.

In a buffer infinity can be meant (a mask, the start of a quantisation observer): a note there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject, first_where
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    import numpy as np

# Buffers in which infinity is never meant.
_STATISTICS = frozenset(("running_mean", "running_var", "moving_mean", "moving_variance"))


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each tensor with infinities."""
    for tensor, facts in subject.measured():
        if not facts.moments.inf:
            continue
        place = first_where(tensor, _is_infinite)
        meant = tensor.role == "buffer" and split_leaf(tensor.name)[1] not in _STATISTICS
        severity = "note" if meant else None
        if tensor.role in ("optimizer", "other"):
            severity = "warning"
        yield Finding(
            f"{facts.moments.inf:,} of {tensor.count:,} values are infinite",
            tensor.name,
            place[0] if place else None,
            str(place[1]) if place else None,
            severity=severity,
        )


def _is_infinite(block: np.ndarray) -> np.ndarray:
    import numpy as np

    marks: np.ndarray = np.isinf(block)
    return marks


RULE = Rule(
    "WT002",
    "infinity",
    "error",
    "cast again from the wider file, or restore the tensor",
    find,
    __doc__,
)
