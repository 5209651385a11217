"""The container is not one that the policy allows.

Why it is bad: a release promises its users a form, for example one that can run no code.

Example: `[allow] containers = ["safetensors"]`, and the file is a torch zip file.

How to mend it: `wtool convert FILE OUT` writes the container that is asked for. The names are those
of `wtool ls`: safetensors, torch-zip, tensorflow, keras_archive...; shards count by their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each file whose container is not in [allow] containers."""
    allowed = subject.policy.containers
    for path, checkpoint in subject.parts() if allowed else ():
        if checkpoint.format not in allowed and subject.checkpoint.format not in allowed:
            yield Finding(
                f"the container is {checkpoint.format}, the policy allows {', '.join(allowed)}",
                value=checkpoint.format,
                file=path,
            )


RULE = Rule(
    "WT060",
    "container",
    "error",
    "write an allowed container by wtool convert",
    find,
    __doc__,
)
