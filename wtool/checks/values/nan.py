"""A tensor holds NaN.

Why it is bad: one NaN in a weight makes every output that it touches NaN; in a running statistic it
shows only in evaluation. It loads without a word.

Example: `bn1.running_var` of shape 64 with 3 NaN, the first at 17.

How to mend it: restore the tensor from the last checkpoint without NaN, or retrain; `wtool diff`
shows which tensors two checkpoints differ in. Never replace NaN by 0 without knowing its cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject, first_where

if TYPE_CHECKING:
    import numpy as np


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each tensor with NaN; only a warning in what is not part of the model."""
    for tensor, facts in subject.measured():
        if not facts.moments.nan:
            continue
        place = first_where(tensor, _is_nan)
        yield Finding(
            f"{facts.moments.nan:,} of {tensor.count:,} values are NaN",
            tensor.name,
            place[0] if place else None,
            "NaN",
            severity="warning" if tensor.role in ("optimizer", "other") else None,
        )


def _is_nan(block: np.ndarray) -> np.ndarray:
    return block != block


RULE = Rule(
    "WT001",
    "nan",
    "error",
    "restore the tensor from a checkpoint without NaN",
    find,
    __doc__,
)
