"""Norms of which one side has a scale and a shift, and the other one of the two, or neither.

PyTorch's BatchNorm has both or neither, its LayerNorm may have the scale alone; Keras has either.
What Keras lacks is 1 or 0: it is made, and dropped only where it holds that, which is verified.
Keras's `.weights.h5` keeps variables by number, so that a single one may be either: the other
side's says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

# Leaf of the one variable of a Keras norm that is a scale or a shift.
UNNAMED = "0"
_BLOCK_BYTES = 1 << 20
# Part of a norm -> its leaves (torch, Keras), and what it holds where it does nothing.
_PARTS = {"weight": ("weight", "gamma", 1.0), "bias": ("bias", "beta", 0.0)}
_SWITCH = {"weight": "scale", "bias": "center"}
WHICH = (
    "has one vector, and no file says if it is scale or shift: give the .keras file, or a mapping "
    'file with { gamma = "0" } or { beta = "0" } as the names'
)


def is_unnamed(members: Mapping[str, Tensor]) -> bool:
    """Whether a Keras module is a norm, by its class, with one vector of the two that has no
    name.
    """
    tensor = members.get(UNNAMED)
    return (
        tensor is not None
        and tensor.kind == "norm"
        and not tensor.kind_is_guess
        and set(members) - {UNNAMED} in (set(), {"moving_mean", "moving_variance"})
    )


def norm_options(
    torch: Mapping[str, Tensor], keras: Mapping[str, Tensor], *, torch_is_trained: bool
) -> dict[str, object] | str:
    """The options of a layer rule of the two modules, side a PyTorch's; why where it is open.

    torch_is_trained: the values of the PyTorch file are those of the model, and no fresh ones.
    """
    options: dict[str, object] = {}
    leaves = set(keras)
    if is_unnamed(keras):
        leaf = _which(torch, torch_is_trained=torch_is_trained)
        if leaf is None:
            return WHICH
        options["b_names"] = {leaf: UNNAMED}
        leaves.add(leaf)
    for part, (left, right, fill) in _PARTS.items():
        if right not in leaves:
            # What PyTorch's side lacks is missing there: it is not made for Keras's.
            fills = {part: {"only": "a", "fill": fill}}
            options |= fills if left in torch else {_SWITCH[part]: False}
    return options


def _which(torch: Mapping[str, Tensor], *, torch_is_trained: bool) -> str | None:
    """What the other side's one vector must be: the same one, or the one that does something."""
    there = [part for part in _PARTS if _PARTS[part][0] in torch]
    if len(there) == 2 and torch_is_trained:
        there = [p for p in there if not _is_filled(torch[_PARTS[p][0]], _PARTS[p][2])]
    return _PARTS[there[0]][1] if len(there) == 1 else None


def _is_filled(tensor: Tensor, fill: float) -> bool:
    return all(bool((block == fill).all()) for block in tensor.blocks(_BLOCK_BYTES))
