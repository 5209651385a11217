"""How pictures lie in what a Keras model's layers take and give, as its configuration states it.

PyTorch has the channels of a picture first, Keras last. Where a picture becomes a vector (Flatten)
or a vector a picture (Reshape), the order of axes becomes one of the vector's elements, and the
Dense beside it holds its rows, or columns, in it. No weight states that; a configuration does.

What it leaves open stays open: a layer that is not known here, pictures that no convolution has
made, two calls that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wtool.dialects.keras_classes import MAX_CONFIG_DEPTH
from wtool.dialects.keras_graph import Call, Graph, Place, Shape, read_graph, without_batch
from wtool.dialects.keras_shapes import count_of, joined, recurrent_shape, reshaped, size_of
from wtool.dialects.keras_windows import (
    CONVOLUTIONS,
    POOLINGS,
    RESIZINGS,
    is_first,
    shape_behind,
)

# A model that calls models that call models multiplies: what is larger is not followed.
MAX_CALLS = 200_000
# How the axes of a value lie in Keras, seen from PyTorch.
LAST = "channels last"  # a picture of a convolution: PyTorch has its channels first
ALIKE = "as in PyTorch"
GIVEN = "as given"  # an input of the model: a picture, if it has three axes
MADE = "made of a vector"
OPEN = "open"
MIXED = "mixed"  # a vector of which a part was flattened

# (C, H, W), () where the order is PyTorch's too, None where it is left open.
Order = tuple[int, ...] | None

_KEEPING = (
    "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Dropout", "SpatialDropout1D",
    "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Rescaling", "Identity", "Masking",
)  # fmt: skip
# These keep the order too, and hold one number for each channel, or each element of a vector.
_PER_CHANNEL = ("BatchNormalization", "GroupNormalization", "LayerNormalization", "PReLU")
_MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
_GLOBAL = tuple(f"Global{k}Pooling{n}D" for k in ("Max", "Average") for n in (1, 2, 3))


@dataclass(frozen=True)
class Value:
    """What one layer gives another. shape: without the batch.

    flat: the order and shape of the picture that this vector was. maker: the Dense that made this
    vector, or the vector that this was; holders: layers between that hold a number per element.
    """

    shape: Shape | None
    order: str
    flat: tuple[str, Shape | None] | None = None
    maker: str | None = None
    holders: tuple[str, ...] = ()

    def plain(self) -> Value:
        """The same numbers, which are no longer what a Dense made."""
        return replace(self, maker=None, holders=())


@dataclass
class Orders:
    """Path of a layer -> an Order. flattened, unflattened: of the pictures that a Dense's inputs
    were, or its outputs become. permuted: of those that the elements of another layer are of.

    A layer of which the configuration says nothing is in none.
    """

    flattened: dict[str, Order] = field(default_factory=dict)
    unflattened: dict[str, Order] = field(default_factory=dict)
    permuted: dict[str, Order] = field(default_factory=dict)


def orders_of(config: Any) -> Orders:
    """What a model's `{"class_name", "config"}` states; empty where it lists no layers."""
    walk = _Walk()
    if type(config) is dict and type(config.get("config")) is dict:
        walk.model(str(config.get("class_name")), config["config"], (), (), 0)
    if walk.calls > MAX_CALLS:
        return Orders()
    for path in walk.silent:
        if walk.orders.flattened.get(path) == ():
            del walk.orders.flattened[path]
    return walk.orders


class _Walk:
    """The values of one model, call by call."""

    def __init__(self) -> None:
        self.orders = Orders()
        self.silent: set[str] = set()
        self.graphs: dict[int, Graph | None] = {}
        self.calls = 0

    def model(
        self,
        class_name: str,
        config: Mapping[str, Any],
        given: tuple[Value, ...],
        around: tuple[str, ...],
        depth: int,
    ) -> tuple[Value, ...]:
        """The outputs of a model for these inputs; none where it cannot be followed."""
        # A model that is called again is read once.
        key = id(config)
        if key not in self.graphs:
            self.graphs[key] = read_graph(class_name, config)
        graph = self.graphs[key] if depth < MAX_CONFIG_DEPTH else None
        if graph is None or (depth and len(given) != len(graph.inputs)):
            return ()
        values: dict[Place, Value] = dict(zip(graph.inputs, given, strict=False))
        for call in graph.calls:
            self.calls += 1
            if self.calls > MAX_CALLS:
                return ()
            place = (call.name, call.number, 0)
            if call.class_name == "InputLayer":
                shape = call.config.get("batch_shape") or call.config.get("batch_input_shape")
                values.setdefault(place, Value(without_batch(shape), GIVEN))
                continue
            inputs = tuple(
                _with_shape(values.get(source, Value(None, OPEN)), shape)
                for source, shape in zip(call.inputs, call.shapes, strict=True)
            )
            if call.is_model:
                below = (*around, call.name)
                made = self.model(call.class_name, call.config, inputs, below, depth + 1)
                values.update({(call.name, call.number, i): v for i, v in enumerate(made)})
            else:
                values[place] = self._layer(call, inputs, "/".join((*around, call.name)))
        outputs = tuple(values.get(place, Value(None, OPEN)) for place in graph.outputs)
        if not depth:
            for value in outputs:
                self._use(value)
        return outputs

    def _layer(self, call: Call, inputs: tuple[Value, ...], path: str) -> Value:
        """What the layer gives; what its inputs say of it is noted."""
        kind, config = call.class_name, call.config
        if len(inputs) != 1:
            return self._merged(kind, config, inputs)
        value = inputs[0]
        if kind in _KEEPING or kind in _PER_CHANNEL:
            return self._held(path, value, kind) if kind in _PER_CHANNEL else value
        if kind in ("Flatten", "Reshape"):
            return self._reshaped(kind, config, value)
        if kind == "Dense":
            return self._dense(path, config, value)
        if kind in CONVOLUTIONS or kind in POOLINGS or kind in RESIZINGS:
            return self._picture(kind, config, value)
        self._use(value)
        shape = value.shape
        if kind in _GLOBAL and shape and config.get("keepdims") is not True:
            return Value((shape[0] if is_first(config) else shape[-1],), ALIKE)
        if kind == "Embedding":
            width = size_of(config.get("output_dim"))
            return Value(None if shape is None or width is None else (*shape, width), ALIKE)
        if kind == "Permute" and value.order == ALIKE and value.flat is None:
            return Value(None, ALIKE)
        if kind in _RECURRENT:
            self._note(self.orders.flattened, path, None if value.flat else ())
            return Value(recurrent_shape(config, shape), ALIKE)
        return Value(None, OPEN)

    def _merged(self, kind: str, config: Mapping[str, Any], inputs: tuple[Value, ...]) -> Value:
        for value in inputs:
            self._use(value)
        unknown = Value(None, OPEN, (MIXED, None) if any(v.flat for v in inputs) else None)
        if kind == "MultiHeadAttention" and inputs:
            return Value(inputs[0].shape, ALIKE)
        shapes = [value.shape for value in inputs if value.shape is not None]
        if len(shapes) != len(inputs) or len({(v.order, v.flat) for v in inputs}) != 1:
            return unknown
        first = inputs[0].plain()
        if kind in _MERGING and len(set(shapes)) == 1:
            return first
        if kind == "Concatenate" and first.flat is None:
            shape = joined(shapes, config.get("axis"))
            return unknown if shape is None else Value(shape, first.order)
        return unknown

    def _reshaped(self, kind: str, config: Mapping[str, Any], value: Value) -> Value:
        shape, order = value.shape, value.order
        target = (-1,) if kind == "Flatten" else reshaped(config.get("target_shape"), shape)
        if target is not None and len(target) == 1:
            if shape is not None and len(shape) == 1:
                return value
            if order in (MADE, OPEN):
                self._note(self.orders.unflattened, value.maker, None)
            if kind == "Flatten" and is_first(config):
                # Keras moves the channels last before it flattens.
                shape = None if shape is None else (*shape[1:], shape[0])
                order = LAST if order == ALIKE else OPEN
            return Value((count_of(shape),), order, (order, shape))
        if target is not None and shape is not None and len(shape) == 1 and value.flat is None:
            return replace(value, shape=target, order=MADE)
        self._note(self.orders.unflattened, value.maker, None)
        if order == ALIKE and value.flat is None:
            return Value(target, ALIKE)
        # A row of a picture, of all its channels: which of them come first differs.
        kept = shape is not None and target is not None and target[-1] in (shape[-1], None)
        one = order == GIVEN and shape is not None and shape[-1] == 1
        return Value(target, OPEN, None if kept or one else (MIXED, None))

    def _dense(self, path: str, config: Mapping[str, Any], value: Value) -> Value:
        self._use(value)
        width = size_of(config.get("units"))
        if value.shape is not None and len(value.shape) > 1:
            # Along the last axis, which is one of a picture's, or rows of it.
            self._note(self.orders.flattened, path, None if value.flat else ())
            return Value((*value.shape[:-1], width), OPEN if value.order == LAST else value.order)
        if value.flat is None and value.order == OPEN:
            self.silent.add(path)
        else:
            self._note(self.orders.flattened, path, _order_of(value))
        return Value((width,), ALIKE, maker=path)

    def _picture(self, kind: str, config: Mapping[str, Any], value: Value) -> Value:
        first = is_first(config)
        made = None if value.shape is None else shape_behind(kind, config, value.shape)
        if kind in CONVOLUTIONS:
            if value.order == MADE:
                chw = () if first else _channels_first(value.shape)
                self._note(self.orders.unflattened, value.maker, chw)
                for holder in value.holders:
                    self._note(self.orders.permuted, holder, chw)
            return Value(made, ALIKE if first else LAST)
        # A pooling says how Keras sees what no convolution has made, and no more.
        kept = value.order == MADE or value.order == (ALIKE if first else LAST)
        return replace(value, shape=made, order=value.order if kept else OPEN)

    def _held(self, path: str, value: Value, kind: str) -> Value:
        """Behind a layer with one number for each channel, or for each element of a vector."""
        if value.flat is None and value.maker is not None and value.order == ALIKE:
            return replace(value, holders=(*value.holders, path))
        self._note(self.orders.permuted, path, _order_of(value) if value.flat else ())
        if kind == "LayerNormalization" and value.order == LAST and value.flat is None:
            return replace(value, order=OPEN)  # PyTorch's may be over other axes
        return value

    def _use(self, value: Value) -> None:
        """What a Dense made is used as it is, or as a picture of which nothing states the order."""
        if value.maker is not None:
            order = () if value.order == ALIKE else _given(value.shape)
            self._note(self.orders.unflattened, value.maker, order)
            for holder in value.holders:
                self._note(self.orders.permuted, holder, order)

    def _note(self, found: dict[str, Order], path: str | None, order: Order) -> None:
        """Two calls that differ leave it open."""
        if path is not None:
            found[path] = order if found.get(path, order) == order else None


def _with_shape(value: Value, stated: Shape | None) -> Value:
    return value if stated is None else replace(value, shape=stated)


def _order_of(value: Value) -> Order:
    """How a vector lies."""
    if value.flat is None:
        return () if value.order in (ALIKE, GIVEN) else None
    order, shape = value.flat
    if order == ALIKE:
        return ()
    if order == GIVEN:
        return _given(shape)
    return _channels_first(shape) if order == LAST else None


def _given(shape: Shape | None) -> Order:
    """Of a picture that no convolution makes or takes: in one order only if it has one channel."""
    if shape is not None and (len(shape) <= 2 or _channels_first(shape) == ()):
        return ()
    return None


def _channels_first(shape: Shape | None) -> Order:
    """(H, W, C) as (C, H, W); () where both are one order, None where a size is not stated."""
    if not shape or None in shape or 0 in shape:
        return None
    sizes = tuple(size or 0 for size in shape)
    window = count_of(sizes[:-1])
    return () if 1 in (sizes[-1], window) else (sizes[-1], *sizes[:-1])
