"""A tensor looks like memory that was never written.

Why it is bad: `torch.empty` and its like give whatever lay there: pieces of other arrays, pointers,
zeros. Magnitudes from 1e-40 to 1e30 stand side by side, and differ in every run.

Example: `head.bias` has values from 4.6e-41 to 7.2e28.

How to mend it: the code that made the file allocated the tensor and did not fill it: fill it from
the source checkpoint, or initialise it, and save again.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import HUGE, TINY, Subject, first_where

# Narrower types hold scales, whose magnitudes differ by right, or cannot hold such magnitudes.
MIN_BITS = 16
_ROLES = ("weight", "bias", "buffer", "ema", "unknown")


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each floating tensor with both tiny and huge magnitudes, 1 in 200 at least."""
    for tensor, facts in subject.measured(*_ROLES):
        if tensor.dtype.kind != "float" or tensor.dtype.bits < MIN_BITS:
            continue
        odd = facts.tiny + facts.huge
        if facts.tiny and facts.huge and odd * 200 >= tensor.count:
            place = first_where(tensor, lambda b: (abs(b) > HUGE) | ((b != 0) & (abs(b) < TINY)))
            yield Finding(
                f"{facts.huge:,} values above {HUGE:g} beside {facts.tiny:,} below {TINY:g}: "
                "memory that was never written",
                tensor.name,
                place[0] if place else None,
                place[1] if place else None,
            )


RULE = Rule(
    "WT013",
    "uninitialised",
    "error",
    "fill the tensor from its source, or initialise it, and save again",
    find,
    __doc__,
)
