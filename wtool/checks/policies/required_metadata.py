"""Metadata that the policy requires is missing.

Why it is bad: nobody can tell under which licence the weights may be used, or which version of the
framework wrote them.

Example: `[require] metadata = ["license", "framework_version"]`, and the file has only `format`.

How to mend it: write the entry into the file's metadata when saving (in safetensors the argument
`metadata`), or into `config.json` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each key that neither metadata, extras nor config.json has with a value."""
    checkpoint = subject.checkpoint
    for key in subject.policy.metadata:
        stated = (
            checkpoint.metadata.get(key),
            checkpoint.extras.get(key),
            subject.config.get(key),
        )
        if all(value is None or not str(value).strip() for value in stated):
            yield Finding(f"metadata '{key}' is missing or empty", value=key)


RULE = Rule(
    "WT064",
    "required-metadata",
    "error",
    "write it into the metadata when saving",
    find,
    __doc__,
)
