"""A stored checksum does not match the bytes.

Why it is bad: bytes changed after the file was written: a bad disk, a broken transfer, an editor.
torch and NumPy do not look; TensorFlow refuses the tensor.

Example: the CRC of `archive/data/3` is 0x5d1e07c2, the file says 0x5d1e07c3.

How to mend it: fetch the file again from its source and compare its SHA-256.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import zip_files
from wtool.checks.subject import Subject
from wtool.dialects.tf_extents import check_stored
from wtool.errors import MalformedInput

if TYPE_CHECKING:
    from wtool.checks.seen_bytes import SeenBytes
    from wtool.encodings.zip_directory import Member, ZipDirectory
    from wtool.extents import Extent


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each damaged member of a zip file or tensor of a TensorFlow bundle.

    What the reading of the values has summed is not read again.
    """
    seen = subject.seen_bytes
    with ThreadPoolExecutor(subject.jobs or os.cpu_count() or 1) as pool:
        for path, _, directory in zip_files(subject):
            members = [m for m in directory.members.values() if m.crc]
            found = pool.map(lambda m, d=directory: checksum(seen, d, m), members)
            for member, crc in zip(members, found, strict=True):
                if crc != member.crc:
                    yield Finding(
                        f"CRC of '{member.name}' is {crc:#010x}, the directory says "
                        f"{member.crc:#010x}",
                        value=f"{crc:#010x}",
                        file=path,
                    )
        tensors = list(subject.checkpoint) if subject.checkpoint.format == "tensorflow" else []
        faults = pool.map(lambda tensor: _fault(seen, tensor.extent), tensors)
        for tensor, fault in zip(tensors, faults, strict=True):
            if fault is not None:
                yield Finding(
                    f"{fault.message}: {fault.found}, the index says {fault.expected}",
                    tensor.name,
                    file=fault.path,
                )


def checksum(seen: SeenBytes, directory: ZipDirectory, member: Member) -> int:
    """CRC-32 of a member's bytes, inflated where they are deflated."""
    return seen.crc32(directory.open(member), 0, member.nbytes)


def _fault(seen: SeenBytes, extent: Extent) -> MalformedInput | None:
    try:
        check_stored(extent, seen.crc32c)
    except MalformedInput as error:
        return error
    return None


RULE = Rule(
    "WT047",
    "wrong-checksum",
    "error",
    "fetch the file again from its source",
    find,
    __doc__,
    sums_bytes=True,
)
