"""Parameters are stored in several floating types.

Why it is bad: often a cast missed some, or a float64 from NumPy slipped in: memory is wasted, and
kernels refuse operands of two types. Where it is meant (norms kept in float32) it is a note only.

Example: 3 of 148 parameters are float64, the others float32.

How to mend it: cast all to one type (`wtool cast`), or allow both in the policy.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checkpoint import Tensor
from wtool.checks import Finding, Rule
from wtool.checks.subject import LEARNED, Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each floating type but the commonest (by elements); none if all are allowed."""
    by_type: dict[str, list[Tensor]] = {}
    for tensor in subject.owners:
        if tensor.role in LEARNED and tensor.dtype.kind == "float":
            by_type.setdefault(tensor.dtype.name, []).append(tensor)
    if len(by_type) < 2 or set(by_type) <= set(subject.policy.dtypes):
        return
    total = sum(map(len, by_type.values()))
    main = max(by_type, key=lambda name: sum(tensor.count for tensor in by_type[name]))
    for name, tensors in by_type.items():
        if name != main:
            yield Finding(
                f"{len(tensors):,} of {total:,} parameters are {name}, most are {main}",
                tensors[0].name,
                value=name,
                severity="warning" if name == "float64" else None,
            )


RULE = Rule(
    "WT026",
    "mixed-dtypes",
    "note",
    "cast all to one type, or allow both in the policy",
    find,
    __doc__,
)
