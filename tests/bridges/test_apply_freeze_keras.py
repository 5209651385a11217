"""A freezing manifest in real fine-tuning: the trained digits CNN gets a new head in Keras."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tf_keras

import wtool
from fixtures import keras_models
from fixtures.datasets import digits
from wtool.bridges.keras import apply_freeze
from wtool.errors import UsageError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TRAINED = FIXTURES / "digits-cnn.keras"
BODY_FROZEN = [("freeze", "*"), ("replace", "fc2")]
STATISTICS = {f"{n}/{leaf}" for n in ("bn1", "bn2") for leaf in ("moving_mean", "moving_variance")}


def freeze(tmp_path: Path, rules: list, model: Path = TRAINED) -> str:
    path = str(tmp_path / "model.freeze.json")
    wtool.freeze(str(model), rules=rules, output=path, force=True)
    return path


def trained_model(classes: int | None = None):
    model = keras.models.load_model(TRAINED)
    if classes is None:
        return model
    head = keras.layers.Dense(classes, name="fc2")(model.get_layer("fc1").output)
    return keras.Model(model.input, head)


def fine_tune(model, classes: int, library=keras) -> None:
    train_x, train_y, *_ = digits()
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(1e-2), loss)
    x = keras_models.model_input("digits-cnn", train_x[:320])
    model.fit(x, train_y[:320] % classes, batch_size=64, epochs=1, verbose=0)


def failing(report) -> set[str]:
    return {row["name"] for row in report.rows if row["fails"]}


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_a_frozen_body_with_a_new_head_verifies_after_training(tmp_path, ending):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model(classes=5)
    assert apply_freeze(model, manifest) == ["fc2/kernel", "fc2/bias"]
    fine_tune(model, 5)
    path = str(tmp_path / f"tuned{ending}")
    model.save(path) if ending == ".keras" else model.save_weights(path)
    report = wtool.verify(path, manifest)
    assert report.ok
    assert {row["name"]: row["status"] for row in report.rows} == {
        "fc2/kernel": "replaced", "fc2/bias": "replaced",
    }  # fmt: skip


def test_batchnorm_left_in_training_mode_fails_and_is_named(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model(classes=5)
    apply_freeze(model, manifest)
    for layer in (model.get_layer("bn1"), model.get_layer("bn2")):
        # Its own variables are frozen one by one, and the layer runs in training mode.
        layer.trainable = True
        layer.gamma.trainable = layer.beta.trainable = False
    fine_tune(model, 5)
    model.save(tmp_path / "tuned.keras")
    assert failing(wtool.verify(str(tmp_path / "tuned.keras"), manifest)) == STATISTICS


def test_the_last_bit_of_one_frozen_weight_fails_and_is_named(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model()
    kernel = model.get_layer("conv1").kernel
    values = np.array(kernel)
    values.view(np.int32)[0, 1, 0, 4] ^= 1
    kernel.assign(values)
    model.save(tmp_path / "tuned.keras")
    report = wtool.verify(str(tmp_path / "tuned.keras"), manifest)
    assert failing(report) == {"conv1/kernel"}
    assert any(line.startswith("never trained: fc2/bias") for line in report.footer)


def test_a_split_that_a_layer_cannot_express_is_refused_by_name(tmp_path):
    model = trained_model()
    before = [layer.trainable for layer in model.layers]
    with pytest.raises(UsageError, match="'conv1' cannot train 'conv1/bias' and freeze"):
        apply_freeze(model, freeze(tmp_path, [("train-biases", None)]))
    statistics = freeze(tmp_path, [("train", "*"), ("freeze", "*/moving_*")])
    with pytest.raises(UsageError, match="'bn1' cannot train 'bn1/beta' and freeze 'bn1/moving"):
        apply_freeze(model, statistics)
    assert [layer.trainable for layer in model.layers] == before


def test_layers_within_layers_are_frozen_by_themselves(tmp_path):
    model = keras_models.MODELS["digits-transformer"](keras)
    path = tmp_path / "transformer.weights.h5"
    model.save_weights(path)
    rules = [("freeze", "*"), ("train", "encoder_1_self_attn/query/*"), ("train", "output")]
    manifest = freeze(tmp_path, rules, FIXTURES / "digits-transformer-tf")
    assert set(apply_freeze(model, manifest)) == {
        "encoder_1_self_attn/query/kernel", "encoder_1_self_attn/query/bias",
        "output/kernel", "output/bias",
    }  # fmt: skip
    assert {v.path for v in model.trainable_variables} == {
        "encoder_1_self_attn/query/kernel", "encoder_1_self_attn/query/bias",
        "output/kernel", "output/bias",
    }  # fmt: skip


def test_names_that_do_not_match_are_an_error(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    base = trained_model()
    head = keras.layers.Dense(3, name="head")(base.get_layer("fc1").output)
    model = keras.Model(base.input, head)
    with pytest.raises(UsageError, match="does not name 'head/kernel', 'head/bias'"):
        apply_freeze(model, manifest)
    assert apply_freeze(model, manifest, added=["head/*"]) == ["head/kernel", "head/bias"]
    short = keras.Model(base.input, base.get_layer("bn1").output)
    with pytest.raises(UsageError, match=r"no '(depthwise|pointwise|bn2|fc1)/"):
        apply_freeze(short, manifest)


def test_keras_2_is_frozen_the_same_way(tmp_path):
    model = keras_models.MODELS["digits-cnn"](tf_keras)
    model.load_weights(FIXTURES / "digits-cnn-keras2-weights.h5")
    manifest = freeze(tmp_path, BODY_FROZEN, FIXTURES / "digits-cnn-keras2-weights.h5")
    assert apply_freeze(model, manifest) == ["fc2/kernel", "fc2/bias"]
    fine_tune(model, 10, tf_keras)
    model.save_weights(tmp_path / "tuned.h5")
    report = wtool.verify(str(tmp_path / "tuned.h5"), manifest)
    assert report.ok
    assert (report.totals["frozen"], report.totals["unchanged"]) == (15, 0)
