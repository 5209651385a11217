"""A weight is 0 everywhere.

Why it is bad: its layer gives nothing but its bias. Often the tensor was allocated and never filled
by a conversion script, or belongs to a part that was pruned.

Example: `encoder.layer.3.attention.output.dense.weight`, 768 x 768, every value 0.

How to mend it: find the tensor in the source of the conversion and convert again; where the layer
starts at zero on purpose (a residual branch, LoRA's B, a new head), suppress the finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight of zeros; biases may be zero."""
    for tensor, facts in subject.measured("weight"):
        if tensor.count > 1 and facts.moments.zeros == tensor.count:
            yield Finding(f"all {tensor.count:,} values are 0", tensor.name, value=0)


RULE = Rule(
    "WT004",
    "all-zero",
    "warning",
    "convert it again from the source, or suppress the finding if zero is meant",
    find,
    __doc__,
)
