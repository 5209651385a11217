"""Which tensors of a checkpoint a target gets: the model alone, or its averaged copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from wtool.checkpoint import BESIDE_MODEL, Checkpoint, Tensor
from wtool.errors import UnsupportedError, UsageError, shorten

# What TensorFlow appends to the name of a variable for its moving average.
_SHADOW_LEAVES = frozenset(("ExponentialMovingAverage", "ema", "EMA", "shadow"))

# Modules that only hold the model, which one of the two copies may have and the other not.
_WRAPPERS = frozenset(("module", "model", "state_dict", "ema_model", "shadow", "net", "_orig_mod"))


def with_tensors(checkpoint: Checkpoint, tensors: Iterable[Tensor]) -> Checkpoint:
    """The checkpoint with other tensors: without its nesting, which no longer fits.

    Recorded ties, {removed: kept} in the metadata, go too: writers find ties anew.
    """
    old = checkpoint.tensors
    metadata = {
        key: text for key, text in checkpoint.metadata.items() if not (key in old and text in old)
    }
    return dataclasses.replace(
        checkpoint,
        tensors={tensor.name: tensor for tensor in tensors},
        metadata=metadata,
        tree=None,
    )


def renamed(tensor: Tensor, name: str) -> Tensor:
    """The tensor under another name; its place in a nested file is not its own any more."""
    return dataclasses.replace(tensor, name=name, path=())


def model_only(checkpoint: Checkpoint) -> Checkpoint:
    """Weights, biases and buffers; no optimizer, EMA and RNG state, nor values that are no tensors.

    UsageError where nothing is left.
    """
    kept = [tensor for tensor in checkpoint if tensor.role not in BESIDE_MODEL]
    if not kept:
        raise UsageError("no tensor belongs to a model", path=checkpoint.path)
    if len(kept) == len(checkpoint) and not checkpoint.extras:
        return checkpoint
    return dataclasses.replace(with_tensors(checkpoint, kept), extras={})


def averaged(checkpoint: Checkpoint) -> Checkpoint:
    """The EMA copy under the model's names; what it does not average (buffers) is the model's.

    Where the file has no model beside the copy, the copy's own prefix is dropped. Raises UsageError
    where there is no copy, UnsupportedError where one of its tensors matches none of the model.
    """
    copies = [tensor for tensor in checkpoint if tensor.role == "ema"]
    if not copies:
        raise UsageError("no EMA copy in the file", path=checkpoint.path)
    model = {tensor.name: tensor for tensor in checkpoint if tensor.role not in BESIDE_MODEL}
    if not model:
        model = _without_common_prefix(copies)
        return dataclasses.replace(with_tensors(checkpoint, model.values()), extras={})
    by_core = _by_core(model)
    chosen = dict(model)
    strangers = []
    for copy in copies:
        name = _counterpart(copy.name, model, by_core)
        if name is not None and copy.shape == model[name].shape:
            chosen[name] = renamed(copy, name)
            chosen[name].role = model[name].role
        elif copy.count > 1:
            strangers.append(copy.name)
    if strangers:
        shown = ", ".join(f"'{shorten(name, 80)}'" for name in strangers[:3])
        raise UnsupportedError(
            f"{len(strangers)} EMA tensors match none of the model: {shown}",
            path=checkpoint.path,
            hint="--root chooses their branch instead",
        )
    return dataclasses.replace(with_tensors(checkpoint, chosen.values()), extras={})


def _counterpart(name: str, model: dict[str, Tensor], by_core: dict[str, str]) -> str | None:
    """The model's tensor that `name` is the average of: `conv/kernel/ExponentialMovingAverage`,
    `ema.conv.weight`, `ema.module.conv.weight`, or `model_ema.convweight`."""
    variable, slash, leaf = name.rpartition("/")
    if slash and leaf in _SHADOW_LEAVES and variable in model:
        return variable
    # The first component is the name of the branch, whatever it is.
    rest = name.partition(".")[2]
    if rest in model:
        return rest
    for core in _cores(rest):
        found = by_core.get(core.replace(".", ""))
        if found:
            return found
    return None


def _by_core(model: dict[str, Tensor]) -> dict[str, str]:
    """Names without wrappers and without dots -> the name; "" where two agree."""
    found: dict[str, str] = {}
    for name in model:
        for core in _cores(name):
            joined = core.replace(".", "")
            found[joined] = "" if found.get(joined, name) != name else name
    return found


def _cores(name: str) -> Iterator[str]:
    """The name, and the name without each of the wrappers in front of it."""
    yield name
    first, dot, rest = name.partition(".")
    while dot and first in _WRAPPERS:
        yield rest
        first, dot, rest = rest.partition(".")


def _without_common_prefix(tensors: list[Tensor]) -> dict[str, Tensor]:
    """The tensors without the first component that all of them share; counters left out."""
    arrays = [tensor for tensor in tensors if tensor.count > 1 or "." in tensor.name]
    first = {tensor.name.partition(".")[0] for tensor in arrays}
    if len(first) != 1:
        return {tensor.name: tensor for tensor in arrays}
    shortened = [renamed(tensor, tensor.name.partition(".")[2]) for tensor in arrays]
    return {tensor.name: tensor for tensor in shortened}
