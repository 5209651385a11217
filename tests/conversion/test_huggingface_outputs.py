"""Hugging Face's models to TensorFlow and back, judged by transformers' own loaders and outputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_zoo import build_tensorflow, build_torch, inputs_of

import wtool
from wtool.checkpoint import Checkpoint
from wtool.errors import LossError, UnsupportedError

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5
# Bare model, and the heads that share a matrix and that do not, of each family.
CLASSES = [
    *(f"Bert{head}" for head in (
        "Model", "ForPreTraining", "ForMaskedLM", "LMHeadModel", "ForNextSentencePrediction",
        "ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice",
        "ForQuestionAnswering",
    )),
    *(f"{family}{head}" for family in ("DistilBert", "Roberta", "XLMRoberta", "Camembert")
      for head in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
                   "ForQuestionAnswering")),
    *(f"{family}{head}" for family in ("Electra", "Albert", "MobileBert")
      for head in ("Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification",
                   "ForTokenClassification", "ForQuestionAnswering")),
    "RemBertForSequenceClassification", "RemBertForMaskedLM", "RoFormerForMaskedLM",
    "ConvBertForMaskedLM", "DebertaForMaskedLM", "DebertaV2ForTokenClassification",
    "LayoutLMForMaskedLM",
    "EsmForMaskedLM",
    "GPT2Model", "XLMWithLMHeadModel", "BartModel",
    "ViTForImageClassification", "ResNetForImageClassification", "ConvNextForImageClassification",
    "ConvNextV2Model", "T5EncoderModel", "MPNetModel", "MPNetForMultipleChoice",
]  # fmt: skip
# Heads that do not read the pooler that only TensorFlow's class has.
UNREAD = ["MPNetForMaskedLM", "MPNetForSequenceClassification", "MPNetForTokenClassification",
          "MPNetForQuestionAnswering"]  # fmt: skip
# Classes whose PyTorch names or shapes TensorFlow's do not tell.
DOUBTFUL = ["CLIPModel", "SwiftFormerModel"]
# Heads that only share: TensorFlow's file does not tell them from the bare model.
HIDDEN = ["GPT2LMHeadModel", "T5ForConditionalGeneration"]


def outputs_of(result: Any) -> list[np.ndarray]:
    """All tensors that a model of either framework gives, in order."""
    values = [value for value in result.to_tuple() if hasattr(value, "shape")]
    return [np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for v in values]


def run_torch(model: torch.nn.Module, name: str) -> list[np.ndarray]:
    with torch.no_grad():
        return outputs_of(model(**{k: torch.tensor(v) for k, v in inputs_of(name).items()}))


def run_tensorflow(model: Any, name: str) -> list[np.ndarray]:
    import tensorflow

    inputs = {k: tensorflow.constant(v) for k, v in inputs_of(name).items()}
    return outputs_of(model(inputs, training=False))


def assert_equal_outputs(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert [x.shape for x in found] == [x.shape for x in expected]
    for x, y in zip(found, expected, strict=True):
        assert np.abs(x - y).max() < TOLERANCE * max(1.0, np.abs(y).max())


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    """All of them bit for bit; a counter of batches, which Keras has not, begins anew."""
    assert set(found.tensors) == set(expected.tensors)
    for tensor in expected:
        if not tensor.name.endswith("num_batches_tracked"):
            assert found[tensor.name].load().tobytes() == tensor.load().tobytes(), tensor.name


def as_transformers_loads(name: str, settings: Any, source: Path) -> list[np.ndarray]:
    """The variables that transformers' own loader fills from the PyTorch file."""
    from transformers.modeling_tf_pytorch_utils import load_pytorch_checkpoint_in_tf2_model

    model = build_tensorflow(name, settings)
    load_pytorch_checkpoint_in_tf2_model(model, str(source), allow_missing_keys=True)
    return model.get_weights()


@pytest.mark.parametrize("name", [*CLASSES, *HIDDEN])
def test_pytorch_to_tensorflow_class_and_back(name: str, tmp_path: Path) -> None:
    settings, model = build_torch(name)
    source, fresh = tmp_path / "model.pth", tmp_path / "fresh.h5"
    made, back = tmp_path / "tf_model.h5", tmp_path / "back.pth"
    torch.save(model.state_dict(), source)
    twin = build_tensorflow(name, settings)
    twin.save_weights(fresh)
    assert wtool.convert(str(source), str(made), to="keras", like=str(fresh)).ok
    twin.load_weights(made)
    assert_equal_outputs(run_tensorflow(twin, name), run_torch(model, name))
    for ours, theirs in zip(
        twin.get_weights(), as_transformers_loads(name, settings, source), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)

    like = str(source) if name in HIDDEN else None
    assert wtool.convert(str(made), str(back), to="torch", like=like).ok
    assert_same_tensors(wtool.open(back), wtool.open(source))
    again = build_torch(name)[1]
    again.load_state_dict(torch.load(back, weights_only=True))
    assert_equal_outputs(run_torch(again, name), run_torch(model, name))


def test_statistics_that_transformers_loses_come_back(tmp_path: Path) -> None:
    from transformers.modeling_tf_pytorch_utils import load_tf2_checkpoint_in_pytorch_model

    name = "ResNetModel"
    settings, model = build_torch(name)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    twin = build_tensorflow(name, settings)
    twin.save_weights(tmp_path / "fresh.h5")
    made = str(tmp_path / "made.h5")
    wtool.convert(str(tmp_path / "model.pth"), made, to="keras", like=str(tmp_path / "fresh.h5"))
    wtool.convert(made, str(tmp_path / "back.pth"), to="torch")
    mean = "embedder.embedder.normalization.running_mean"
    expected = model.state_dict()[mean].numpy()
    assert torch.load(tmp_path / "back.pth", weights_only=True)[mean].numpy().tolist() == (
        expected.tolist()
    )
    theirs = type(model)(settings)
    load_tf2_checkpoint_in_pytorch_model(theirs, made, allow_missing_keys=True)
    assert not np.array_equal(theirs.state_dict()[mean].numpy(), expected)


def test_safetensors_of_a_tensorflow_class_go_both_ways(tmp_path: Path) -> None:
    name = "RobertaForMaskedLM"
    settings, model = build_torch(name)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    twin = build_tensorflow(name, settings)
    twin.save_pretrained(tmp_path / "fresh", safe_serialization=True)
    fresh = tmp_path / "fresh" / "model.safetensors"
    made = tmp_path / "made" / "model.safetensors"
    made.parent.mkdir()
    wtool.convert(str(tmp_path / "model.pth"), str(made), to="keras", like=str(fresh))
    settings.save_pretrained(made.parent)
    loaded = type(twin).from_pretrained(made.parent)
    assert_equal_outputs(run_tensorflow(loaded, name), run_torch(model, name))

    back = tmp_path / "back.pth"
    assert wtool.convert(str(made), str(back), to="torch").ok
    assert_same_tensors(wtool.open(back), wtool.open(tmp_path / "model.pth"))


@pytest.mark.parametrize("name", HIDDEN)
def test_a_head_that_only_shares_is_not_guessed(name: str, tmp_path: Path) -> None:
    settings, _ = build_torch(name)
    build_tensorflow(name, settings).save_weights(tmp_path / "model.h5")
    with pytest.raises(UnsupportedError, match="may have a head that shares") as caught:
        wtool.convert(str(tmp_path / "model.h5"), str(tmp_path / "out.pth"), to="torch")
    assert "--like" in (caught.value.hint or "")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", UNREAD)
def test_a_pooler_that_no_head_reads_is_left_out_and_named(name: str, tmp_path: Path) -> None:
    settings, model = build_torch(name)
    source, fresh, made = (str(tmp_path / n) for n in ("model.pth", "fresh.h5", "made.h5"))
    torch.save(model.state_dict(), source)
    twin = build_tensorflow(name, settings)
    twin.save_weights(fresh)
    assert wtool.convert(fresh, str(tmp_path / "out.pth"), to="torch").ok
    rows = wtool.convert(fresh, str(tmp_path / "no.pth"), to="torch", explain=True).rows
    reasons = [row["evidence"] for row in rows if "pooler" in (row["source"] or "")]
    assert len(reasons) == 2
    assert all("a pooler that this head does not read" in reason for reason in reasons)
    assert set(wtool.open(tmp_path / "out.pth").tensors) == set(model.state_dict())

    with pytest.raises(LossError, match="template 'mpnet/pooler/dense/kernel'"):
        wtool.convert(source, made, to="keras", like=fresh)
    assert wtool.convert(source, made, to="keras", like=fresh, allow=["template"]).ok
    twin.load_weights(made)
    assert_equal_outputs(run_tensorflow(twin, name), run_torch(model, name))


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_shape_that_does_not_follow_is_not_guessed(name: str, tmp_path: Path) -> None:
    settings, _ = build_torch(name)
    build_tensorflow(name, settings).save_weights(tmp_path / "model.h5")
    with pytest.raises(UnsupportedError, match="its name and shape in PyTorch do not follow"):
        wtool.convert(str(tmp_path / "model.h5"), str(tmp_path / "out.pth"), to="torch")
    assert not (tmp_path / "out.pth").exists()


def test_a_weight_normalisation_has_torchs_names_and_shapes(tmp_path: Path) -> None:
    name = "HubertModel"
    settings, model = build_torch(name)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    twin = build_tensorflow(name, settings)
    twin.save_weights(tmp_path / "model.h5")
    wtool.convert(str(tmp_path / "model.h5"), str(tmp_path / "out.pth"), to="torch")
    found = wtool.open(tmp_path / "out.pth")
    assert {t.name: t.shape for t in found} == {
        key: tuple(value.shape) for key, value in model.state_dict().items()
    }
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    assert_equal_outputs(run_tensorflow(twin, name), run_torch(model, name))


def test_a_weight_normalisation_of_old_names_goes_both_ways(tmp_path: Path) -> None:
    name = "HubertModel"
    settings, model = build_torch(name)
    state = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in model.state_dict().items()
    }
    assert sum(key.endswith(("weight_g", "weight_v")) for key in state) == 2
    torch.save(state, tmp_path / "old.pth")
    twin = build_tensorflow(name, settings)
    fresh, made, back = (str(tmp_path / n) for n in ("fresh.h5", "made.h5", "back.pth"))
    twin.save_weights(fresh)
    before = run_tensorflow(twin, name)
    assert wtool.convert(str(tmp_path / "old.pth"), made, to="keras", like=fresh).ok
    twin.load_weights(made)
    assert_equal_outputs(run_tensorflow(twin, name), run_torch(model, name))
    assert not np.allclose(run_tensorflow(twin, name)[0], before[0])

    wtool.convert(made, back, to="torch", like=str(tmp_path / "old.pth"))
    assert_same_tensors(wtool.open(back), wtool.open(tmp_path / "old.pth"))
    # One of the two alone is no weight normalisation.
    del state["encoder.pos_conv_embed.conv.weight_g"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UnsupportedError):
        wtool.convert(str(tmp_path / "cut.pth"), made, to="keras", like=fresh, force=True)


def test_a_decoder_without_a_bias_gets_none(tmp_path: Path) -> None:
    settings, model = build_torch("LxmertForPreTraining")
    build_tensorflow("LxmertForPreTraining", settings).save_weights(tmp_path / "model.h5")
    wtool.convert(str(tmp_path / "model.h5"), str(tmp_path / "out.pth"), to="torch")
    assert set(wtool.open(tmp_path / "out.pth").tensors) == set(model.state_dict())


# Class, the loader of transformers that reads its TensorFlow 1 checkpoint, its options.
TF1 = [
    ("BertForPreTraining", "bert", {}),
    ("AlbertForPreTraining", "albert", {}),
    ("AlbertForMaskedLM", "albert", {}),
    ("AlbertForSequenceClassification", "albert", {}),
    ("AlbertModel", "albert", {}),
    ("ElectraForPreTraining", "electra", {}),
    ("ElectraForMaskedLM", "electra", {"discriminator_or_generator": "generator"}),
]


@pytest.mark.parametrize(("name", "family", "options"), TF1, ids=[row[0] for row in TF1])
def test_a_tensorflow_1_checkpoint_is_read_by_transformers(
    name: str, family: str, options: dict[str, str], tmp_path: Path
) -> None:
    settings, model = build_torch(name)
    source, made, back = tmp_path / "model.pth", tmp_path / "model.ckpt", tmp_path / "back.pth"
    torch.save(model.state_dict(), source)
    assert wtool.convert(str(source), str(made), to="tensorflow", container="tensorflow").ok

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    torch.manual_seed(7)
    other = type(model)(settings).eval()
    getattr(module, f"load_tf_weights_in_{family}")(other, settings, str(made), **options)
    other.tie_weights()
    assert_equal_outputs(run_torch(other, name), run_torch(model, name))

    assert wtool.convert(str(made), str(back), to="torch").ok
    assert_same_tensors(wtool.open(back), wtool.open(source))


def test_a_broken_tie_is_refused_and_named(tmp_path: Path) -> None:
    _, model = build_torch("BertForPreTraining")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["cls.predictions.decoder.weight"][0, 0] += 1
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UnsupportedError, match=r"cls\.predictions\.decoder\.weight"):
        wtool.convert(str(tmp_path / "model.pth"), str(tmp_path / "bert.index"), to="tensorflow")
    assert not list(tmp_path.glob("bert*"))
