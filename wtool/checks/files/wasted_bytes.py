"""Tensors are small views of large storages, and the whole storages were saved.

Why it is bad: torch saves a storage whole, whatever part of it a tensor shows: the file is larger
than its tensors, and what lies outside of the view (other data of the batch) is published with it.

Example: `proto` shows 40 of 4,194,304 bytes.

How to mend it: `tensor.clone()` before saving, or `wtool convert`, which writes what is shown.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import strided
from wtool.checks.subject import Subject
from wtool.extents import Strided

MIN_BYTES = 1024
SHARE = 0.1


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each storage of which 10 %, and 1 kB, is shown by no tensor."""
    for path, checkpoint in subject.parts():
        users: dict[Hashable, list[tuple[str, Strided]]] = {}
        for tensor in checkpoint:
            for extent in strided(tensor.extent):
                users.setdefault(extent.storage, []).append((tensor.name, extent))
        for members in users.values():
            whole = max(extent.storage_nbytes for _, extent in members)
            wasted = whole - _covered([extent for _, extent in members])
            if wasted >= MIN_BYTES and wasted >= SHARE * whole:
                yield Finding(
                    f"{wasted:,} of {whole:,} bytes of its storage are shown by no tensor",
                    members[0][0],
                    value=wasted,
                    file=path,
                )


def _covered(extents: list[Strided]) -> int:
    """Bytes within the spans of the extents; holes inside a strided span count as shown."""
    spans = sorted((e.low * e.bits, e.high * e.bits) for e in extents if e.high > e.low)
    covered = end = 0
    for low, high in spans:
        covered += max(0, high - max(low, end))
        end = max(end, high)
    return (covered + 7) // 8


RULE = Rule(
    "WT045",
    "wasted-bytes",
    "warning",
    "clone the tensor before saving, or convert the file",
    find,
    __doc__,
)
