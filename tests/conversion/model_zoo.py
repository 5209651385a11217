"""Names, shapes and classes of published models of both frameworks, without their values.

    python tests/conversion/model_zoo.py torch resnet50 ...
    python tests/conversion/model_zoo.py keras ResNet50 ...

prints them as JSON. Each framework builds on its meta device, in a process of its own, so that no
gigabyte is filled with random numbers and Keras may run on PyTorch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# torch name -> Keras name; the torch side is torchvision's or timm's.
PAIRS = {
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "mobilenet_v2": "MobileNetV2",
    **{f"tf_efficientnet_b{n}": f"EfficientNetB{n}" for n in range(8)},
}
FIRST_PAIRS = ("resnet50", "vgg16", "densenet121", "mobilenet_v2", "tf_efficientnet_b0")

# (name, shape, Keras class or "") of each tensor.
Rows = list[tuple[str, tuple[int, ...], str]]


@cache
def torch_rows(names: tuple[str, ...]) -> Mapping[str, Rows]:
    """torch model name -> its state dict, in order."""
    return _run("torch", names)


@cache
def keras_rows(names: tuple[str, ...]) -> Mapping[str, Rows]:
    """Keras application -> its variables as a `.weights.h5` shows them, in order."""
    return _run("keras", names)


def _run(framework: str, names: Sequence[str]) -> Mapping[str, Rows]:
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, __file__, framework, *names]
    output = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    return {
        model: [(name, tuple(shape), kind) for name, shape, kind in rows]
        for model, rows in json.loads(output).items()
    }


def make_checkpoint(rows: Rows, container: str) -> Any:
    """A checkpoint of these tensors, roles and kinds as a reader of the container gives them."""
    from wtool.checkpoint import Tensor, build
    from wtool.dialects.keras_classes import kind_of_class
    from wtool.dtypes import DTYPES
    from wtool.extents import Absent
    from wtool.layers import assign_roles

    tensors = []
    for name, shape, class_name in rows:
        tensor = Tensor(name, name, Absent(DTYPES["float32"], shape, "names and shapes only"))
        if class_name:
            tensor.layer = name.rpartition("/")[0]
            tensor.kind = kind_of_class(class_name)
        tensors.append(tensor)
    checkpoint = build("model", container, tensors)
    assign_roles(checkpoint)
    return checkpoint


def _build_torch(name: str) -> list[tuple[str, list[int], str]]:
    import timm
    import torch
    import torchvision

    with torch.device("meta"):
        known = hasattr(torchvision.models, name)
        model = getattr(torchvision.models, name)() if known else timm.create_model(name)
    return [(key, list(value.shape), "") for key, value in model.state_dict().items()]


def _build_keras(name: str) -> list[tuple[str, list[int], str]]:
    import keras

    keras.backend.clear_session()
    with keras.device("meta"):
        model = getattr(keras.applications, name)(weights=None)
    return [
        (f"{layer.name}/{variable.name}", list(variable.shape), type(layer).__name__)
        for layer in model.layers
        for variable in layer.weights
    ]


if __name__ == "__main__":
    which, *models = sys.argv[1:]
    if which == "torch":
        sys.path.insert(0, str(Path(__file__).parent.parent))
        from torchvision_on_cpu import load_torchvision

        load_torchvision()
    maker = _build_torch if which == "torch" else _build_keras
    json.dump({model: maker(model) for model in models}, sys.stdout)
