"""Much of a parameter is subnormal: below the smallest normal number of its type.

Why it is bad: such values have few bits left, and arithmetic on them is many times slower on common
processors, or flushes them to 0. Weight decay on unused weights, or a cast, made them.

Example: 12 % of `fc.weight`, float16, are below 6.1e-5.

How to mend it: set them to 0, or cast again to a type with more range (bfloat16).
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import LEARNED, Subject

# A normal distribution of standard deviation 0.01 has 0.5 % of its values below float16's normals.
SHARE = 0.02


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight or bias of which more than 2 % is subnormal; not below 16 bits."""
    for tensor, facts in subject.measured(*LEARNED):
        if tensor.dtype.kind != "float" or tensor.dtype.bits < 16:
            continue
        subnormal = facts.moments.subnormal
        if subnormal > SHARE * tensor.count:
            yield Finding(
                f"{subnormal:,} of {tensor.count:,} values ({subnormal / tensor.count:.1%}) "
                f"are subnormal in {tensor.dtype}",
                tensor.name,
                value=subnormal,
                severity="note" if tensor.dtype.name == "float16" else None,
            )


RULE = Rule(
    "WT009",
    "subnormal",
    "warning",
    "set these values to 0, or cast again to a type with more range",
    find,
    __doc__,
)
