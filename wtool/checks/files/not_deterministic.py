"""Parts of the file depend on when or where it was written.

Why it is bad: the same weights give another file and another SHA-256 each time; caches, signatures
and reviews see a change where there is none.

Example: members of `weights.npz` carry the clock of 2026-03-02.

How to mend it: write with `wtool convert`, whose output depends on its input only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import zip_files
from wtool.checks.subject import Subject
from wtool.sources import read_bytes

# What writers without a clock put: nothing, 1980-01-01, or 1980-00-00.
_FIXED_DATES = frozenset((0x0000, 0x0021))
_DATE_KEYS = ("date_saved", "saved_at", "timestamp", "created_at", "modelspec.date")


def find(subject: Subject) -> Iterator[Finding]:
    """A note for each file with clocks in its members, and for dates in the metadata."""
    for path, _, directory in zip_files(subject):
        for member in directory.members.values():
            head = bytes(read_bytes(directory.source, member.header_offset, 14))
            time, date = struct.unpack_from("<HH", head, 10)
            if date not in _FIXED_DATES:
                day = f"{1980 + (date >> 9)}-{date >> 5 & 15:02d}-{date & 31:02d}"
                yield Finding(
                    f"members carry the clock of {day} {time >> 11:02d}:{time >> 5 & 63:02d}, "
                    f"first '{member.name}'",
                    value=day,
                    file=path,
                )
                break
    for key in _DATE_KEYS:
        stated = subject.checkpoint.metadata.get(key)
        if stated:
            yield Finding(f"the metadata has a date, {key}: {stated[:40]}", value=stated[:40])


RULE = Rule(
    "WT052",
    "not-deterministic",
    "note",
    "write it with wtool convert",
    find,
    __doc__,
)
