"""Filling a template, a file that the target model saved, with the values of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from wtool.checkpoint import Tensor
from wtool.dtypes import DType
from wtool.errors import UnsupportedError
from wtool.writers.plans import Loss, names_of


@dataclass(frozen=True)
class Filled:
    """values: by the slot's name, what it will hold. losses: what has no place or no new value."""

    values: dict[str, Tensor]
    losses: list[Loss]


def is_same(tensor: DType, slot: DType) -> bool:
    """Whether the types are one and the same."""
    return tensor is slot


def fill(
    tensors: Sequence[Tensor],
    slots: Sequence[Tensor],
    template: str | os.PathLike[str],
    *,
    keep: Collection[str] = (),
    fits: Callable[[DType, DType], bool] = is_same,
) -> Filled:
    """Each of the template's `slots` with the tensor of the same name, or of the slot's key.

    A slot without one keeps the template's value: a Loss of kind "template", except for the names
    in `keep`. A tensor without a slot is a Loss of kind "unplaced". Raises UnsupportedError listing
    every tensor whose shape or type is not the slot's.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    values: dict[str, Tensor] = {}
    losses: list[Loss] = []
    refused: list[str] = []
    placed: set[str] = set()
    for slot in slots:
        tensor = by_name.get(slot.name) or by_name.get(slot.key)
        if tensor is None:
            values[slot.name] = slot
            if slot.name not in keep:
                reason = "not in the source; the template's value stays"
                losses.append(Loss("template", slot.name, reason))
            continue
        placed.add(tensor.name)
        values[slot.name] = tensor
        if tensor.shape != slot.shape or not fits(tensor.dtype, slot.dtype):
            refused.append(
                f"'{slot.name}' is {slot.dtype.name} {list(slot.shape)} there, "
                f"{tensor.dtype.name} {list(tensor.shape)} here"
            )
    if refused:
        shown = "; ".join(refused[:5])
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise UnsupportedError(
            f"the template holds other shapes or types: {shown}{more}", path=template
        )
    for tensor in tensors:
        if tensor.name not in placed:
            losses.append(Loss("unplaced", tensor.name, "the template has no place for it"))
    if not placed and tensors:
        raise UnsupportedError(
            "the template has none of the names",
            path=template,
            expected=names_of([slot.name for slot in slots]),
            found=names_of(list(by_name)),
        )
    return Filled(values, losses)
