"""Tensors that a PyTorch model has under two names, and its counterpart under one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL
from wtool.conversion.derived import identity
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint


def second_names(torch: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Second name -> first, of the same values, where the other model has no such module."""
    modules = {split_leaf(tensor.name)[0] for tensor in other}
    found = {}
    for name, owner in torch.aliases.items():
        tensor = torch[name]
        same = identity(tensor.extent) == identity(torch[owner].extent)
        if same and tensor.role not in BESIDE_MODEL:
            path = split_leaf(name)[0]
            if path.replace(".", "/") not in modules:
                found[name] = owner
    return found
