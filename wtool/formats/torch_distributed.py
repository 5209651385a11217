"""Folders of torch.distributed.checkpoint, described in dialects/torch_folder."""

from __future__ import annotations

import os

from wtool.checkpoint import Checkpoint
from wtool.formats import Format, Probe

METADATA = ".metadata"
_MARK = b"torch.distributed"


def claims(probe: Probe) -> bool:
    """A folder with a file `.metadata`, or that file."""
    if probe.is_directory:
        return os.path.isfile(os.path.join(probe.path, METADATA))
    return probe.name == METADATA and _MARK in probe.head


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Every tensor whole, in the order of the metadata; see build_checkpoint for `root`."""
    from wtool.dialects.torch_folder import read_folder

    folder = probe.path if probe.is_directory else os.path.dirname(probe.path)
    return read_folder(probe.path, FORMAT.name, os.path.join(folder, METADATA), root=root)


FORMAT = Format(
    "torch-distributed",
    "torch.distributed checkpoint folder",
    (),
    claims,
    open_file,
)
