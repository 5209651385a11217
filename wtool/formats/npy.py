"""NumPy `.npy`: one array in one file, named "array".

Version 1.0 to 3.0. Python objects are refused: their data would be a pickle.
"""

from __future__ import annotations

from wtool.checkpoint import Checkpoint, build
from wtool.formats import Format, Probe, refuse_root

NAME = "array"
MAGIC = b"\x93NUMPY"


def claims(probe: Probe) -> bool:
    """NumPy's magic bytes at the start."""
    return probe.head.startswith(MAGIC)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The one array of the file."""
    from wtool.dialects.numpy_arrays import read_array

    refuse_root(root, "a .npy file")
    tensor, notes = read_array(probe.source, NAME, key=NAME, storage=(probe.path, 0))
    return build(probe.path, FORMAT.name, [tensor], notes=notes)


FORMAT = Format(
    name="npy",
    title="NumPy array",
    suffixes=(".npy",),
    claims=claims,
    open_file=open_file,
)
