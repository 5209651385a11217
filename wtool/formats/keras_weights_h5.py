"""Keras's `.weights.h5`: numbered variables in groups called after classes; one file or shards."""

from __future__ import annotations

from wtool.checkpoint import Checkpoint, build
from wtool.errors import MalformedInput
from wtool.formats import Format, Probe, refuse_root


def claims(probe: Probe) -> bool:
    """An HDF5 file with numbered variables in groups called `vars`."""
    if probe.hdf5 is None:
        return False
    from wtool.dialects.keras_legacy import is_legacy_file
    from wtool.dialects.keras_weights import is_weights_file

    return is_weights_file(probe.hdf5.root) and not is_legacy_file(probe.hdf5.root)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Every variable, the optimizer's and metrics' with their roles."""
    from wtool.dialects.keras_entries import facts_of, opaque_notes
    from wtool.dialects.keras_weights import read_tensors

    refuse_root(root, "a Keras weights file")
    file = probe.hdf5
    if file is None:
        raise MalformedInput("not an HDF5 file", path=probe.path)
    tensors, notes = read_tensors([(probe.path, file)])
    return build(
        probe.path,
        FORMAT.name,
        tensors,
        metadata=facts_of(file),
        notes=(*notes, *opaque_notes(tensors)),
    )


FORMAT = Format(
    name="keras_weights_h5",
    title="Keras weights (HDF5)",
    suffixes=(".weights.h5",),
    claims=claims,
    open_file=open_file,
)
