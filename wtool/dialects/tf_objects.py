"""Names and roles of a TensorFlow checkpoint's tensors, from its object graph where it has one.

A variable's own name ("d1/kernel") is what people know it by, and all that stays the same when
other things are saved beside it. It need not be unique: then the path in the object graph is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wtool.checkpoint import Tensor
from wtool.dialects.tf_extents import BundleExtent, BundleStrings
from wtool.dialects.tf_object_graph import (
    BOOKKEEPING_EDGES,
    Node,
    Place,
    escape_name,
    node_path,
    read_graph,
    walk,
)
from wtool.errors import MalformedInput, UnsafeInput, WtoolError, counted
from wtool.extents import Extent

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
_ATTRIBUTES = "/.ATTRIBUTES/"
# All paths together; long names over a long way to many variables would multiply.
MAX_PATH_CHARACTERS = 64 << 20
# Where Keras 3's optimizers list the model's own weights.
_WEIGHTS_OF_OPTIMIZER = "_trainable_variables"
# Keras 3's export stores each variable under this list once more.
_EXPORT_LIST = "_all_variables"
_AVERAGES = frozenset(("_model_variables_moving_average", "average", "ema"))
# What a layer of Keras calls its variables, for those that share their name with others: a path
# such as "variables/3" tells nothing of what a variable is.
_ROLES_BY_OWN_NAME = {
    **dict.fromkeys(("kernel", "recurrent_kernel", "embeddings", "gamma"), "weight"),
    **dict.fromkeys(("depthwise_kernel", "pointwise_kernel"), "weight"),
    **dict.fromkeys(("bias", "beta"), "bias"),
    **dict.fromkeys(("moving_mean", "moving_variance", "seed_generator_state"), "buffer"),
}


@dataclass(frozen=True)
class Named:
    """What `name_tensors` gives: tensors in key order, extras and notes for the Checkpoint.

    own_names: the variables' own names, parallel to `tensors`; "" where a value has none.
    """

    tensors: list[Tensor]
    own_names: list[str]
    extras: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Value:
    """A stored value with what the graph knows about it."""

    key: str
    extent: Extent
    full_name: str = ""
    path: tuple[str, ...] = ()
    role: str | None = None


def name_tensors(stored: Sequence[tuple[str, Extent]]) -> Named:
    """Tensors with human names and the roles that the file states; `key` stays the stored key.

    A file without an object graph is named by its keys. Raises MalformedInput where the graph is
    broken or names keys that the file does not have.
    """
    graph = next((extent for key, extent in stored if key == GRAPH_KEY), None)
    if graph is None:
        tensors = [Tensor(key, key, extent, _own_role(key, extent)) for key, extent in stored]
        return Named(tensors, [key for key, _ in stored])
    try:
        if not isinstance(graph, BundleStrings) or graph.shape != ():
            raise MalformedInput(
                "object graph is not one string", found=f"{graph.dtype.name} {list(graph.shape)}"
            )
        values = _describe(stored, read_graph(graph.strings()[0]))
    except WtoolError as error:
        raise error.locate(tensor=GRAPH_KEY) from None
    duplicates = _duplicates(values)
    kept = [value for value in values if value.key not in duplicates]
    names = _names(kept)
    tensors = [
        Tensor(name, value.key, value.extent, _role(name, value), path=value.path)
        for name, value in zip(names, kept, strict=True)
    ]
    own_names = [value.full_name for value in kept]
    if not duplicates:
        return Named(tensors, own_names)
    name_of = {tensor.key: tensor.name for tensor in tensors}
    aliases = {alias: name_of[owner] for alias, owner in duplicates.items()}
    alias, owner = next(iter(aliases.items()))
    repeated = counted(len(aliases), "value is", "values are")
    note = (
        f"{repeated} stored twice, with the same name, size and checksum; "
        f"shown once, for example {alias} as {owner}"
    )
    return Named(tensors, own_names, {"duplicates": aliases}, (note,))


def _describe(stored: Sequence[tuple[str, Extent]], nodes: list[Node]) -> list[_Value]:
    values = {key: _Value(key, extent, role=_own_role(key, extent)) for key, extent in stored}
    values[GRAPH_KEY].path = (GRAPH_KEY,)
    places = walk(nodes)
    averages = {
        child
        for node in nodes
        for holder, local_name in node.children
        if local_name in _AVERAGES
        for child, _ in nodes[holder].children
    }
    characters = 0
    owned: set[str] = set()
    for number, node in enumerate(nodes):
        for attribute, full_name, key in node.values:
            value = values.get(key)
            if value is None and attribute == VALUE:
                raise MalformedInput(
                    "object graph names a value that is not in the index", found=repr(key)
                )
            # Iterators are named without a key of their own.
            if value is None or key in owned or number not in places:
                continue
            owned.add(key)
            place = places[number]
            path = node_path(places, number)
            characters += sum(map(len, path)) + len(path)
            if characters > MAX_PATH_CHARACTERS:
                raise UnsafeInput("object graph has too long paths")
            value.full_name = full_name if attribute == VALUE else ""
            value.path = path if attribute == VALUE else (*path, attribute)
            if value.role is None:
                value.role = _stated_role(place, path, places) if attribute == VALUE else "other"
                if number in averages:
                    value.role = "ema"
    return list(values.values())


def _stated_role(place: Place, path: tuple[str, ...], places: dict[int, Place]) -> str | None:
    """The role that the graph states; None where it states none."""
    if path == ("save_counter",):
        return "other"
    if place.slot:
        return "ema" if place.slot in _AVERAGES else "optimizer"
    if place.optimizer >= 0:
        below = path[places[place.optimizer].depth :]
        if below[:1] == (_WEIGHTS_OF_OPTIMIZER,):
            return None
        return "ema" if below and below[0] in _AVERAGES else "optimizer"
    return "other" if BOOKKEEPING_EDGES.intersection(path) else None


def _role(name: str, value: _Value) -> str | None:
    """The role that the file states; by the variable's own name where another is shown."""
    if value.role is not None or name == value.full_name:
        return value.role
    return _ROLES_BY_OWN_NAME.get(value.full_name.rpartition("/")[2])


def _own_role(key: str, extent: Extent) -> str | None:
    """Strings, iterators, resources and what a table or dataset saves of itself are no weights."""
    attribute = key.rpartition(_ATTRIBUTES)[2] if _ATTRIBUTES in key else VALUE
    other = extent.dtype.kind in ("string", "opaque") or attribute != VALUE
    return "other" if other else None


def _duplicates(values: list[_Value]) -> dict[str, str]:
    """Key of a value that an export stores again -> key of the value that it repeats."""
    repeats: dict[tuple[object, ...], list[str]] = {}
    firsts: dict[tuple[object, ...], list[str]] = {}
    for value in values:
        extent = value.extent
        if value.full_name and isinstance(extent, BundleExtent) and extent.crc32c:
            identity = (value.full_name, extent.dtype.name, extent.shape, extent.crc32c)
            group = repeats if _EXPORT_LIST in value.path else firsts
            group.setdefault(identity, []).append(value.key)
    return {
        alias: owner
        for identity, aliases in repeats.items()
        for alias, owner in zip(aliases, firsts.get(identity, ()), strict=False)
    }


def _names(values: list[_Value]) -> list[str]:
    """One unique name each: the variable's own, else its path, else its key."""
    own = Counter(value.full_name for value in values)
    paths = ["/".join(map(escape_name, value.path)) for value in values]
    unique = {name for name, times in own.items() if times == 1}
    path_times = Counter(
        path
        for path, value in zip(paths, values, strict=True)
        if not value.full_name or own[value.full_name] > 1
    )
    names: list[str] = []
    for path, value in zip(paths, values, strict=True):
        if value.full_name and own[value.full_name] == 1:
            names.append(value.full_name)
        elif path and path_times[path] == 1 and path not in unique:
            names.append(path)
        else:
            names.append(value.key)
    # A key can be another value's name or path; then all of them go by their keys.
    if len(set(names)) < len(names):
        return [value.key for value in values]
    return names
