"""Much of a weight becomes 0 in float16.

Why it is bad: values below 3e-8 vanish in half precision; where they are many, the layer changes.

Example: 38 % of `lora_B.weight` are below 2.98e-8.

How to mend it: keep the tensor in float32 or bfloat16 when casting, or scale it up and its
counterpart down.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import HALF_VANISHES, LEARNED, Subject, first_where

# Some vanishing values are in every model.
SHARE = 0.01


def find(subject: Subject) -> Iterator[Finding]:
    """A note for each floating weight or bias of which more than 1 % vanishes."""
    for tensor, facts in subject.measured(*LEARNED):
        if tensor.dtype.kind == "float" and facts.vanish > SHARE * tensor.count:
            place = first_where(tensor, lambda b: (abs(b) <= HALF_VANISHES) & (b != 0))
            yield Finding(
                f"{facts.vanish:,} of {tensor.count:,} values become 0 in float16",
                tensor.name,
                place[0] if place else None,
                place[1] if place else None,
            )


RULE = Rule(
    "WT008",
    "half-vanish",
    "note",
    "keep it in float32 or bfloat16 when casting",
    find,
    __doc__,
)
