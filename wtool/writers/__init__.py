"""The writers: a Checkpoint to bytes, one file a container; one tensor at a time, layout first.

`plan` says which files would be written and what would be lost; `save` refuses the loss or writes.
A writer uses a tensor's name, element type, shape and values only, so tensors may be lazily cast,
permuted or renamed views of any source, the target itself included.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib import import_module
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.errors import UsageError
from wtool.writers.plans import Plan

# Container -> module of this folder. Each has `plan(checkpoint, path, **options) -> Plan`.
_MODULES = {
    "safetensors": "safetensors",
    "torch": "torch_zip",
    "tensorflow": "tf_bundle",
    "npz": "npz",
    "keras": "keras_h5",
}
_SUFFIXES = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".bin": "torch",
    ".index": "tensorflow",
    ".npz": "npz",
    ".h5": "keras",
    ".hdf5": "keras",
}

CONTAINERS = tuple(_MODULES)


def container_of(path: str | os.PathLike[str]) -> str:
    """The container that the ending of `path` names; UsageError where it names none."""
    name = os.fspath(path).lower()
    for suffix, container in _SUFFIXES.items():
        if name.endswith(suffix):
            return container
    raise UsageError(
        "the ending does not say which container to write",
        path=path,
        expected=f"one of {', '.join(_SUFFIXES)}",
        hint=f"name the container: {', '.join(CONTAINERS)}",
    )


def plan(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    container: str | None = None,
    **options: Any,
) -> Plan:
    """What saving would write and lose. Reads no tensor byte, writes nothing.

    container: one of CONTAINERS; by the ending of `path` where None. options: of that container's
    own `plan`. Raises UsageError, or UnsupportedError listing what the container cannot hold at
    all.
    """
    if os.fspath(path) == "-":
        raise UsageError(
            "a model is written to a file, not to standard output",
            path=path,
            hint="./- is a file of that name",
        )
    container = container_of(path) if container is None else container
    if container not in _MODULES:
        raise UsageError(
            "no such container", expected=f"one of {', '.join(CONTAINERS)}", found=container
        )
    module = import_module(f"wtool.writers.{_MODULES[container]}")
    return module.plan(checkpoint, path, **options)


def save(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    container: str | None = None,
    force: bool = False,
    allow: Collection[str] = (),
    **options: Any,
) -> list[str]:
    """Write `checkpoint`; the written files, the one that makes the set whole last.

    allow: kinds of loss to accept, see `plans.LOSSES`. force: replace files that exist; the source
    may be among them. Raises LossError, OutputExists, OutputError: each target is then what it was.
    Law: the same checkpoint gives the same bytes.
    """
    prepared = plan(checkpoint, path, container=container, **options)
    prepared.refuse_losses(allow)
    return prepared.write(force=force)
