"""What a tensor is: its layer, the layer's kind, its role, its fans, and how it was initialised."""

from __future__ import annotations

from wtool.layers.layouts import fans, layout_of, output_axes, unit_box
from wtool.layers.names import split_depth
from wtool.layers.roles import assign_roles

__all__ = ["assign_roles", "fans", "layout_of", "output_axes", "split_depth", "unit_box"]
