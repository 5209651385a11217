"""A tensor has a type that the policy does not allow.

Why it is bad: users plan memory and hardware by the type that the release promises.

Example: `[allow] dtypes = ["bfloat16", "int64"]`, and `lm_head.weight` is float32.

How to mend it: `wtool cast FILE OUT --to TYPE`, or allow the type.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each tensor whose type is not in [allow] dtypes."""
    allowed = subject.policy.dtypes
    for tensor in subject.checkpoint if allowed else ():
        if tensor.dtype.name not in allowed:
            yield Finding(
                f"is {tensor.dtype}, the policy allows {', '.join(allowed)}",
                tensor.name,
                value=tensor.dtype.name,
            )


RULE = Rule(
    "WT061",
    "dtype",
    "error",
    "cast it by wtool cast, or allow the type",
    find,
    __doc__,
)
