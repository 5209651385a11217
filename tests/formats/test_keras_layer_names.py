"""Variables that Keras 3 stores by number get the names that the layers themselves give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import wtool

keras = pytest.importorskip("keras")
from keras import layers  # noqa: E402

# Layer -> shape of an input of it; None for a layer that takes two.
LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...] | None]] = {
    "time distributed": (lambda: layers.TimeDistributed(layers.Dense(3, name="inside")), (5, 4)),
    "twice distributed": (
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(3))),
        (2, 5, 4),
    ),
    "distributed model": (
        lambda: layers.TimeDistributed(keras.Sequential([layers.Dense(3), layers.Dense(2)])),
        (5, 4),
    ),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(3, name="inside")), (5, 4)),
    "attention": (lambda: layers.Attention(use_scale=True), None),
    "scored attention": (lambda: layers.Attention(score_mode="concat"), None),
    "additive attention": (layers.AdditiveAttention, None),
    "grouped attention": (lambda: layers.GroupQueryAttention(4, 2, 2), None),
    "reversible embedding": (lambda: layers.ReversibleEmbedding(5, 3), (5,)),
    "two-way embedding": (lambda: layers.ReversibleEmbedding(5, 3, tie_weights=False), (5,)),
}


def model_of(name: str) -> Any:
    make, shape = LAYERS[name]
    keras.utils.clear_session()
    dtype = "int32" if "embedding" in name else "float32"
    given = keras.Input(shape or (5, 8), dtype=dtype)
    layer = make()
    if shape is not None:
        return keras.Model(given, layer(given))
    return keras.Model(given, layer(given, given) if "grouped" in name else layer([given, given]))


def names_of(model: Any) -> set[str]:
    """Last two components of the names of all weights but random state."""
    return {"/".join(w.path.split("/")[-2:]) for w in model.weights}


def stored_names(path: Any) -> set[str]:
    return {"/".join(tensor.name.split("/")[-2:]) for tensor in wtool.open(path)}


def trained(model: Any) -> int:
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.parametrize("name", LAYERS)
def test_an_archive_has_the_names_and_the_parameters_of_its_layers(tmp_path, name):
    model = model_of(name)
    model.save(tmp_path / "m.keras")
    assert stored_names(tmp_path / "m.keras") == names_of(model)
    assert wtool.count(tmp_path / "m.keras").totals["parameters"] == trained(model)


@pytest.mark.parametrize("name", ["additive attention", "grouped attention", "two-way embedding"])
def test_weights_alone_have_them_where_class_and_count_tell(tmp_path, name):
    model = model_of(name)
    model.save_weights(tmp_path / "m.weights.h5")
    assert stored_names(tmp_path / "m.weights.h5") == names_of(model)


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_scales_of_a_quantised_layer_are_no_biases(tmp_path, mode, has_bias, suffix):
    keras.utils.clear_session()
    made = [
        layers.Dense(3, use_bias=has_bias),
        layers.EinsumDense("ab,bc->ac", 3, bias_axes="c" if has_bias else None),
    ]
    model = keras.Sequential([keras.Input((4,)), *made])
    model.quantize(mode)
    path = tmp_path / f"m.{suffix}"
    model.save(path) if suffix == "keras" else model.save_weights(path)
    assert stored_names(path) == names_of(model)
    values = {"/".join(w.path.split("/")[-2:]): w for w in model.weights}
    learned = [n for n in values if n.endswith(("/kernel", "/bias"))]
    count = wtool.count(path).totals
    assert count["parameters"] == sum(int(np.prod(values[n].shape)) for n in learned)
    for tensor in wtool.open(path):
        stored = np.asarray(values["/".join(tensor.name.split("/")[-2:])])
        np.testing.assert_array_equal(tensor.load(), stored)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("Embedding", "int8"), ("Embedding", "int4"), ("ReversibleEmbedding", "int8")],
)
def test_scales_of_a_quantised_embedding_are_named(tmp_path, mode, kind):
    keras.utils.clear_session()
    made = getattr(layers, kind)(6, 256)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), made])
    model.quantize(mode)
    model.save_weights(tmp_path / "m.weights.h5")
    assert stored_names(tmp_path / "m.weights.h5") == names_of(model)


def test_spectral_normalisation_counts_its_kernel_once(tmp_path):
    keras.utils.clear_session()
    made = layers.SpectralNormalization(layers.Dense(3, name="inside"))
    model = keras.Sequential([keras.Input((4,)), made, layers.Dense(2)])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        assert wtool.count(tmp_path / name).totals["parameters"] == trained(model)


class Subclassed(keras.Model):
    """Its groups are called by attributes; those before "layers" in the alphabet tell no class."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = layers.BatchNormalization()
        self.bn2 = layers.BatchNormalization()
        self.conv = layers.Conv2D(4, 3)
        self.fc = layers.Dense(2)
        self.stem = layers.Conv2D(4, 3)

    def call(self, x: Any) -> Any:
        return self.fc(self.bn2(self.conv(self.bn1(self.stem(x)))))


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
def test_layers_of_a_subclassed_model_are_known_by_their_own_names(tmp_path, ending):
    keras.utils.clear_session()
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), "float32"))
    path = tmp_path / f"model.{ending}"
    (model.save if ending == "keras" else model.save_weights)(path)
    checkpoint = wtool.open(path)
    assert {"/".join(name.split("/")[-2:]) for name in checkpoint.tensors} == names_of(model)
    learned = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    totals = wtool.count(checkpoint).totals
    assert (totals["parameters"], totals["buffers"]) == (learned, model.count_params() - learned)
