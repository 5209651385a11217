"""Hugging Face's models to TensorFlow and back, judged by transformers' own loaders and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision_on_cpu import load_torchvision

import wtool
from wtool.checkpoint import Checkpoint

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5
load_torchvision()
SIZES = {
    "bert": {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 20,
    },
    "distilbert": {
        "vocab_size": 50,
        "dim": 24,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": 20,
    },
}
CLASSES = [
    ("bert", "BertModel"),
    ("bert", "BertForPreTraining"),
    ("bert", "BertForMaskedLM"),
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForQuestionAnswering"),
    ("distilbert", "DistilBertModel"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("distilbert", "DistilBertForSequenceClassification"),
]
IDS = np.random.default_rng(2).integers(1, 50, (2, 9))


def build(kind: str, name: str) -> tuple[Any, Any]:
    """(configuration, PyTorch model in evaluation mode with every parameter random)."""
    import transformers

    config = getattr(transformers, "BertConfig" if kind == "bert" else "DistilBertConfig")
    settings = config(**SIZES[kind])
    torch.manual_seed(6)
    model = getattr(transformers, name)(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return settings, model


def outputs_of(result: Any) -> list[np.ndarray]:
    """All tensors that a model of either framework gives, in order."""
    values = [value for value in result.to_tuple() if hasattr(value, "shape")]
    return [np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for v in values]


def run_torch(model: torch.nn.Module) -> list[np.ndarray]:
    with torch.no_grad():
        return outputs_of(model(torch.tensor(IDS)))


def assert_equal_outputs(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert [x.shape for x in found] == [x.shape for x in expected]
    for x, y in zip(found, expected, strict=True):
        assert np.abs(x - y).max() < TOLERANCE * max(1.0, np.abs(y).max())


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    assert set(found.tensors) == set(expected.tensors)
    for tensor in expected:
        assert found[tensor.name].load().tobytes() == tensor.load().tobytes(), tensor.name


@pytest.mark.parametrize(("kind", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_pytorch_to_tensorflow_class_and_back(kind: str, name: str, tmp_path: Path) -> None:
    import transformers

    settings, model = build(kind, name)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    twin = getattr(transformers, f"TF{name}")(settings)
    twin.build_in_name_scope()
    fresh = tmp_path / "fresh.h5"
    twin.save_weights(fresh)
    made = tmp_path / "tf_model.h5"
    report = wtool.convert(str(tmp_path / "model.pth"), str(made), to="keras", like=str(fresh))
    assert report.ok
    twin.load_weights(made)
    assert_equal_outputs(outputs_of(twin(IDS)), run_torch(model))

    back = tmp_path / "back.pth"
    assert wtool.convert(str(made), str(back), to="torch").ok
    assert_same_tensors(wtool.open(back), wtool.open(tmp_path / "model.pth"))
    again = build(kind, name)[1]
    again.load_state_dict(torch.load(back, weights_only=True))
    assert_equal_outputs(run_torch(again), run_torch(model))


def test_bert_as_a_tensorflow_1_checkpoint_is_read_by_transformers(tmp_path: Path) -> None:
    from transformers.models.bert.modeling_bert import load_tf_weights_in_bert

    settings, model = build("bert", "BertForPreTraining")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    made = tmp_path / "bert_model.ckpt"
    report = wtool.convert(
        str(tmp_path / "model.pth"), str(made), to="tensorflow", container="tensorflow"
    )
    assert report.ok
    names = set(wtool.open(made).tensors)
    assert "bert/encoder/layer_1/attention/self/query/kernel" in names
    assert "cls/seq_relationship/output_weights" in names

    import transformers

    torch.manual_seed(7)
    other = transformers.BertForPreTraining(settings).eval()
    load_tf_weights_in_bert(other, settings, str(made))
    other.tie_weights()
    assert_equal_outputs(run_torch(other), run_torch(model))

    back = tmp_path / "back.pth"
    assert wtool.convert(str(made), str(back), to="torch").ok
    assert_same_tensors(wtool.open(back), wtool.open(tmp_path / "model.pth"))


def test_a_broken_tie_is_refused_and_named(tmp_path: Path) -> None:
    from wtool.errors import UnsupportedError

    _, model = build("bert", "BertForPreTraining")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["cls.predictions.decoder.weight"][0, 0] += 1
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UnsupportedError, match=r"cls\.predictions\.decoder\.weight"):
        wtool.convert(str(tmp_path / "model.pth"), str(tmp_path / "bert.index"), to="tensorflow")
    assert not list(tmp_path.glob("bert*"))
