"""What Keras's layer classes mean: the kind of a layer, and the names of its variables by index.

Keras 3 files store variables by number only; the class gives them names. Checked against Keras 3.15
by building each layer. A configuration, where the file has one, decides what the count leaves open;
it is read as data and never deserialised, as a Lambda layer's is code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_CONFIG_DEPTH = 64

_CONV = ("kernel", "bias")
_SEPARABLE = ("depthwise_kernel", "pointwise_kernel", "bias")
_CELL = ("kernel", "recurrent_kernel", "bias")
_NORM = ("gamma", "beta")

# Class -> (kind, names of its own variables in order).
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Dense": ("dense", _CONV),
    "EinsumDense": ("dense", _CONV),
    "Conv1D": ("conv", _CONV),
    "Conv2D": ("conv", _CONV),
    "Conv3D": ("conv", _CONV),
    "SeparableConv1D": ("conv", _SEPARABLE),
    "SeparableConv2D": ("conv", _SEPARABLE),
    "DepthwiseConv1D": ("depthwise", _CONV),
    "DepthwiseConv2D": ("depthwise", _CONV),
    "Conv1DTranspose": ("transposed_conv", _CONV),
    "Conv2DTranspose": ("transposed_conv", _CONV),
    "Conv3DTranspose": ("transposed_conv", _CONV),
    "Embedding": ("embedding", ("embeddings",)),
    "ReversibleEmbedding": ("embedding", ("embeddings", "reverse_embeddings")),
    "BatchNormalization": ("norm", (*_NORM, "moving_mean", "moving_variance")),
    "LayerNormalization": ("norm", _NORM),
    "GroupNormalization": ("norm", _NORM),
    "RMSNormalization": ("norm", ("scale",)),
    "Normalization": ("norm", ("mean", "variance", "count")),
    # A wrapper, which stores the kernel of its layer once more.
    "SpectralNormalization": ("unknown", ("kernel", "vector_u")),
    "Attention": ("attention", ("scale", "concat_score_weight")),
    "AdditiveAttention": ("attention", ("scale",)),
    "MultiHeadAttention": ("attention", ()),
    "GroupedQueryAttention": ("attention", ()),
    "GroupQueryAttention": ("attention", ()),
    "LSTM": ("recurrent", ()),
    "GRU": ("recurrent", ()),
    "SimpleRNN": ("recurrent", ()),
    "RNN": ("recurrent", ()),
    "Bidirectional": ("recurrent", ()),
    "ConvLSTM1D": ("recurrent", ()),
    "ConvLSTM2D": ("recurrent", ()),
    "ConvLSTM3D": ("recurrent", ()),
    "LSTMCell": ("recurrent", _CELL),
    "GRUCell": ("recurrent", _CELL),
    "SimpleRNNCell": ("recurrent", _CELL),
    "PReLU": ("unknown", ("alpha",)),
    "SeedGenerator": ("unknown", ("seed_generator_state",)),
}
# The parts that a class stores under the name of its attribute -> class of the part.
PARTS = {
    "query_dense": "EinsumDense",
    "key_dense": "EinsumDense",
    "value_dense": "EinsumDense",
    "output_dense": "EinsumDense",
    "_query_dense": "EinsumDense",
    "_key_dense": "EinsumDense",
    "_value_dense": "EinsumDense",
    "_output_dense": "EinsumDense",
    "cell": "LSTMCell",
    "seed_generator": "SeedGenerator",
}
# What quantisation stores behind kernel and bias: of int8 the first, of int4 by blocks all three.
_INTEGER = ("{0}_scale", "{0}_zero", "g_idx")
_FLOAT8 = tuple(
    f"{values}_{what}"
    for values in ("inputs", "kernel", "outputs_grad")
    for what in ("scale", "amax_history")
)
_QUANTISED = {
    "Dense": _CONV,
    "EinsumDense": _CONV,
    "Embedding": ("embeddings",),
    "ReversibleEmbedding": ("embeddings",),
}
# Which variables exist, where flags of the configuration say so: class -> {variable: flag}.
_SWITCHES = {
    "BatchNormalization": {"gamma": "scale", "beta": "center"},
    "LayerNormalization": {"gamma": "scale", "beta": "center"},
    "GroupNormalization": {"gamma": "scale", "beta": "center"},
    "Attention": {"scale": "use_scale"},
}


def to_snake_case(name: str) -> str:
    """A class name as Keras makes a group name of it: BatchNormalization -> batch_normalization."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


BY_SNAKE_CASE = {to_snake_case(name): name for name in CLASSES}


def class_of_group(group: str) -> str | None:
    """The class that an automatic group name ("conv2d_1") comes from; None for another name."""
    return PARTS.get(group) or class_of_name(group)


def class_of_name(name: str) -> str | None:
    """The class that an automatic name of a layer ("conv2d_1") comes from; None for another."""
    return BY_SNAKE_CASE.get(re.sub(r"_\d+$", "", name))


def variable_names(
    class_name: str | None, count: int, config: Mapping[str, Any] | None = None
) -> list[str] | None:
    """Names of the `count` variables of a layer; None where class and configuration do not tell."""
    names = CLASSES[class_name][1] if class_name in CLASSES else ()
    switches = _SWITCHES.get(class_name or "", {})
    if config is not None:
        names = tuple(n for n in names if config.get(switches.get(n, ""), True) is not False)
    elif class_name == "BatchNormalization" and count == 2:
        # Neither scale nor shift: the statistics are always there.
        names = ("moving_mean", "moving_variance")
    elif class_name == "BatchNormalization" and count == 3:
        # A scale or a shift, which the file does not tell, before the statistics.
        names = ("0", "moving_mean", "moving_variance")
    elif switches and count != len(names):
        return None
    return list(names[:count]) if 0 < count <= len(names) else None


def quantised_names(class_name: str | None, count: int, dtype: str | None) -> list[str] | None:
    """Names of the variables of a quantised layer, None of any other; dtype: of the first of them.

    A kernel of int8 has its scale behind it, an odd one of several is the bias. Source: Keras 3.15,
    `variable_serialization_spec`.
    """
    own = _QUANTISED.get(class_name or "", ())
    if dtype == "int8" and own:
        has_bias = len(own) == 2 and count % 2 == 1
        names = (*own[: 1 + has_bias], *(name.format(own[0]) for name in _INTEGER))
        # Keras stores the zero points of blocks and their index together, or neither; four of a
        # reversible embedding may be two tables as well.
        sizes = (2,) if class_name == "ReversibleEmbedding" else (2, 4)
        return list(names[:count]) if count - has_bias in sizes else None
    if own == _CONV and count in (len(_FLOAT8) + 1, len(_FLOAT8) + 2):
        return [*own[: count - len(_FLOAT8)], *_FLOAT8]
    return None


def kind_of_class(class_name: str | None) -> str | None:
    """The kind of a layer of that class; None where it has none of its own."""
    kind = CLASSES[class_name][0] if class_name in CLASSES else "unknown"
    return None if kind == "unknown" else kind


def kind_of_variable(name: str, kind: str | None) -> str | None:
    """The kind of the variable `name` of a layer of that kind; a separable one has two parts."""
    return "depthwise" if kind == "conv" and name == "depthwise_kernel" else kind


def layers_of(config: Any) -> Iterator[tuple[tuple[str, ...], str, Mapping[str, Any]]]:
    """(names of the models and wrappers around it, class name, configuration) of every layer.

    `config` is a `{"class_name", "config"}` object; the configuration holds the layer's name. What
    has another form is passed over.
    """
    pending: list[tuple[Any, tuple[str, ...], int]] = [(config, (), 0)]
    while pending:
        layer, around, depth = pending.pop()
        inner = layer.get("config") if type(layer) is dict else None
        class_name = layer.get("class_name") if type(layer) is dict else None
        if type(inner) is not dict or type(class_name) is not str or depth > MAX_CONFIG_DEPTH:
            continue
        if depth:
            yield around, class_name, inner
        name = inner.get("name")
        path = (*around, str(name)) if depth and type(name) is str else around
        below = inner.get("layers")
        children = below if type(below) is list else []
        pending.extend((child, path, depth + 1) for child in reversed(children))
