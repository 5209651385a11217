"""What a node of a torch pickle is found to be, and the small values that describe a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wtool.dtypes import BY_TORCH, DType
from wtool.encodings.pickle_nodes import Dict, Global, describe
from wtool.errors import MalformedInput, UnsupportedError, shorten
from wtool.extents import Extent

if TYPE_CHECKING:
    from wtool.dialects.torch_composite import Composite

# Two values a byte; shown as `float4_e2m1fn`, see torch_objects.
CODES = BY_TORCH["float4_e2m1fn_x2"]


class Found:
    """What one node of a pickle holds.

    extent: its values; None where it is made of several tensors, then `composite` names them.
    is_parameter, is_buffer: what the file states; both False where it says neither.
    attributes: Python attributes that were pickled with the tensor, a Dict or None.
    """

    composite: Composite | None = None
    is_parameter = False
    is_buffer = False
    attributes: Dict | None = None

    def __init__(self, extent: Extent | None, composite: Composite | None = None) -> None:
        self.extent = extent
        if composite is not None:
            self.composite = composite

    def marked(
        self,
        *,
        is_parameter: bool = False,
        is_buffer: bool = False,
        attributes: Dict | None = None,
    ) -> Found:
        """A copy that states more; a tensor may be named by itself and through a Parameter."""
        copy = Found(self.extent, self.composite)
        copy.is_parameter = self.is_parameter or is_parameter
        copy.is_buffer = self.is_buffer or is_buffer
        copy.attributes = attributes if attributes is not None else self.attributes
        return copy


def read_dtype(node: Any) -> DType:
    """The element type that a global `torch.<name>` names; UnsupportedError for one wtool lacks."""
    if type(node) is not Global or node.module != "torch":
        raise MalformedInput(
            "element type of a tensor", expected="torch.<dtype>", found=describe(node)
        )
    dtype = BY_TORCH.get(node.name)
    if dtype is None:
        raise UnsupportedError("element type is unknown", found=shorten(node.full))
    return dtype


def as_tuple(value: Any, what: str) -> tuple:
    """The sizes or strides of a tensor, which a pickle may give as a list."""
    if not isinstance(value, tuple | list):
        raise MalformedInput(
            f"{what} of a tensor", expected="a tuple of integers", found=type(value).__name__
        )
    return tuple(value)


def bad_stride(step: Any) -> MalformedInput:
    """The error for a stride that torch would not take."""
    return MalformedInput(
        "stride of a tensor", expected="an integer from 0 to 2^63 - 1", found=number_text(step)
    )


def number_text(value: Any) -> str:
    """A number of a pickle for a message; the type of what is none, the size of a huge one."""
    if type(value) is not int:
        return type(value).__name__
    return str(value) if value.bit_length() <= 128 else f"integer of {value.bit_length()} bits"
