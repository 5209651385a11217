"""The layers of a model in the order of the network, where the file keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from wtool.checkpoint import Checkpoint, Tensor
from wtool.errors import UsageError

# Containers that list tensors in the order in which the model registered them. safetensors sorts
# by type and name, TensorFlow by name, Keras's HDF5 of weights by class and name.
_ORDERED = frozenset(
    (
        "torch-zip",
        "torch-legacy",
        "torch-tar",
        "torchscript",
        "torch-export",
        "torch-distributed",
        "keras_h5",
        "npz",
    )
)


def layer_order(checkpoint: Checkpoint, tensors: Iterable[Tensor], option: str) -> list[str]:
    """Layers that hold `tensors`, first to last.

    UsageError that names `option` where the file does not say which layer comes first.
    """
    layers = list(dict.fromkeys(tensor.layer or "" for tensor in tensors))
    if checkpoint.format in _ORDERED:
        return layers
    configured = _configured_layers(checkpoint.extras.get("model_config"))
    places = {name: number for number, name in enumerate(configured)}
    known = {layer: places.get(layer.split("/")[0]) for layer in layers}
    if configured and all(place is not None for place in known.values()):
        return sorted(layers, key=lambda layer: known[layer] or 0)
    raise UsageError(
        f"{option} needs the order of the layers, and a {checkpoint.format} file does not keep it",
        hint="name the layers with --freeze and --train, or use a file that the framework saved",
    )


def _configured_layers(config: object) -> list[str]:
    """Names of the outermost layers in a Keras configuration, in its order; [] without one."""
    try:
        value = json.loads(config) if isinstance(config, str) else None
    except (ValueError, RecursionError):
        return []
    inner = value.get("config") if isinstance(value, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    names = []
    for layer in layers if isinstance(layers, list) else []:
        own = layer.get("config") if isinstance(layer, dict) else None
        name = own.get("name") if isinstance(own, dict) else None
        if isinstance(name, str):
            names.append(name)
    return names
