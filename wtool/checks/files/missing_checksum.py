"""Members of a zip file carry no checksum.

Why it is bad: damage to them cannot be noticed from the file alone.

Example: 62 of 65 members have a CRC of 0 (`torch.serialization.set_crc32_options(False)`).

How to mend it: save with checksums, or publish a manifest (`wtool manifest`) beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import zip_files
from wtool.checks.files.wrong_checksum import checksum
from wtool.checks.subject import Subject


def find(subject: Subject) -> Iterator[Finding]:
    """A note for each zip file with members whose CRC is left out."""
    for path, _, directory in zip_files(subject):
        blank = [m for m in directory.members.values() if m.nbytes and not m.crc]
        # A CRC can be 0 by right, once in 4 billion times.
        left_out = [
            m for m in blank if m.nbytes > 1 << 20 or checksum(subject.seen_bytes, directory, m)
        ]
        if left_out:
            yield Finding(
                f"{len(left_out):,} of {len(directory.members):,} members have no CRC, first "
                f"'{left_out[0].name}'",
                value=len(left_out),
                file=path,
            )


RULE = Rule(
    "WT048",
    "missing-checksum",
    "note",
    "save with checksums, or publish a manifest beside it",
    find,
    __doc__,
)
