"""NumPy arrays inside torch files as extents over the bytes that the pickle holds."""

from __future__ import annotations

from typing import Any

from wtool.dialects.pickle_numpy import read_array
from wtool.extents import Extent, Strided, c_strides
from wtool.sources import BytesSource


def array_extent(node: Any) -> Extent | None:
    """Values of a pickled array of numbers; None for arrays of other things, which stay opaque.

    Raises MalformedInput where the pickled bytes do not fill the pickled shape.
    """
    array = read_array(node)
    if array is None or array.dtype is None:
        return None
    strides = c_strides(array.shape)
    if array.fortran:
        strides = tuple(reversed(c_strides(tuple(reversed(array.shape)))))
    return Strided(
        BytesSource(array.data, "NumPy array inside the pickle"),
        0,
        len(array.data),
        array.dtype,
        array.shape,
        strides=strides,
        big_endian=array.big_endian,
        storage=("numpy", id(node)),
    )
