"""Real models from every container into every other, judged by the target's own library."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import torch
from safetensors import safe_open

from wtool.checkpoint import Checkpoint, build
from wtool.formats import open_checkpoint
from wtool.writers import save

FIXTURES = Path(__file__).parents[2] / "fixtures"
SOURCES = [
    "digits-cnn.pth",
    "digits-cnn-legacy.pth",
    "digits-cnn-module.pth",
    "digits-cnn-training.pth",
    "digits-cnn-script.pt",
    "digits-cnn.pt2",
    "digits-cnn-bin-shards",
    "digits-cnn.safetensors",
    "digits-cnn-bf16.safetensors",
    "digits-cnn-f16.safetensors",
    "digits-transformer.pth",
    "digits-transformer.safetensors",
    "digits-cnn-tf",
    "digits-cnn-tf-training",
    "digits-cnn-tf1-partitioned",
    "digits-cnn-tf1-v1",
    "digits-cnn-savedmodel",
    "digits-cnn.keras",
    "digits-cnn.weights.h5",
    "digits-cnn-keras2.h5",
    "topics-rnn.pth",
    "topics-rnn-tf",
]
EVERY_LOSS = {"extras", "metadata", "ties", "structure"}


def numbers(source: Checkpoint) -> Checkpoint:
    """The source without texts and objects, which only TensorFlow holds."""
    kept = [tensor for tensor in source if tensor.dtype.kind not in ("string", "opaque")]
    return build(
        source.path,
        source.format,
        kept,
        metadata=source.metadata,
        extras=source.extras,
        tree=source.tree if len(kept) == len(source) else None,
    )


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def torch_raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def by_torch(path: Path) -> dict[str, tuple]:
    loaded = torch.load(path, weights_only=True, mmap=True)
    return {name: (tuple(t.shape), str(t.dtype), torch_raw(t)) for name, t in loaded.items()}


def by_safetensors(path: Path) -> dict[str, tuple]:
    with safe_open(path, "pt") as file:
        loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Tied tensors are recorded as {removed: kept}.
        for removed, kept in (file.metadata() or {}).items():
            if kept in loaded:
                loaded[removed] = loaded[kept]
    return {name: (tuple(t.shape), str(t.dtype), torch_raw(t)) for name, t in loaded.items()}


def by_tensorflow(path: Path) -> dict[str, tuple]:
    reader = tf.train.load_checkpoint(str(path))
    types = reader.get_variable_to_dtype_map()
    return {
        name: (tuple(shape), f"torch.{types[name].name}", raw(reader.get_tensor(name)))
        for name, shape in reader.get_variable_to_shape_map().items()
    }


def by_numpy(path: Path) -> dict[str, tuple]:
    with np.load(path) as file:
        return {n: (a.shape, f"torch.{a.dtype.name}", raw(a)) for n, a in file.items()}


TARGETS = [
    ("safetensors", "m.safetensors", by_safetensors),
    ("torch", "m.pth", by_torch),
    ("tensorflow", "m", by_tensorflow),
    ("npz", "m.npz", by_numpy),
]


@pytest.mark.parametrize("container", TARGETS, ids=lambda target: target[0])
@pytest.mark.parametrize("name", SOURCES)
def test_a_real_model_is_the_same_in_another_container(tmp_path, name, container):
    target, file_name, judge = container
    source = numbers(open_checkpoint(FIXTURES / name))
    if target == "npz" and any(t.dtype.name == "bfloat16" for t in source):
        source = numbers(open_checkpoint(FIXTURES / "digits-cnn-f16.safetensors"))
    options = {"flat": True} if target == "torch" else {}
    path = tmp_path / file_name
    save(source, path, container=target, allow=EVERY_LOSS, **options)
    expected = {
        tensor.name: (tensor.shape, f"torch.{tensor.dtype.name}", raw(tensor.load()))
        for tensor in source
    }
    assert len(expected) >= 4
    assert judge(path) == expected


@pytest.mark.parametrize("name", ["digits-cnn-training.pth", "digits-transformer.pth"])
def test_a_nested_torch_file_comes_back_with_its_nesting(tmp_path, name):
    save(open_checkpoint(FIXTURES / name), tmp_path / "m.pth")
    ours = torch.load(tmp_path / "m.pth", weights_only=True)
    theirs = torch.load(FIXTURES / name, weights_only=True)
    assert flatten(ours) == flatten(theirs)


def flatten(value: object, path: tuple = ()) -> dict[tuple, object]:
    """Every leaf by its path; tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return {path: (tuple(value.shape), str(value.dtype), torch_raw(value))}
    if isinstance(value, dict):
        found: dict[tuple, object] = {path: type(value)}
        for key, inner in value.items():
            found |= flatten(inner, (*path, key))
        return found
    if isinstance(value, list | tuple):
        found = {path: type(value)}
        for index, inner in enumerate(value):
            found |= flatten(inner, (*path, index))
        return found
    return {path: value}
