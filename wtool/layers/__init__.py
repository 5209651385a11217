"""What a tensor is: its layer, the layer's kind, its role."""

from __future__ import annotations

from wtool.checkpoint import Checkpoint


def assign_roles(checkpoint: Checkpoint) -> None:
    """Fill `role`, `layer` and `kind` of every tensor from the strongest evidence there is."""
