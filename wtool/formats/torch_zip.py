"""PyTorch's zip files: what torch.save writes since 1.6 (`.pt .pth .bin .ckpt`).

The archive itself is described in dialects/torch_archive. Checksums are not compared here, as torch
does not either. Source: torch 2.13 `torch/serialization.py`.
"""

from __future__ import annotations

from itertools import groupby

from wtool.checkpoint import Checkpoint
from wtool.dialects.torch_archive import TorchArchive
from wtool.encodings.zip_directory import read_directory
from wtool.errors import WtoolError
from wtool.formats import Format, Probe

PICKLE = "/data.pkl"


def claims(probe: Probe) -> bool:
    """Zip files with a member `X/data.pkl` and no `X/constants.pkl`, which is TorchScript."""
    directory = probe.zip_directory
    if directory is None:
        return False
    # The first, as a rule: no other name is looked at then.
    folders = groupby(name.partition("/")[0] for name in directory.names)
    return any(
        directory.find(folder + PICKLE) is not None
        and directory.find(f"{folder}/constants.pkl") is None
        for folder, _ in folders
    )


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The Checkpoint of a torch zip file; reads the directory, local headers and `data.pkl`."""
    from wtool.dialects.torch_checkpoint import build_checkpoint
    from wtool.encodings.collection import without_collection

    with without_collection():
        directory = probe.zip_directory or read_directory(probe.source)
        archive = TorchArchive(probe.source, directory)
        pickled = archive.pickle("data.pkl")
        reader = archive.reader()
        metadata = {"torch version record": str(archive.version)}
        if archive.big_endian:
            metadata["byte order"] = "big"
        facts, notes = archive.facts()
        metadata |= facts
        try:
            return build_checkpoint(
                probe.path,
                FORMAT.name,
                pickled,
                reader,
                root=root,
                metadata=metadata,
                notes=notes,
            )
        except WtoolError as error:
            raise error.locate(path=probe.path) from error.__cause__


FORMAT = Format(
    "torch-zip", "PyTorch zip file", (".pt", ".pth", ".bin", ".ckpt"), claims, open_file
)
