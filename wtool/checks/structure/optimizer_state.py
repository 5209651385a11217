"""Optimizer state is left in the file.

Why it is bad: it doubles or triples the download, is useless to who only runs the model, and can
give away how and on how much data it was trained.

Example: 62 tensors, 204 MB of 306 MB, below `optimizer.state`.

How to mend it: save the model's state dict alone: `wtool convert FILE OUT --model-only` leaves out
what is not the model. For a file to resume training from, suppress the finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.errors import counted


def find(subject: Subject) -> Iterator[Finding]:
    """One finding for all tensors of an optimizer."""
    yield from leftovers(subject, "optimizer", "of an optimizer")


def leftovers(subject: Subject, role: str, what: str) -> Iterator[Finding]:
    """One finding where tensors have `role`: how many, how large, the first of them."""
    found = [tensor for tensor in subject.owners if tensor.role == role]
    if found:
        nbytes = sum(tensor.nbytes for tensor in found)
        total = sum(tensor.nbytes for tensor in subject.owners)
        yield Finding(
            f"{counted(len(found), 'tensor')} {what}, {nbytes:,} of {total:,} bytes",
            found[0].name,
            value=nbytes,
        )


RULE = Rule(
    "WT020",
    "optimizer-state",
    "warning",
    "save the model alone, by wtool convert --model-only",
    find,
    __doc__,
)
