"""The calls of a Keras model's layers, in the order in which values flow, from its configuration.

A functional model lists the calls of each layer with where their inputs come from; a sequential one
is a chain. Keras 3 states the shapes of inputs too, Keras 2 only in `.keras` files. The
configuration is data from anywhere: what has another form makes the model one of unknown calls.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Shape = tuple[int | None, ...]
# (name of a layer, which of its calls, which of the outputs of that).
Place = tuple[str, int, int]
_MODELS = ("Functional", "Model", "Sequential")


@dataclass(frozen=True)
class Call:
    """One call of a layer. inputs: where they come from; shapes: of the inputs, without the batch,
    None where the configuration does not state them.
    """

    name: str
    number: int
    class_name: str
    config: Mapping[str, Any]
    inputs: tuple[Place, ...]
    shapes: tuple[Shape | None, ...]

    @property
    def is_model(self) -> bool:
        """Whether the layer is a model of layers of its own."""
        return self.class_name in _MODELS and type(self.config.get("layers")) is list


@dataclass(frozen=True)
class Graph:
    """calls: each after those that it takes its inputs from. inputs, outputs: of the model."""

    calls: tuple[Call, ...]
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]


def read_graph(class_name: str, config: Mapping[str, Any]) -> Graph | None:
    """The calls of a functional or sequential model; None where the configuration lists none."""
    layers = [layer for layer in map(_layer, _list(config.get("layers"))) if layer is not None]
    if class_name not in _MODELS or len(layers) != len(_list(config.get("layers"))) or not layers:
        return None
    if class_name == "Sequential":
        return _chain(layers, config)
    calls = [
        call
        for name, kind, settings, layer in layers
        for call in _calls(name, kind, settings, layer)
    ]
    inputs, outputs = (_places(config.get(key)) for key in ("input_layers", "output_layers"))
    ordered = _in_order(_renumbered(calls, outputs))
    return None if ordered is None else Graph(tuple(ordered), inputs, outputs)


def without_batch(shape: Any) -> Shape | None:
    """A stated shape without its first axis; None for what is none."""
    if type(shape) is not list or not shape or len(shape) > 16:
        return None
    if not all(size is None or (type(size) is int and size >= 0) for size in shape):
        return None
    return tuple(shape[1:])


def _list(value: Any) -> list[Any]:
    return value if type(value) is list else []


def _layer(layer: Any) -> tuple[str, str, Mapping[str, Any], Mapping[str, Any]] | None:
    """(name, class, configuration, the whole entry). A class that is not Keras's own is ""."""
    if type(layer) is not dict or type(layer.get("config")) is not dict:
        return None
    config = layer["config"]
    name, class_name = layer.get("name", config.get("name")), layer.get("class_name")
    if type(name) is not str or type(class_name) is not str:
        return None
    module, registered = layer.get("module", "keras.layers"), layer.get("registered_name")
    own = type(module) is str and module.split(".")[0] in ("keras", "tf_keras")
    # Functions of keras.ops are entries too, some under the names of layers.
    is_function = own and ".ops" in module
    is_known = own and not is_function and registered in (None, class_name)
    return name, class_name if is_known else "", config, layer


def _chain(
    layers: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]], config: Mapping[str, Any]
) -> Graph:
    """A sequential model: its first layer, or what Keras adds before it, is its input."""
    calls: list[Call] = []
    if layers[0][1] != "InputLayer":
        given = config.get("build_input_shape") or layers[0][2].get("batch_input_shape")
        calls.append(Call("", 0, "InputLayer", {"batch_shape": given}, (), ()))
    for name, class_name, settings, layer in layers:
        before = ((calls[-1].name, 0, 0),) if calls else ()
        shapes = (_built_shape(layer),) if before else ()
        calls.append(Call(name, 0, class_name, settings, before, shapes))
    return Graph(tuple(calls), ((calls[0].name, 0, 0),), ((calls[-1].name, 0, 0),))


def _built_shape(layer: Mapping[str, Any]) -> Shape | None:
    built = layer.get("build_config")
    return without_batch(built.get("input_shape")) if type(built) is dict else None


def _calls(
    name: str, class_name: str, config: Mapping[str, Any], layer: Mapping[str, Any]
) -> Iterator[Call]:
    nodes = _list(layer.get("inbound_nodes"))
    if not nodes:
        yield Call(name, 0, class_name, config, (), ())
    for number, node in enumerate(nodes):
        found = list(_node_inputs(node))
        shapes = tuple(shape for _, shape in found)
        if len(nodes) == len(found) == 1 and shapes == (None,):
            shapes = (_built_shape(layer),)
        yield Call(name, number, class_name, config, tuple(p for p, _ in found), shapes)


def _node_inputs(node: Any) -> Iterator[tuple[Place, Shape | None]]:
    """Where the inputs of one call come from: Keras 3's tensors with shapes, or Keras 2's lists."""
    pending = [node]
    while pending:
        item = pending.pop()
        if type(item) is dict:
            inner = item.get("config")
            if item.get("class_name") == "__keras_tensor__" and type(inner) is dict:
                place = _place(inner.get("keras_history"))
                if place is not None:
                    yield place, without_batch(inner.get("shape"))
            else:
                pending.extend(reversed(list(item.values())))
        elif type(item) is list:
            place = _place(item)
            if place is not None:
                yield place, None
                pending.extend(reversed(item[3:]))
            else:
                pending.extend(reversed(item))


def _place(value: Any) -> Place | None:
    if type(value) is not list or len(value) < 3:
        return None
    name, call, output = value[:3]
    if type(name) is str and type(call) is int and type(output) is int:
        return name, call, output
    return None


def _places(value: Any) -> tuple[Place, ...]:
    """A model's inputs or outputs: one place, or a list of them."""
    alone = _place(value)
    rows = [alone] if alone is not None else [_place(item) for item in _list(value)]
    return tuple(place for place in rows if place is not None)


def _renumbered(calls: list[Call], outputs: tuple[Place, ...]) -> list[Call]:
    """Keras 2 counts how a model was built as its call 0, and does not list it."""
    used: dict[str, set[int]] = {}
    for place in (*outputs, *(place for call in calls for place in call.inputs)):
        used.setdefault(place[0], set()).add(place[1])
    counts = Counter(call.name for call in calls if call.is_model)
    late = {n for n, count in counts.items() if used.get(n) and min(used[n]) == 1 <= count}
    late = {n for n in late if max(used[n]) == counts[n]}
    return [replace(c, number=c.number + 1) if c.name in late else c for c in calls]


def _in_order(calls: list[Call]) -> list[Call] | None:
    """The calls, each after its inputs; None where one waits for what never comes."""
    known = {(call.name, call.number): call for call in calls}
    waiting: dict[tuple[str, int], int] = {}
    waited: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for key, call in known.items():
        needed = {place[:2] for place in call.inputs}
        waiting[key] = len(needed)
        for place in needed:
            waited.setdefault(place, []).append(key)
    ready = deque(key for key, count in waiting.items() if count == 0)
    ordered = []
    while ready:
        key = ready.popleft()
        ordered.append(known[key])
        for later in waited.get(key, ()):
            waiting[later] -= 1
            if waiting[later] == 0:
                ready.append(later)
    return ordered if len(ordered) == len(known) == len(calls) else None
