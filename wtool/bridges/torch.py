"""A freezing manifest applied to a live PyTorch model."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wtool.bridges.frozen_names import match_names, open_manifest
from wtool.manifests.freezing import FreezingManifest

if TYPE_CHECKING:
    import torch

# Buffers that a layer in training mode moves on: running statistics, vectors of spectral norm.
_MOVING = frozenset(
    ("running_mean", "running_var", "num_batches_tracked", "_u", "_v", "weight_u", "weight_v")
)


def apply_freeze(
    model: torch.nn.Module,
    manifest: FreezingManifest | str | os.PathLike[str],
    *,
    added: Sequence[str] = (),
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Freeze and train what the manifest says; returns the parameter groups for the optimizer.

    Sets `requires_grad` of every parameter. A layer whose running statistics are frozen is put in
    eval mode, and `model.train()` leaves it there: it would move them on otherwise. Two groups come
    back: weights, with `weight_decay` where given (else the optimizer's own), and biases and
    parameters of normalisation layers, which get none.

    added: globs for parameters of a new head that the manifest does not name; they are trained.
    Raises UsageError, and changes nothing, where names or shapes do not match; see `match_names`.
    """
    loaded = open_manifest(manifest)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(_saved_buffers(model))
    shapes = {name: tuple(tensor.shape) for name, tensor in {**parameters, **buffers}.items()}
    new = match_names(loaded, shapes, added)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in new or not loaded.tensors[name].is_frozen)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if any(
            prefix + leaf in buffers
            and prefix + leaf not in new
            and loaded.tensors[prefix + leaf].is_frozen
            for leaf in _MOVING
        ):
            # An attribute of the instance: parents call it for their children.
            module.train = functools.partial(_stay_in_eval, module)
            module.eval()
        elif getattr(module.__dict__.get("train"), "func", None) is _stay_in_eval:
            # An earlier manifest froze what this one trains: progressive unfreezing.
            del module.train
    return _parameter_groups(loaded, parameters, weight_decay)


def _saved_buffers(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """(name, buffer) of those that a state dict holds."""
    return [
        (f"{path}.{leaf}" if path else leaf, buffer)
        for path, module in model.named_modules(remove_duplicate=False)
        for leaf, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if leaf not in module._non_persistent_buffers_set
    ]


def _stay_in_eval(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    """In place of `module.train`: whatever mode is asked for, the layer stays in eval mode."""
    return type(module).train(module, False)


def _parameter_groups(
    manifest: FreezingManifest,
    parameters: dict[str, torch.nn.Parameter],
    weight_decay: float | None,
) -> list[dict[str, Any]]:
    """Groups of the trained parameters, tied ones once, in the order of the model."""
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    seen: set[int] = set()
    for name, parameter in parameters.items():
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        known = manifest.tensors.get(name)
        norm_or_bias = known is not None and (known.role == "bias" or known.kind == "norm")
        (plain if norm_or_bias or parameter.dim() < 2 else decayed).append(parameter)
    own = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups = [{"params": decayed, **own}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
