"""A parameter has values that float16 cannot hold.

Why it is bad: who loads the model in half precision gets infinity there, and NaN after it.

Example: `text_model.final_layer_norm.weight` reaches 70,144; float16 ends at 65,504.

How to mend it: publish a bfloat16 file beside it, or keep this tensor in float32 when casting
(`wtool cast --keep`); the model's documentation should say so.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import HALF_OVERFLOWS, LEARNED, Subject, first_where


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each floating weight or bias that overflows; counts are within bins of 2^-8."""
    for tensor, facts in subject.measured(*LEARNED):
        if tensor.dtype.kind != "float" or (facts.abs_max or 0) < HALF_OVERFLOWS:
            continue
        place = first_where(tensor, lambda block: abs(block) >= HALF_OVERFLOWS)
        yield Finding(
            f"{max(1, facts.overflow):,} of {tensor.count:,} values become infinite in float16, "
            f"up to {facts.abs_max:.6g}",
            tensor.name,
            place[0] if place else None,
            place[1] if place else facts.abs_max,
        )


RULE = Rule(
    "WT007",
    "half-overflow",
    "warning",
    "keep it in float32 or bfloat16 when casting",
    find,
    __doc__,
)
