"""The number of parameters is not the one that the policy states.

Why it is bad: a layer was lost or added: the file is not the model that is announced.

Example: `[expect] parameters = 25557032`, and the file has 25,555,984.

How to mend it: compare with the reference (`wtool diff REFERENCE FILE`).
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.policies.limits import parameters
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding where [expect] parameters is another number; tied tensors count once."""
    expected = subject.policy.parameters
    if expected is not None and parameters(subject) != expected:
        number = parameters(subject)
        yield Finding(f"{number:,} parameters, the policy expects {expected:,}", value=number)


RULE = Rule(
    "WT063",
    "parameter-count",
    "error",
    "compare it with the reference by wtool diff",
    find,
    __doc__,
)
