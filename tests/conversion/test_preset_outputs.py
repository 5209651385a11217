"""Presets proven by outputs: both real models compute the same from the converted file.

Parameters and BatchNorm's statistics are random, so that no swapped tensor stays unseen. What
weights cannot carry (the preset's notes) is made equal on one side, and shown to matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from model_zoo import PAIRS
from torchvision_on_cpu import load_torchvision

import wtool
from wtool.checkpoint import Checkpoint
from wtool.conversion.presets import find_preset, presets_for
from wtool.conversion.verification import convert_layouts

# Of the largest output; float32 sums of 50 to 120 layers differ by 1e-6 to 3e-5.
TOLERANCE = 5e-5
load_torchvision()


@dataclass(frozen=True)
class Proof:
    """name: of the torch model. size: of the image. scale: Keras takes the image times this.

    adapt: makes the facts equal, in the torch model, that the preset's notes name.
    """

    name: str
    preset: str
    size: int = 64
    scale: float = 1.0
    adapt: Callable[[Any], None] | None = None


def move_strides(model: Any) -> None:
    """torchvision's ResNet with the stride and the epsilon of Keras."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eps = 1.001e-5
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def pad_as_keras(model: torch.nn.Module) -> None:
    """torchvision's MobileNetV2 with Keras's padding and epsilon."""
    for module in list(model.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv2d) and child.stride == (2, 2):
                child.padding = (0, 0)
                pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
                setattr(module, name, torch.nn.Sequential(pad, child))


PROOFS = [
    Proof("resnet50", "torchvision-resnet", adapt=move_strides),
    Proof("densenet121", "torchvision-densenet"),
    Proof("mobilenet_v2", "torchvision-mobilenet-v2", adapt=pad_as_keras),
    Proof("tf_efficientnet_b0", "timm-tf-efficientnet", scale=255.0),
    Proof("vgg16", "torchvision-vgg16", size=224),
]


def build_torch(name: str) -> torch.nn.Module:
    """The model in evaluation mode, everything random that a file holds."""
    import timm
    import torchvision

    torch.manual_seed(3)
    known = hasattr(torchvision.models, name)
    model = getattr(torchvision.models, name)() if known else timm.create_model(name)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module.bias is not None:
            torch.nn.init.normal_(module.bias, 0, 0.1)
    for norm in norms:
        norm.momentum = None
        torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
    if norms:
        # Statistics of real inputs: with others the picture fades on its way through the layers.
        with torch.no_grad():
            model.train()(torch.rand(8, 3, 64, 64))
    for norm in norms:
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.num_batches_tracked.fill_(0)
    return model.eval()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_both_models_compute_the_same_and_the_way_back_is_bit_equal(
    proof: Proof, tmp_path: Path
) -> None:
    model = build_torch(proof.name)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    keras.backend.clear_session()
    shape = (proof.size, proof.size, 3)
    application = getattr(keras.applications, PAIRS[proof.name])
    twin = application(weights=None, input_shape=shape, classifier_activation=None)
    twin.save_weights(tmp_path / "fresh.weights.h5")

    source = wtool.open(tmp_path / "model.pth")
    template = wtool.open(tmp_path / "fresh.weights.h5")
    preset = find_preset(source, template)
    assert preset is not None
    assert preset.name == proof.preset
    assert [found.name for found in presets_for(source, "keras")] == [proof.preset]
    outcome = convert_layouts(source, preset, to="b", template=template)
    assert outcome.open == ()
    made = tmp_path / "made.weights.h5"
    wtool.convert(outcome.checkpoint(), str(made), template=str(tmp_path / "fresh.weights.h5"))

    x = torch.rand(2, 3, proof.size, proof.size, generator=torch.Generator().manual_seed(4))
    image = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)) * np.float32(proof.scale)
    twin.load_weights(made)
    found = twin.predict(image, verbose=0)
    with torch.no_grad():
        as_is = model(x).numpy()
        if proof.adapt is not None:
            proof.adapt(model)
        expected = model(x).numpy()
    assert error(expected[:1], expected[1:]) > 100 * TOLERANCE, "the models do not see their input"
    assert error(found, expected) < TOLERANCE
    if proof.adapt is not None:
        assert error(found, as_is) > 100 * TOLERANCE, "the note is about nothing"
    assert_way_back(wtool.open(made), source)


def assert_way_back(made: Checkpoint, source: Checkpoint) -> None:
    """The file converted back is the source, bit for bit."""
    (preset,) = presets_for(made, "torch")
    outcome = convert_layouts(made, preset, to="a")
    assert outcome.open == ()
    back = outcome.checkpoint()
    assert set(back.tensors) == set(source.tensors)
    for tensor in source:
        again = back[tensor.name]
        assert again.dtype is tensor.dtype, tensor.name
        assert again.load().tobytes() == tensor.load().tobytes(), tensor.name
