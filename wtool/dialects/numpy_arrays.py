"""NumPy arrays as tensors: what `.npy` files and the members of `.npz` files hold.

Fortran order and big-endian numbers are read through strides and byte swaps. NumPy writes bfloat16
and most other types of ml_dtypes as bare bytes without a name; these are shown as bits8 and bits16.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from wtool.checkpoint import Tensor
from wtool.dtypes import DTYPES
from wtool.encodings.npy_header import read_header
from wtool.errors import TruncatedInput, counted
from wtool.extents import Strided, c_strides, check_shape
from wtool.sources import Source


def read_array(
    source: Source, name: str, *, key: str, storage: Hashable
) -> tuple[Tensor, tuple[str, ...]]:
    """(the array that begins `source`, what a user should know of it); reads the header only."""
    header = read_header(source)
    dtype = DTYPES[header.dtype]
    shape = check_shape(header.shape)
    nbytes = math.prod(shape) * dtype.itemsize
    available = source.size - header.data_start
    if nbytes > available:
        raise TruncatedInput(
            f"the file ends {available} bytes into the array's {nbytes}",
            tensor=name,
            expected=f"{header.data_start + nbytes} bytes",
            found=source.size,
            hint="the download or copy was cut short: fetch it again",
        )
    extent = Strided(
        source,
        header.data_start,
        nbytes,
        dtype,
        shape,
        strides=tuple(reversed(c_strides(shape[::-1]))) if header.fortran_order else None,
        big_endian=header.big_endian,
        storage=storage,
    )
    notes = []
    if available > nbytes:
        notes.append(f"'{name}': not read: {counted(available - nbytes, 'byte')} after the array")
    if dtype.kind == "opaque":
        likely = "bfloat16" if dtype.bits == 16 else "a float8, int4 or other small type"
        notes.append(
            f"'{name}' is stored as bare {dtype.bits}-bit values, perhaps {likely}: "
            "NumPy does not record the type"
        )
    return Tensor(name, key, extent), tuple(notes)
