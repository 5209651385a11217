"""A freezing manifest as a mask for optimizers that take one, such as `optax.masked`."""

from __future__ import annotations

import os
from typing import Any

from wtool.bridges.frozen_names import open_manifest
from wtool.errors import UsageError
from wtool.manifests.freezing import FreezingManifest


def trainable_mask(
    manifest: FreezingManifest | str | os.PathLike[str], *, nested: bool = False
) -> dict[str, Any]:
    """Learned tensor's name -> whether it is trained; buffers are left out, nothing learns them.

    nested: a dictionary of dictionaries, split at "/" where a name has one, else at ".", as the
    parameters of a flax model are. UsageError where a name is both a tensor and a branch.
    """
    flat = {
        name: not tensor.is_frozen
        for name, tensor in open_manifest(manifest).tensors.items()
        if tensor.role != "buffer"
    }
    if not nested:
        return dict(flat)
    tree: dict[str, Any] = {}
    for name, trained in flat.items():
        *branches, leaf = name.split("/" if "/" in name else ".")
        inner = tree
        for branch in branches:
            inner = inner.setdefault(branch, {})
            if not isinstance(inner, dict):
                raise UsageError(
                    "a tensor is also a branch of names; use the flat mask", found=name
                )
        if leaf in inner:
            raise UsageError("a tensor is also a branch of names; use the flat mask", found=name)
        inner[leaf] = trained
    return tree
