"""Where a tensor's values lie, and how they are read: in C order, in pieces, in bounded memory.

`Strided` covers raw bytes in any layout (contiguous, transposed, sliced, expanded, byte-swapped,
packed below a byte); `Tiled` pastes pieces together (TensorFlow slices, distributed shards);
`Decoded` holds values that must be computed whole (varints, strings); `Absent` has no data.
A format that stores values in another way (an HDF5 dataset) adds an Extent of its own.

NumPy is imported inside the functions: listing a file reads no values and must not pay for it.
"""

from __future__ import annotations

from wtool.extents.extent import MAX_EXPANSION, MAX_EXPANSION_BYTES, Absent, Decoded, Extent
from wtool.extents.shapes import INT64_MAX, MAX_RANK, boxes, c_strides, check_shape, element_span
from wtool.extents.strided import Geometry, Strided, from_codes, geometry
from wtool.extents.tiled import Tiled

__all__ = [
    "INT64_MAX",
    "MAX_EXPANSION",
    "MAX_EXPANSION_BYTES",
    "MAX_RANK",
    "Absent",
    "Decoded",
    "Extent",
    "Geometry",
    "Strided",
    "Tiled",
    "boxes",
    "c_strides",
    "check_shape",
    "element_span",
    "from_codes",
    "geometry",
]
