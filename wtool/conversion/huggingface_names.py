"""What Hugging Face's TensorFlow classes call their variables, and what PyTorch calls the same.

The rules of transformers' own loader (`modeling_tf_pytorch_utils`, transformers 4.57):

- level zero, the class's own scope (`tf_bert_model`), is dropped
- `_._` within a level begins a new one: `layer_._0` is `layer.0`
- `new___old` is `old`
- `kernel`, `embeddings` and `gamma` are `weight`, `beta` is `bias`, and so on: see LEAVES
- a bare model has not the first level that the classes with a head have
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

# Leaf of a TensorFlow variable -> leaf in PyTorch, where they differ.
LEAVES = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "depthwise_kernel": "depthwise.weight",
    "pointwise_kernel": "pointwise.weight",
    # A weight normalisation, as torch has named it since 2.0.
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
# Leaves of a weight normalisation, the same in TensorFlow and in torch before 2.0.
OLD_NORM = ("weight_g", "weight_v")
_BARE = re.compile(r"tf.*model(_\d+)?")
# Heads that share no matrix: all that they have is seen in TensorFlow's names.
_PLAIN_HEADS = re.compile(
    r"for_(sequence|token|image)_classification|for_question_answering|for_multiple_choice"
    r"|for_next_sentence_prediction|for_pre_training"
)
# Layers of TensorFlow's classes with a head that their heads do not read, and that PyTorch's do not
# have: (name in PyTorch, scopes of the classes whose head reads it, why it is left out).
_UNREAD = (
    (
        re.compile(r"mpnet\.pooler\.dense\.(weight|bias)"),
        re.compile(r"for_multiple_choice|_model(_\d+)?$"),
        "a pooler that this head does not read; only TensorFlow's class has it",
    ),
)
# Names whose shape in PyTorch is another, by the class: TensorFlow's names do not say which.
_DOUBTFUL = re.compile(
    r"(.+\.)?logit_scale"  # CLIP's is a scalar in PyTorch, one row in TensorFlow
    r"|swiftformer\..*\.layer_scale(_[12])?"  # columns in PyTorch
    r"|.*_\._.*"  # Sam's lists of variables, of which PyTorch has one more
)


@dataclass(frozen=True)
class Named:
    """A tensor of the TensorFlow side; its module in PyTorch, and its leaf in TensorFlow.

    old_norm: the file is of a time when torch named a weight normalisation as TensorFlow does.
    """

    tensor: Tensor
    module: str
    leaf: str
    old_norm: bool = False

    @property
    def torch_name(self) -> str:
        """Its name in a state dict."""
        own = self.old_norm and self.leaf in OLD_NORM
        leaf = self.leaf if own else LEAVES.get(self.leaf, self.leaf)
        return f"{self.module}.{leaf}" if self.module else leaf


def is_huggingface(checkpoint: Checkpoint) -> bool:
    """Whether the names are those of a TensorFlow class of transformers, by their own marks."""
    if checkpoint.format != "keras_h5" and checkpoint.metadata.get("format") != "tf":
        return False
    marked = any("_._" in tensor.name or "___" in tensor.name for tensor in checkpoint)
    return marked or scope_of(checkpoint).startswith("tf")


def scope_of(checkpoint: Checkpoint) -> str:
    """The level zero that most variables of a legacy HDF5 file share, "" elsewhere."""
    if checkpoint.format != "keras_h5":
        return ""
    levels = Counter(t.key.split("/")[1] for t in checkpoint if t.key.count("/") > 1)
    return levels.most_common(1)[0][0] if levels else ""


def is_bare(scope: str) -> bool:
    """Whether the class of that scope is a model without a head."""
    return _BARE.fullmatch(scope) is not None and "head" not in scope


def has_plain_head(scope: str) -> bool:
    """Whether the class of that scope has a head that shares no matrix with the model."""
    return _PLAIN_HEADS.search(scope) is not None


def name_tensors(checkpoint: Checkpoint) -> Iterator[Named]:
    """Every tensor of the model, with its name in the PyTorch class that has a head."""
    legacy = checkpoint.format == "keras_h5"
    for tensor in checkpoint:
        if tensor.role in BESIDE_MODEL:
            continue
        levels = tensor.name.removesuffix(":0").split("/")
        if legacy and tensor.key.count("/") > 1:
            # The group of the layer and level zero, then the name.
            levels = tensor.key.removesuffix(":0").split("/")[2:]
        *levels, leaf = levels
        kept = [level.rpartition("___")[2].replace("_._", ".") for level in levels]
        yield Named(tensor, ".".join(level for level in kept if level), leaf)


def with_old_norms(named: Sequence[Named]) -> list[Named]:
    """The names in a file that torch wrote before 2.0."""
    return [replace(one, old_norm=True) for one in named]


def without_base(named: Sequence[Named]) -> list[Named]:
    """The names in a bare model: without the first level, where all share it."""
    if len({one.module.partition(".")[0] for one in named}) != 1:
        return list(named)
    return [Named(one.tensor, one.module.partition(".")[2], one.leaf) for one in named]


def reason_unread(one: Named, scope: str) -> str | None:
    """Why PyTorch's class of that scope has no such tensor; None where it has."""
    for name, readers, reason in _UNREAD:
        if name.fullmatch(one.torch_name) and not readers.search(scope):
            return reason
    return None


def is_doubtful(one: Named) -> bool:
    """Whether the name or the shape in PyTorch does not follow from TensorFlow's."""
    return one.tensor.shape != () and _DOUBTFUL.fullmatch(one.torch_name) is not None
