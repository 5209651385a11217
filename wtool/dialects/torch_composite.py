"""Tensors of torch that are made of several: sparse, quantised, nested, wrapped.

A composite named `w` is shown as its components, each a plain tensor:

    sparse      w.indices, w.values; or w.crow_indices, w.col_indices, w.values (see torch_sparse)
    quantised   w (integers as stored), and per channel w.scales, w.zero_points
    nested      w.values (one dimension), w.sizes, w.strides, w.offsets
    jagged      w.values, w.offsets, and w.lengths where there are holes
    wrapper     w.<attribute> for each tensor that the wrapper holds
    DTensor     w where one rank holds it whole, else w.local_tensor

and a summary that says what `w` is and which shape it has. Only values are weights; indices, scales
and offsets have the role "other".

Source: torch 2.13 `torch/_utils.py`, `torch/nested/_internal/nested_tensor.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wtool.dialects.checked_extent import checked
from wtool.dialects.torch_sparse import COMPRESSED, compressed_parts, coo_parts
from wtool.encodings.pickle_nodes import describe
from wtool.errors import MalformedInput, UnsupportedError, shorten
from wtool.extents import INT64_MAX, Extent

QUANTISED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")
PER_CHANNEL = ("per_channel_affine", "per_channel_affine_float_qparams")
# The shapes of a nested tensor are small, but nothing forces them to be. Proven whole, up to here.
MAX_NESTED_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Composite:
    """What one composite is made of.

    parts: name below the composite ("" is the composite itself) -> values, in stored order.
    values: the parts that may hold weights; the others are bookkeeping.
    summary: one line for the notes, without the name.
    extras: numbers that belong to it (scale, zero point), by name below the composite.
    """

    parts: Mapping[str, Extent]
    values: tuple[str, ...]
    summary: str
    extras: Mapping[str, Any] = field(default_factory=dict)


def sparse(
    layout: str, parts: Sequence[Extent], shape: Sequence[int], *, coalesced: bool
) -> Composite:
    """A sparse tensor of `shape`; `parts` in the order of torch's `_rebuild_sparse_tensor`.

    layout: torch's name, "sparse_coo", "sparse_csr"... Raises MalformedInput where parts disagree.
    """
    if layout == "sparse_coo" and len(parts) == 2:
        named = coo_parts(parts[0], parts[1], shape, coalesced=coalesced)
        words = "coalesced" if coalesced else "not known to be coalesced"
    elif layout in COMPRESSED and len(parts) == 3:
        named = compressed_parts(layout, parts[0], parts[1], parts[2], shape)
        words = "compressed"
    else:
        raise MalformedInput(
            "unknown sparse tensor",
            expected="a layout of torch and its components",
            found=f"{shorten(layout)} with {len(parts)} components",
        )
    stored = named["values"].count
    summary = f"{layout} tensor of shape {tuple(shape)}, {stored} stored values, {words}"
    return Composite(named, ("values",), summary)


def quantised(
    integers: Extent, scheme: str, scale: float | Extent, zero_point: int | Extent, axis: int | None
) -> Composite:
    """A quantised tensor: value = (integer - zero point) * scale.

    scheme: torch's name. scale, zero_point: numbers per tensor; 1-D extents per channel of `axis`.
    Raises MalformedInput where the type is not a quantised one, or scales do not fit the axis.
    """
    if integers.dtype.name not in QUANTISED:
        raise MalformedInput(
            "quantised tensor of another type", expected="a quantised type", found=integers.dtype
        )
    kind = f"quantised tensor of shape {integers.shape}, {integers.dtype}"
    if scheme == "per_tensor_affine":
        numbers = type(scale) is float and type(zero_point) is int
        if not numbers or not -INT64_MAX <= zero_point <= INT64_MAX:  # type: ignore[operator]
            raise MalformedInput(
                "bad scale or zero point",
                expected="a float and a 64-bit integer",
                found=f"{type(scale).__name__} and {type(zero_point).__name__}",
            )
        summary = f"{kind}, scale {scale!r}, zero point {zero_point}; integers are shown as stored"
        return Composite({"": integers}, ("",), summary, {"scale": scale, "zero_point": zero_point})
    if scheme not in PER_CHANNEL:
        raise MalformedInput(
            "unknown quantisation", expected="an affine scheme", found=describe(scheme)
        )
    if type(axis) is not int or not 0 <= axis < len(integers.shape):
        raise MalformedInput(
            "quantisation axis out of range",
            expected=f"0 to {len(integers.shape) - 1}",
            found=describe(axis),
        )
    if not isinstance(scale, Extent) or not isinstance(zero_point, Extent):
        raise MalformedInput("bad scale or zero point", expected="one for each channel")
    for name, extent in (("scales", scale), ("zero points", zero_point)):
        if extent.count != integers.shape[axis]:
            raise MalformedInput(
                f"number of {name}", expected=integers.shape[axis], found=extent.count
            )
    summary = f"{kind}, scales along axis {axis}; integers are shown as stored"
    parts = {"": integers, "scales": scale, "zero_points": zero_point}
    return Composite(parts, ("",), summary, {"axis": axis})


def nested(values: Extent, sizes: Extent, strides: Extent, offsets: Extent) -> Composite:
    """A nested tensor: n strided views of 1-D values; view i has row i of sizes and strides.

    Raises MalformedInput where the shapes disagree; reading the bookkeeping raises it where a view
    lies outside `values`.
    """
    for name, extent in (("sizes", sizes), ("strides", strides), ("offsets", offsets)):
        if extent.dtype.name != "int64":
            raise MalformedInput(f"nested {name}", expected="int64", found=extent.dtype)
        _refuse_unbounded(name, extent)
    if len(values.shape) != 1 or len(offsets.shape) != 1:
        raise MalformedInput(
            "nested values and offsets",
            expected="1 dimension each",
            found=f"{len(values.shape)} and {len(offsets.shape)}",
        )
    if len(sizes.shape) != 2 or sizes.shape != strides.shape or sizes.shape[0] != offsets.shape[0]:
        raise MalformedInput(
            "nested sizes, strides and offsets",
            expected="shapes (n, d), (n, d) and (n,)",
            found=f"{sizes.shape}, {strides.shape} and {offsets.shape}",
        )

    def prove() -> None:
        _prove_views(values.count, sizes, strides, offsets)

    parts = {
        "values": values,
        "sizes": checked(sizes, prove),
        "strides": checked(strides, prove),
        "offsets": checked(offsets, prove),
    }
    summary = f"nested tensor of {sizes.shape[0]} tensors with {sizes.shape[1]} dimensions each"
    return Composite(parts, ("values",), summary)


def jagged(values: Extent, offsets: Extent, lengths: Extent | None, ragged_axis: int) -> Composite:
    """A jagged tensor: piece i is values[offsets[i] : offsets[i + 1]] along `ragged_axis` - 1,
    or lengths[i] long from offsets[i] on.

    Raises MalformedInput where the shapes disagree; reading the bookkeeping raises it where a piece
    lies outside `values`.
    """
    if type(ragged_axis) is not int or not 1 <= ragged_axis <= len(values.shape):
        raise MalformedInput(
            "ragged dimension out of range",
            expected=f"1 to {len(values.shape)}",
            found=describe(ragged_axis),
        )
    for name, extent in (("offsets", offsets), ("lengths", lengths)):
        if extent is not None:
            if extent.dtype.name not in ("int32", "int64") or len(extent.shape) != 1:
                raise MalformedInput(
                    f"nested {name}",
                    expected="1 dimension of int32 or int64",
                    found=f"{len(extent.shape)} of {extent.dtype}",
                )
            _refuse_unbounded(name, extent)
    pieces = offsets.shape[0] - 1
    if pieces < 0 or (lengths is not None and lengths.shape[0] != pieces):
        raise MalformedInput(
            "nested offsets",
            expected="one more than lengths" if lengths is not None else "1 or more",
            found=offsets.shape[0],
        )

    def prove() -> None:
        _prove_pieces(values.shape[ragged_axis - 1], offsets, lengths)

    parts = {"values": values, "offsets": checked(offsets, prove)}
    if lengths is not None:
        parts["lengths"] = checked(lengths, prove)
    shape: list[object] = [pieces, *values.shape]
    shape[ragged_axis] = "ragged"
    summary = f"jagged tensor of shape ({', '.join(map(str, shape))})"
    return Composite(parts, ("values",), summary)


def _refuse_unbounded(name: str, extent: Extent) -> None:
    if extent.count > MAX_NESTED_ELEMENTS:
        raise UnsupportedError(
            f"nested tensor with very many {name}",
            expected=f"at most {MAX_NESTED_ELEMENTS}",
            found=extent.count,
        )


def _prove_views(count: int, sizes: Extent, strides: Extent, offsets: Extent) -> None:
    """Each view's last element lies below `count`; nothing is negative."""
    import numpy as np

    rows = sizes.shape[0]
    size = sizes.read(0, sizes.count).reshape(sizes.shape)
    stride = strides.read(0, strides.count).reshape(sizes.shape)
    offset = offsets.read(0, rows)
    if any(len(a.ravel()) and a.min() < 0 for a in (size, stride, offset)):
        raise MalformedInput("nested sizes, strides or offsets", expected="none negative")
    # float64 first: exact where it matters, and a product beyond int64 cannot wrap round.
    steps = (np.maximum(size, 1) - 1).astype("float64") * stride
    filled = (size > 0).all(axis=1)
    last = offset.astype("float64") + steps.sum(axis=1)
    if (last[filled] >= count).any():
        raise MalformedInput(
            "nested tensor outside its values",
            expected=f"below {count}",
            found=int(last[filled].max()),
        )


def _prove_pieces(count: int, offsets: Extent, lengths: Extent | None) -> None:
    """Pieces lie within 0 to `count`; without lengths, each ends where the next begins."""
    starts = offsets.read(0, offsets.count).astype("int64")
    if starts.min() < 0 or starts.max() > count:
        raise MalformedInput("nested offsets out of range", expected=f"0 to {count}")
    if lengths is None:
        if (starts[1:] < starts[:-1]).any():
            raise MalformedInput("nested offsets descend")
        return
    sizes = lengths.read(0, lengths.count).astype("int64")
    if len(sizes) and (sizes.min() < 0 or (sizes > count - starts[:-1]).any()):
        raise MalformedInput("nested lengths out of range", expected=f"within {count}")
