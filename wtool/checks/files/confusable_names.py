"""Two names differ only in case, in spaces, or in how their characters are composed.

Why it is bad: people and file systems take them for one; one of them is a typing error, and its
tensor is never loaded. (A name given twice makes the file unreadable: exit code 3.)

Example: `head.weight` and `Head.weight`.

How to mend it: delete or rename the one that the model does not know.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each name that folds to an earlier one, or has a control character."""
    seen: dict[str, str] = {}
    for name in subject.checkpoint.tensors:
        folded = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        other = seen.setdefault(folded, name)
        if other != name:
            yield Finding(f"is nearly the name of '{other}'", name)
        elif not name.isprintable():
            yield Finding("has characters that cannot be seen", name)


RULE = Rule(
    "WT050",
    "confusable-names",
    "warning",
    "delete or rename the one that the model does not know",
    find,
    __doc__,
)
