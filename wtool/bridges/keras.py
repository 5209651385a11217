"""A freezing manifest applied to a live Keras model, of Keras 3 or of tf_keras."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from wtool.bridges.frozen_names import match_names, open_manifest
from wtool.errors import UsageError
from wtool.manifests.freezing import FreezingManifest

# Random state of dropout layers: it moves on whatever is frozen.
_RANDOM_STATE = "seed_generator_state"


def apply_freeze(
    model: Any,
    manifest: FreezingManifest | str | os.PathLike[str],
    *,
    added: Sequence[str] = (),
) -> list[str]:
    """Set `trainable` of every layer as the manifest says; returns the names of what is trained.

    Names are those of variables: `conv1/kernel`. A frozen BatchNormalization runs in inference mode
    by Keras's own rule, so its moving statistics stay. Compile the model afterwards.

    added: globs for variables of a new head that the manifest does not name; they are trained.
    Raises UsageError, and changes nothing, where names or shapes do not match (see `match_names`),
    or where a split cannot be expressed, as Keras freezes whole layers: the layer is named.
    """
    loaded = open_manifest(manifest)
    layers = [(layer, _own_variables(layer)) for layer in _layers_of(model)]
    shapes = {name: shape for _, own in layers for name, shape, _ in own}
    new = match_names(loaded, shapes, added)
    frozen = {name for name, t in loaded.tensors.items() if t.is_frozen} - new
    below = {id(layer): _names_below(layer) for layer, _ in layers}
    trainable = {
        id(layer): _decide(layer, own, below[id(layer)], frozen, loaded) for layer, own in layers
    }
    # Keras hands a layer's `trainable` down to those within it: those that hold more come first.
    for layer, _ in sorted(layers, key=lambda pair: -len(_layers_of(pair[0]))):
        layer.trainable = trainable[id(layer)]
    return [
        name
        for layer, own in layers
        for name, _, learned in own
        if learned and name not in frozen and trainable[id(layer)]
    ]


def _layers_of(model: Any) -> list[Any]:
    """The model and all layers in it, each once; `model.layers` leaves out layers of layers."""
    return list(model._flatten_layers(include_self=True, recursive=True))


def _own_variables(layer: Any) -> list[tuple[str, tuple[int, ...], bool]]:
    """(name, shape, whether gradients change it) of the variables that a layer holds itself."""
    if hasattr(layer, "_trainable_variables"):
        pairs = ((layer._trainable_variables, True), (layer._non_trainable_variables, False))
    else:
        pairs = ((layer._trainable_weights, True), (layer._non_trainable_weights, False))
    return [
        (_name_of(variable), tuple(variable.shape), learned)
        for variables, learned in pairs
        for variable in variables
        if _RANDOM_STATE not in _name_of(variable)
    ]


def _name_of(variable: Any) -> str:
    """Keras 3 has paths; the names of tf_keras end with ":0"."""
    return str(getattr(variable, "path", None) or variable.name.removesuffix(":0"))


def _names_below(layer: Any) -> set[str]:
    """Names of all learned variables of a layer and of those within it."""
    return {
        name for inner in _layers_of(layer) for name, _, learned in _own_variables(inner) if learned
    }


def _decide(
    layer: Any,
    own: Sequence[tuple[str, tuple[int, ...], bool]],
    below: set[str],
    frozen: set[str],
    manifest: FreezingManifest,
) -> bool:
    """Whether a layer is trainable: some of it is trained. UsageError where only some can be."""
    states = {name: name not in frozen for name, _, _ in own}
    if not own:
        return not below or not below <= frozen
    wrong = sorted(name for name, trained in states.items() if not trained)
    if len(set(states.values())) > 1:
        right = sorted(name for name, trained in states.items() if trained)
        raise UsageError(
            f"Keras freezes whole layers: '{layer.name}' cannot train '{right[0]}' and freeze "
            f"'{wrong[0]}'"
        )
    trained = not wrong
    if not trained and not below <= frozen:
        inner = sorted(below - frozen)[0]
        raise UsageError(
            f"Keras freezes a layer with all within it: '{layer.name}' cannot freeze '{wrong[0]}' "
            f"and train '{inner}'"
        )
    return trained
