"""Tensors begin at offsets that their element size does not divide.

Why it is bad: loaders that map the file into memory must copy such a tensor, or crash on strict
processors.

Example: the header of a safetensors file is 353 bytes long, so every float32 tensor is off by one.

How to mend it: write the file again; current writers align.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.extents import Strided
from wtool.sources import absolute

_MAPPED = ("safetensors", "torch-zip")


def find(subject: Subject) -> Iterator[Finding]:
    """A note for each file with unaligned tensors: how many, the first of them."""
    for path, checkpoint in subject.parts():
        if checkpoint.format not in _MAPPED:
            continue
        found = []
        for tensor in checkpoint:
            extent = tensor.extent
            if isinstance(extent, Strided) and extent.storage_nbytes:
                size = extent.dtype.itemsize // extent.dtype.components or 1
                if absolute(extent.source, extent.base)[1] % size:
                    found.append(tensor.name)
        if found:
            yield Finding(
                f"{len(found):,} of {len(checkpoint):,} tensors are not aligned to their elements",
                found[0],
                value=len(found),
                file=path,
            )


RULE = Rule(
    "WT049",
    "unaligned",
    "note",
    "write the file again",
    find,
    __doc__,
)
