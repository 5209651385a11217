"""`--by`: which group a tensor falls into."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

from wtool.checkpoint import Tensor
from wtool.errors import UsageError
from wtool.layers import split_depth

CHOICES = ("tensor", "layer", "depth:N", "kind", "role", "dtype", "shard")


def group_of(by: str, *, allowed: Iterable[str] = CHOICES) -> Callable[[Tensor], str]:
    """The function that names a tensor's group under `--by BY`; UsageError for an unknown BY."""
    depth = re.fullmatch(r"depth:([1-9]\d{0,3})", by)
    if depth and "depth:N" in allowed:
        level = int(depth[1])
        return lambda tensor: split_depth(tensor.name, level)
    if by in allowed and by in _KEYS:
        return _KEYS[by]
    raise UsageError("unknown grouping", expected=", ".join(allowed), found=f"--by {by}")


def join_names(files: Sequence[str]) -> str:
    """The names of files without their folders; a tensor in pieces may lie in several."""
    return " + ".join(map(os.path.basename, files))


def _shard(tensor: Tensor) -> str:
    return join_names(tensor.files) or "no file"


_KEYS: dict[str, Callable[[Tensor], str]] = {
    "tensor": lambda tensor: tensor.name,
    "layer": lambda tensor: tensor.layer or tensor.name,
    "kind": lambda tensor: tensor.kind or "unknown",
    "role": lambda tensor: tensor.role or "unknown",
    "dtype": lambda tensor: tensor.dtype.name,
    "shard": _shard,
}
