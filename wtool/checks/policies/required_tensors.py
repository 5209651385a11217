"""A tensor that the policy requires is not there.

Why it is bad: the release is not complete.

Example: `[require] tensors = ["lm_head.weight"]`, and no name matches.

How to mend it: save the whole model. Patterns are globs, or regular expressions after `re:`.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.policy import name_matches
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each pattern of [require] tensors that matches no name."""
    for pattern in subject.policy.required:
        if not any(name_matches(pattern, name) for name in subject.checkpoint.tensors):
            yield Finding(f"no tensor matches '{pattern}'", value=pattern)


RULE = Rule(
    "WT065",
    "required-tensors",
    "error",
    "save the whole model",
    find,
    __doc__,
)
