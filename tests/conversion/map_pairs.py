"""Pairs of models of which is known which tensor is which: what `wtool map` is scored on.

The truth of a published model is the preset that other tests prove by running both models; that of
the trained fixtures is written here, and proven by their accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_zoo import make_pairs
from model_zoo import FIRST_PAIRS, PAIRS, keras_rows, make_checkpoint, torch_rows

import wtool
from wtool.checkpoint import Checkpoint
from wtool.conversion.presets import find_preset, preset_rows

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
# Of the tensors of side a, those of side b that hold their values.
Truth = Mapping[str, frozenset[str]]
# Classes of transformers, each with its TensorFlow class.
HUGGING_FACE = (
    "BertForPreTraining", "DistilBertForMaskedLM", "RobertaForMaskedLM", "ElectraForPreTraining",
    "AlbertForPreTraining", "MobileBertForPreTraining", "DebertaV2ForTokenClassification",
    "GPT2LMHeadModel", "T5ForConditionalGeneration", "BartModel", "ViTForImageClassification",
    "ResNetForImageClassification", "ConvNextForImageClassification", "ConvNextV2Model",
)  # fmt: skip
TENSORFLOW_1 = ("BertForPreTraining", "AlbertForPreTraining", "ElectraForPreTraining")
CNN = ("weights.h5", "keras", "keras3.h5", "keras2-weights.h5", "tf", "keras2-tf", "tf1")
TRAINED = {
    **{("digits-cnn", ending): f"digits-cnn-{ending}" for ending in CNN[2:]},
    **{("digits-cnn", ending): f"digits-cnn.{ending}" for ending in CNN[:2]},
    **{("topics-rnn", ending): f"topics-rnn.{ending}" for ending in ("weights.h5", "keras")},
    ("topics-rnn", "tf"): "topics-rnn-tf",
    ("digits-transformer", "weights.h5"): "digits-transformer.weights.h5",
    ("digits-transformer", "tf"): "digits-transformer-tf",
}
_LEAVES = {
    "weight": ("kernel", "depthwise_kernel", "gamma", "embeddings"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}
_QKV = ("query", "key", "value")


@dataclass(frozen=True)
class Pair:
    """A PyTorch checkpoint, its counterpart, and which tensor is which."""

    name: str
    a: Checkpoint
    b: Checkpoint
    truth: Truth

    def sorted(self) -> Pair:
        """The same in files that keep no order: safetensors, TensorFlow's index."""
        return dataclasses.replace(
            self, a=_sorted(self.a, "safetensors"), b=_sorted(self.b, "tensorflow")
        )


def applications(names: Sequence[str] = FIRST_PAIRS) -> Iterator[Pair]:
    """torchvision and timm with keras.applications."""
    sources = torch_rows(tuple(names))
    targets = keras_rows(tuple(PAIRS[name] for name in names))
    for name in names:
        a = make_checkpoint(sources[name], "torch-zip")
        b = make_checkpoint(targets[PAIRS[name]], "keras_weights_h5")
        yield Pair(name, a, b, preset_truth(a, b))


def hugging_face(folder: Path, names: Sequence[str] = HUGGING_FACE) -> Iterator[Pair]:
    """PyTorch classes of transformers with its TensorFlow classes; `folder` holds their files."""
    make_pairs(folder, names)
    for name in names:
        a, b = wtool.open(folder / f"{name}.pth"), wtool.open(folder / f"{name}.h5")
        yield Pair(f"{name} TF", a, b, preset_truth(a, b))


def tensorflow_1(folder: Path, names: Sequence[str] = TENSORFLOW_1) -> Iterator[Pair]:
    """PyTorch classes of transformers with Google's TensorFlow 1 checkpoints."""
    make_pairs(folder, names)
    for name in names:
        source, made = folder / f"{name}.pth", folder / f"{name}.ckpt"
        wtool.convert(str(source), str(made), to="tensorflow", container="tensorflow", force=True)
        a, b = wtool.open(source), wtool.open(made)
        yield Pair(f"{name} TF1", a, b, preset_truth(a, b))


def trained(names: Mapping[tuple[str, str], str] = TRAINED) -> Iterator[Pair]:
    """The trained fixtures of both frameworks, in every container; trained apart."""
    for (model, ending), file in names.items():
        a, b = wtool.open(FIXTURES / f"{model}.pth"), wtool.open(FIXTURES / file)
        truth = {name: frozenset(_twins(name, b)) for name in a.tensors}
        yield Pair(f"{model} {ending}", a, b, {n: found for n, found in truth.items() if found})


def preset_truth(a: Checkpoint, b: Checkpoint) -> Truth:
    """Which tensor is which by the preset that covers both."""
    preset = find_preset(a, b)
    if preset is None:
        raise LookupError(f"no preset covers {a.path} and {b.path}")
    truth = {}
    for row in preset_rows(preset, a, b):
        if row.get("a") and row.get("b"):
            for name in row["a"].split(", "):
                truth[name] = frozenset(row["b"].split(", "))
    # Any name of a shared tensor stands for it.
    for alias, owner in a.aliases.items():
        found = truth.get(owner) or truth.get(alias)
        truth.update({alias: found, owner: found} if found else {})
    return truth


def _twins(name: str, b: Checkpoint) -> Iterator[str]:
    """The tensors of a Keras fixture that hold what one of a PyTorch fixture holds."""
    module, _, leaf = name.rpartition(".")
    if name == "position":
        yield from (n for n in ("position/0", "position/embeddings") if n in b.tensors)
    elif module == "lstm":
        direction = "backward" if leaf.endswith("_reverse") else "forward"
        yield f"lstm/{direction}_cell/lstm_cell/{_cell_leaf(leaf)}"
    elif module == "gru":
        yield f"gru/gru_cell/{_cell_leaf(leaf)}"
    elif "self_attn" in module:
        layer = f"encoder_{module.split('.')[2]}_self_attn"
        leaf = "kernel" if leaf.endswith("weight") else "bias"
        parts = ("attention_output",) if module.endswith("out_proj") else _QKV
        yield from (f"{layer}/{part}/{leaf}" for part in parts)
    else:
        path = module.replace("encoder.layers.", "encoder_").replace(".", "_")
        found = (f"{path}/{twin}" for twin in _LEAVES.get(leaf, ()))
        yield from (twin for twin in found if twin in b.tensors)


def _cell_leaf(leaf: str) -> str:
    if leaf.startswith("bias"):
        return "bias"
    return "kernel" if leaf.startswith("weight_ih") else "recurrent_kernel"


def _sorted(checkpoint: Checkpoint, container: str) -> Checkpoint:
    tensors = dict(sorted(checkpoint.tensors.items()))
    return dataclasses.replace(checkpoint, tensors=tensors, format=container)
