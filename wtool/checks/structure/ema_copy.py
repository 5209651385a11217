"""A second, averaged copy of the model is left in the file.

Why it is bad: nobody can know which of the two is the release, and loaders choose differently; the
file is twice as large.

Example: 120 tensors below `ema_state_dict` beside `state_dict`.

How to mend it: choose one and save it alone: `wtool convert FILE OUT --ema` takes the average,
`--model-only` the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.structure.optimizer_state import leftovers
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """One finding for all tensors of an averaged copy."""
    yield from leftovers(subject, "ema", "of an averaged copy (EMA)")


RULE = Rule(
    "WT021",
    "ema-copy",
    "warning",
    "choose one copy and save it alone, by wtool convert --ema or --model-only",
    find,
    __doc__,
)
