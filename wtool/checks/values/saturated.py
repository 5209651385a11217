"""Values pile up at one end of a tensor's range: they were clipped.

Why it is bad: a clip that was meant as a safety net cut through the distribution, so information is
gone; at one end only, it also moved the mean. A quantisation with a wrong scale looks the same.

Example: 4.2 % of `fc2.weight` are exactly 0.0625, the largest value; none is at the lowest.

How to mend it: take the tensor from before the clip or the cast, and choose wider bounds.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial

from wtool.checkpoint import Tensor
from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject, first_where

# A uniform distribution has at most 0.8 % of its values in its outermost bin.
SHARE = 0.015
# And its next bin holds about as many.
STEP = 4
MIN_COUNT = 256
MIN_DISTINCT = 64


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each floating weight with values heaped exactly at its minimum or maximum."""
    for tensor, facts in subject.matrices():
        if tensor.count < MIN_COUNT or facts.distinct < MIN_DISTINCT:
            continue
        low, high = facts.moments.minimum, facts.moments.maximum
        at_low = _heaped(tensor, facts.lowest, low)
        at_high = _heaped(tensor, facts.highest, high)
        if not at_low and not at_high:
            continue
        bound = high if at_high >= at_low else low
        both = "both ends" if at_low and at_high else "one end only"
        place = first_where(tensor, partial(operator.eq, bound))
        heaped = max(at_low, at_high)
        yield Finding(
            f"{heaped:,} of {tensor.count:,} values ({heaped / tensor.count:.1%}) are exactly "
            f"{bound:.6g}, clipped at {both}",
            tensor.name,
            place[0] if place else None,
            bound,
        )


def _heaped(tensor: Tensor, bins: tuple[int, int], bound: float | int | None) -> int:
    """How many values equal `bound` where its bin says that there may be too many; else 0."""
    outer, inner = bins
    if not bound or outer < SHARE * tensor.count or outer < STEP * inner:
        return 0
    equal = sum(int((block == bound).sum()) for block in tensor.blocks())
    return equal if equal >= SHARE * tensor.count else 0


RULE = Rule(
    "WT015",
    "saturated",
    "warning",
    "take the tensor from before the clip or cast, and choose wider bounds",
    find,
    __doc__,
)
