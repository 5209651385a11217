"""Presets proven by outputs: both real models compute the same from the converted file.

Parameters and BatchNorm's statistics are random, so that no swapped tensor stays unseen. What
weights cannot carry (the preset's notes) is made equal on one side, and shown to matter.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
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
from wtool.errors import UnsupportedError

# Of the largest output; the largest that was measured is 2.4e-6.
TOLERANCE = 1e-5
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


def set_epsilon(model: torch.nn.Module, epsilon: float = 1.001e-5) -> None:
    """The epsilon of Keras in every BatchNorm."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eps = epsilon


def move_strides(model: Any) -> None:
    """torchvision's ResNet with the stride and the epsilon of Keras."""
    set_epsilon(model)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def pad_as_keras(model: torch.nn.Module) -> None:
    """torchvision's MobileNetV2 with Keras's padding and epsilon."""
    set_epsilon(model, 1e-3)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv2d) and child.stride == (2, 2):
                child.padding = (0, 0)
                pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
                setattr(module, name, torch.nn.Sequential(pad, child))


# VGG's first dense layer takes 7 x 7 places, which Keras has at 224 pixels only.
PROOFS = [
    *(Proof(f"resnet{n}", "torchvision-resnet", adapt=move_strides) for n in (50, 101, 152)),
    *(Proof(f"densenet{n}", "torchvision-densenet") for n in (121, 169, 201)),
    Proof("mobilenet_v2", "torchvision-mobilenet-v2", adapt=pad_as_keras),
    *(Proof(f"tf_efficientnet_b{n}", "timm-tf-efficientnet", scale=255.0) for n in range(8)),
    *(Proof(f"vgg{n}", f"torchvision-vgg{n}", size=224) for n in (16, 19)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes with the test, and the models with it: together they are 30 gigabytes.

    One thread: PyTorch's and TensorFlow's wait for each other, and take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keras.backend.clear_session()
    yield tmp_path
    torch.set_num_threads(threads)
    shutil.rmtree(tmp_path)
    keras.backend.clear_session()
    gc.collect()


def test_every_pair_that_a_preset_names_is_proven() -> None:
    assert {proof.name for proof in PROOFS} == set(PAIRS)


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
        # Deep down all pictures are nearly alike. Divided by so little, the last digit of an input
        # becomes the first of an output: EfficientNetB7 would enlarge a difference 6e8 times.
        norm.running_var += norm.running_mean**2
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
    proof: Proof, folder: Path
) -> None:
    model = build_torch(proof.name)
    torch.save(model.state_dict(), folder / "model.pth")
    shape = (proof.size, proof.size, 3)
    application = getattr(keras.applications, PAIRS[proof.name])
    twin = application(weights=None, input_shape=shape, classifier_activation=None)
    twin.save_weights(folder / "fresh.weights.h5")

    source = wtool.open(folder / "model.pth")
    template = wtool.open(folder / "fresh.weights.h5")
    preset = find_preset(source, template)
    assert preset is not None
    assert preset.name == proof.preset
    assert [found.name for found in presets_for(source, "keras")] == [proof.preset]
    outcome = convert_layouts(source, preset, to="b", template=template)
    assert outcome.open == ()
    made = folder / "made.weights.h5"
    wtool.convert(outcome.checkpoint(), str(made), template=str(folder / "fresh.weights.h5"))

    twin.load_weights(made)
    x = torch.rand(2, 3, proof.size, proof.size, generator=torch.Generator().manual_seed(4))
    image = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)) * np.float32(proof.scale)
    found = np.asarray(twin(image, training=False))
    with torch.no_grad():
        as_is = model(x).numpy()
        if proof.adapt is not None:
            proof.adapt(model)
        expected = model(x).numpy()
    assert error(expected[:1], expected[1:]) > 0.01, "the models do not see their input"
    assert error(found, expected) < TOLERANCE
    if proof.adapt is not None:
        assert error(found, as_is) > 100 * TOLERANCE, "the note is about nothing"
    swap_two_kernels(twin)
    assert error(np.asarray(twin(image, training=False)), expected) > 100 * TOLERANCE
    assert_way_back(wtool.open(made), source)


@pytest.mark.slow
def test_a_second_efficientnet_of_one_process_has_another_name_for_a_layer(folder: Path) -> None:
    model = build_torch("tf_efficientnet_b0")
    source, fresh, made, back = (
        str(folder / n) for n in ("model.pth", "fresh.weights.h5", "made.weights.h5", "back.pth")
    )
    torch.save(model.state_dict(), source)
    shape = (64, 64, 3)
    keras.applications.EfficientNetB0(weights=None, input_shape=shape)
    twin = keras.applications.EfficientNetB0(
        weights=None, input_shape=shape, classifier_activation=None
    )
    twin.save_weights(fresh)
    assert "normalization_1/mean" in wtool.open(fresh).tensors
    report = wtool.convert(source, made, to="keras", like=fresh)
    assert any("timm-tf-efficientnet" in line for line in report.footer)
    twin.load_weights(made)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    image = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)) * np.float32(255.0)
    with torch.no_grad():
        assert error(np.asarray(twin(image, training=False)), model(x).numpy()) < TOLERANCE
    assert wtool.convert(made, back, to="torch").ok
    assert_way_back(wtool.open(made), wtool.open(source))

    # The constants that timm has not are verified under that name too.
    twin.get_layer("normalization_1").adapt_mean.assign([0.5, 0.5, 0.5])
    twin.save_weights(made)
    with pytest.raises(UnsupportedError, match="'normalization_1/mean' is dropped as a constant"):
        wtool.convert(made, back, to="torch", force=True)


def swap_two_kernels(model: Any) -> None:
    """The last two kernels of one shape change places, as a wrong name would have it."""
    seen: dict[tuple[int, ...], Any] = {}
    for variable in reversed(model.trainable_variables):
        if variable.name == "kernel" and tuple(variable.shape) in seen:
            later, values = seen[tuple(variable.shape)], variable.numpy()
            variable.assign(later)
            later.assign(values)
            return
        seen[tuple(variable.shape)] = variable
    raise AssertionError("no two kernels of one shape")


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
