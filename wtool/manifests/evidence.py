"""What a file says of who wrote it, and of the classes whose code it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wtool.checkpoint import Checkpoint

# Keys under which containers and training loops state what wrote them.
_WRITER_KEYS = (
    "torch version record",
    "torch_version",
    "pytorch-lightning_version",
    "transformers_version",
    "tensorflow_version",
    "keras_version",
    "backend",
    "format",
)
# Globals that every file of the framework names: how tensors are put together, no class of a model.
_PLUMBING = (
    "collections.",
    "builtins.",
    "copyreg.",
    "numpy.",
    "torch._utils.",
    "torch._tensor.",
    "torch.storage.",
    "torch.serialization.",
    "torch.distributed.",
    "torch.jit._pickle.",
    "torch.nn.parameter.",
)
# A configuration holds as many objects as its text has braces; layers of layers stay below this.
MAX_CONFIG_BYTES = 64 << 20


def writers_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What the file states of the program that wrote it: its own key -> its own text."""
    stated = {**checkpoint.extras, **checkpoint.metadata}
    return {key: str(stated[key]) for key in _WRITER_KEYS if isinstance(stated.get(key), str | int)}


def classes_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Classes of modules and layers that the file names, sorted: what code a reader needs.

    Module classes of a pickle, types of TorchScript, layers of a Keras configuration and objects
    registered by their authors. Nothing is imported to find them.
    """
    found = {name for name in checkpoint.globals if _is_class(name)}
    found |= set(_keras_classes(checkpoint.extras.get("model_config")))
    return tuple(sorted(found))


def _is_class(name: str) -> bool:
    if name.startswith(_PLUMBING):
        return False
    module = name.rpartition(".")[0]
    # "torch.float32", "torch.Size", "torch.FloatStorage": values and types of torch itself.
    return module != "torch"


def _keras_classes(config: object) -> Iterator[str]:
    """Names of the layers and registered objects in a Keras configuration; read as data only."""
    if not isinstance(config, str) or len(config) > MAX_CONFIG_BYTES:
        return
    try:
        value = json.loads(config)
    except (ValueError, RecursionError):
        return
    pending: list[tuple[Any, bool]] = [(value, True)]
    while pending:
        item, is_layer = pending.pop()
        if isinstance(item, dict):
            registered = item.get("registered_name")
            class_name = item.get("class_name")
            custom = isinstance(registered, str) and ">" in registered
            if isinstance(class_name, str) and "config" in item and (is_layer or custom):
                module = item.get("module")
                inside = f"{module}.{class_name}" if isinstance(module, str) else class_name
                yield str(registered) if custom else inside
            for key, below in item.items():
                if key == "layers" and isinstance(below, list):
                    pending.extend((layer, True) for layer in below)
                else:
                    pending.append((below, key == "layer"))
        elif isinstance(item, list):
            pending.extend((below, False) for below in item)
