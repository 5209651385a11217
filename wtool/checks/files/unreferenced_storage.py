"""A torch archive holds storages that nothing in its pickle names.

Why it is bad: nobody can see these bytes by loading the file. They are a leftover of editing, or
hidden data.

Example: `archive/data/17`, 4,194,304 bytes, is named by no tensor.

How to mend it: load the file and save it again, or `wtool convert` it: only what is named is
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import zip_files
from wtool.checks.subject import Subject
from wtool.encodings.pickle_walk import storage_keys

_STORAGE = re.compile(r"[^/]*/data/([^/]+)")


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each storage that is not named."""
    for path, checkpoint, directory in zip_files(subject):
        if checkpoint.format != "torch-zip" or checkpoint.tree is None:
            continue
        named = {key.lower() for key in storage_keys(checkpoint.tree)}
        for member in directory.members.values():
            match = _STORAGE.fullmatch(member.name)
            if match and match[1].lower() not in named and match[1] != "serialization_id":
                yield Finding(
                    f"storage '{member.name}', {member.nbytes:,} bytes, is named by no tensor",
                    value=member.nbytes,
                    file=path,
                )


RULE = Rule(
    "WT044",
    "unreferenced-storage",
    "warning",
    "save the file again: only what is named is written",
    find,
    __doc__,
)
