"""A tensor is there that the policy forbids.

Why it is bad: something leaves the house that should not: a teacher, a discriminator, a private
head.

Example: `[forbid] tensors = ["teacher.*"]`, and `teacher.fc.weight` is in the file.

How to mend it: `wtool convert FILE OUT --exclude PATTERN`. Patterns are globs, or regular
expressions after `re:`.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.policy import name_matches
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each name that a pattern of [forbid] tensors matches."""
    for name in subject.checkpoint.tensors:
        for pattern in subject.policy.forbidden:
            if name_matches(pattern, name):
                yield Finding(f"matches '{pattern}', which the policy forbids", name)
                break


RULE = Rule(
    "WT066",
    "forbidden-tensors",
    "error",
    "leave it out by wtool convert --exclude",
    find,
    __doc__,
)
