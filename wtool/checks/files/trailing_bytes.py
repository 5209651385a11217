"""A file has bytes that belong to nothing in it: behind its end, before its start, or between.

Why it is bad: some loaders accept such a file and others refuse it; bytes that no loader shows are
where things are hidden, and two files with the same tensors differ.

Example: 512 bytes follow the end of the zip file.

How to mend it: write the file again (`wtool convert` or load and save).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import strided, zip_files
from wtool.checks.subject import Subject
from wtool.dialects.tf_extents import BundleExtent, BundleStrings
from wtool.encodings.zip_end import TAIL_BYTES
from wtool.errors import counted
from wtool.sources import FileSource, absolute, read_bytes

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint
    from wtool.encodings.zip_directory import ZipDirectory

# What a zip writer may put behind a member: sizes and checksum, in 64 bits with a signature.
DESCRIPTOR_BYTES = 24


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each file and kind of surplus bytes; zip, legacy torch, TensorFlow, HDF5."""
    for path, _, directory in zip_files(subject):
        yield from _zip(path, directory)
    for path, checkpoint in subject.parts():
        if checkpoint.format == "torch-legacy":
            yield from _behind(path, _end_of_storages(checkpoint))
        elif checkpoint.format == "tensorflow":
            yield from _bundle(checkpoint)
        elif os.path.isfile(path):
            yield from _hdf5(path)


def _zip(path: str, directory: ZipDirectory) -> Iterator[Finding]:
    source = directory.source
    start = max(0, source.size - TAIL_BYTES)
    tail = bytes(read_bytes(source, start, source.size - start))
    at = tail.rfind(b"PK\5\6")
    yield from _behind(path, start + at + 22)
    first = min((m.header_offset for m in directory.members.values()), default=0)
    if first:
        yield Finding(
            f"{counted(first, 'byte')} before the zip file begins", value=first, file=path
        )
    for member in directory.members.values():
        end = directory.data_start(member) + member.packed_nbytes
        behind = member.limit - end
        if behind > DESCRIPTOR_BYTES:
            yield Finding(
                f"{behind:,} bytes behind the member '{member.name}' belong to nothing",
                value=behind,
                file=path,
            )


def _behind(path: str, end: int) -> Iterator[Finding]:
    size = os.path.getsize(path)
    if 0 < end < size:
        follow = counted(size - end, "byte follows", "bytes follow")
        yield Finding(
            f"{follow} the end of the data",
            value=size - end,
            file=path,
        )


def _end_of_storages(checkpoint: Checkpoint) -> int:
    """Where the last storage of a file from before torch 1.6 ends; they are its last part."""
    extents = [e for tensor in checkpoint for e in strided(tensor.extent)]
    return max((absolute(e.source, e.base)[1] + e.storage_nbytes for e in extents), default=0)


def _bundle(checkpoint: Checkpoint) -> Iterator[Finding]:
    ends: dict[str, int] = {}
    for tensor in checkpoint:
        pieces = [tensor.extent, *strided(tensor.extent)]
        for extent in pieces:
            if isinstance(extent, BundleExtent | BundleStrings):
                end = extent.base + extent.storage_nbytes
                ends[extent.source.name] = max(end, ends.get(extent.source.name, 0))
    hidden = any(not isinstance(t.extent, BundleExtent | BundleStrings) for t in checkpoint)
    for path, end in () if hidden else sorted(ends.items()):
        yield from _behind(path, end)


def _hdf5(path: str) -> Iterator[Finding]:
    source = FileSource(path)
    if source.size < 48:
        return
    head = bytes(read_bytes(source, 0, 48))
    if not head.startswith(b"\x89HDF\r\n\x1a\n"):
        return
    at = 40 if head[8] < 2 else 28
    yield from _behind(path, int.from_bytes(head[at : at + 8], "little"))


RULE = Rule(
    "WT046",
    "trailing-bytes",
    "warning",
    "write the file again",
    find,
    __doc__,
)
