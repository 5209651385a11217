"""The file holds no values.

Why it is bad: nothing was saved. An empty state dict comes from a model without layers of its own,
or from saving before the weights were gathered; it loads without an error where `strict=False`.

Example: 0 tensors; a checkpoint of rank 1, whose weights lie on rank 0.

How to mend it: save the model again, from where its weights are.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.errors import counted


def find(subject: Subject) -> Iterator[Finding]:
    """A finding where no tensor has an element."""
    tensors = subject.checkpoint.tensors
    if not any(tensor.count for tensor in tensors.values()):
        yield Finding(f"{counted(len(tensors), 'tensor')}, no values", value=0)


RULE = Rule(
    "WT031",
    "no-values",
    "error",
    "save the model again, from where its weights are",
    find,
    __doc__,
)
