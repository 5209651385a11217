"""Whether the tensors of a file lie in the order in which the model defines its layers."""

from __future__ import annotations

import re

from wtool.checkpoint import BESIDE_MODEL, Checkpoint, Tensor

# Formats in which variables lie below `layers/CLASS_NUMBER/vars`.
_BY_CLASS = ("keras_weights_h5", "keras_archive", "keras_shards")
# What Keras's own layers hold below their number; "" is what lies in the layer itself.
_ATTRIBUTES = {
    "", "cell", "layer", "forward_layer", "backward_layer",
    "query_dense", "key_dense", "value_dense", "output_dense",
}  # fmt: skip


def in_stored_order(checkpoint: Checkpoint) -> bool:
    """Whether layers of one kind lie in the order in which the model defines them, as far as can
    be known.

    PyTorch's and Keras's own files keep it; safetensors files and TensorFlow's index are sorted by
    name, and what else is sorted may be so by chance. A `.weights.h5` numbers the layers of a
    class, but sorts what else a class of the user's own holds.
    """
    if checkpoint.format in _BY_CLASS:
        return not any(_is_attribute(tensor) for tensor in checkpoint)
    if checkpoint.format.startswith(("torch", "keras")):
        return True
    names = [tensor.name for tensor in checkpoint]
    return checkpoint.format not in ("safetensors", "tensorflow") and names != sorted(names)


def in_model_order(checkpoint: Checkpoint) -> bool:
    """Whether layers of different kinds, too, lie in the order in which the model defines them; a
    `.weights.h5` groups them by class.
    """
    return checkpoint.format not in _BY_CLASS and in_stored_order(checkpoint)


def _is_attribute(tensor: Tensor) -> bool:
    """Whether the variable lies below an attribute that no layer of Keras's own has."""
    folder, vars_, _ = tensor.key.rpartition("/vars/")
    if not vars_ or tensor.role in BESIDE_MODEL:
        return False
    below = re.sub(r"^(?:layers/[^/]+(?:/|$))+", "", folder)
    return not set(below.split("/")) <= _ATTRIBUTES
