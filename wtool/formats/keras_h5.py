"""Keras's legacy HDF5 (`.h5`): weights only, or a whole model with its optimizer; Keras 2 and 3."""

from __future__ import annotations

from wtool.checkpoint import Checkpoint, build
from wtool.errors import MalformedInput
from wtool.formats import Format, Probe, refuse_root

TEXTS = ("keras_version", "backend")
CONFIGS = ("model_config", "training_config")


def claims(probe: Probe) -> bool:
    """An HDF5 file with a `model_weights` group or a list of layer names."""
    if probe.hdf5 is None:
        return False
    from wtool.dialects.keras_legacy import is_legacy_file

    return is_legacy_file(probe.hdf5.root)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Weights in the order of layers, then the optimizer's; configurations are extras, as text."""
    from wtool.dialects.keras_entries import facts_of, opaque_notes
    from wtool.dialects.keras_legacy import MODEL, read_tensors

    refuse_root(root, "a Keras HDF5 file")
    file = probe.hdf5
    if file is None:
        raise MalformedInput("not an HDF5 file", path=probe.path)
    tensors, notes = read_tensors(probe.path, file)
    places = (file.root, file.root.groups.get(MODEL, file.root))
    found = {name: a for place in reversed(places) for name, a in place.attributes.items()}
    return build(
        probe.path,
        FORMAT.name,
        tensors,
        metadata={
            **{name: file.text(found[name]) for name in TEXTS if name in found},
            **facts_of(file),
        },
        extras={name: file.text(found[name]) for name in CONFIGS if name in found},
        notes=(*notes, *opaque_notes(tensors)),
    )


FORMAT = Format(
    name="keras_h5",
    title="Keras HDF5 (legacy)",
    suffixes=(".h5", ".hdf5"),
    claims=claims,
    open_file=open_file,
)
