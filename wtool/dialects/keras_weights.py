"""Keras's `.weights.h5`: variables by number, brought back to the names of layers and variables.

`layers/conv2d_1/vars/0` becomes `c1/kernel`: the layer's name is an attribute of `vars` (Keras 3)
or follows from the order of layers in the configuration; the variable's follows from the class,
which the group is called after. What neither tells keeps the stored path: nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from wtool.checkpoint import Tensor
from wtool.dialects.keras_classes import (
    class_of_group,
    class_of_name,
    kind_of_class,
    kind_of_variable,
    layers_of,
    quantised_names,
    to_snake_case,
    variable_names,
)
from wtool.dialects.keras_entries import make_tensor
from wtool.encodings.hdf5_file import Dataset, Group, Hdf5File
from wtool.errors import MalformedInput, counted

VARS = "vars"
# The first component of a path that is no part of the model -> role of what is below.
_ROLES = {"optimizer": "optimizer", "metrics": "other", "compile_metrics": "other"}
# Layers whose variables are never learned; spectral normalisation repeats a kernel.
_NOT_LEARNED = ("SeedGenerator", "SpectralNormalization")


class Layer(NamedTuple):
    """What is known of one group with variables: its own name, its class, its configuration."""

    name: str | None
    class_name: str | None
    config: Mapping[str, Any] | None


def is_weights_file(root: Group) -> bool:
    """Whether numbered variables lie in groups called `vars`, as only Keras lays them out."""
    return any(
        group.path.rpartition("/")[2] == VARS and all(name.isdigit() for name in group.datasets)
        for group in walk(root)
    )


def walk(root: Group) -> Iterator[Group]:
    """`root` and all groups below it, in natural order: dense, dense_1, dense_2, dense_10."""
    pending = [root]
    while pending:
        group = pending.pop()
        yield group
        pending.extend(group.groups[name] for name in sorted(group.groups, key=_natural)[::-1])


def _natural(name: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"(.*?)_?([0-9]{1,9})", name)
    return (match.group(1), int(match.group(2)), name) if match else (name, -1, name)


def read_tensors(
    files: Iterable[tuple[str, Hdf5File]], config: Any = None
) -> tuple[list[Tensor], tuple[str, ...]]:
    """(the variables of all `files` as one model, notes); path and tree of each file.

    config: the model's `{"class_name", "config"}`, where the file has one.
    """
    found: list[tuple[str, Hdf5File, Dataset]] = []
    stated: dict[str, str] = {}
    for path, file in files:
        for group in walk(file.root):
            owner, _, last = group.path.rpartition("/")
            if last == VARS and "name" in group.attributes:
                stated.setdefault(owner, file.text(group.attributes["name"]))
            found.extend((path, file, dataset) for dataset in group.datasets.values())
    found.sort(key=lambda row: [_natural(part) for part in row[2].path.split("/")])
    counts = Counter(dataset.path.rpartition("/")[0] for _, _, dataset in found)
    if len({dataset.path for _, _, dataset in found}) != len(found):
        raise MalformedInput("two shards hold the same variable")
    firsts = {
        dataset.path.rpartition("/")[0]: dataset.type.name
        for _, _, dataset in found
        if dataset.path.endswith("/0")
    }
    layers = _Layers(stated, config, firsts)
    tensors = []
    for path, file, dataset in found:
        name, layer, kind, role = layers.describe(dataset.path, counts)
        tensor = make_tensor(file, dataset, name, path)
        tensor.layer, tensor.kind, tensor.role = layer, kind, role
        tensors.append(tensor)
    return tensors, _make_unique(tensors)


class _Layers:
    """Names and classes of the groups of one model."""

    def __init__(
        self, stated: Mapping[str, str], config: Any, firsts: Mapping[str, str | None]
    ) -> None:
        self.stated = stated
        self.firsts = firsts  # element types of the first variables
        self.configured = {} if config is None else _by_group(config)
        by_name: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for _, class_name, settings in layers_of(config):
            if type(settings.get("name")) is str:
                by_name.setdefault(settings["name"], []).append((class_name, settings))
        # A name that two nested models use for different layers says nothing.
        self.by_name = {name: rows[0] for name, rows in by_name.items() if len(rows) == 1}

    def describe(
        self, path: str, counts: Mapping[str, int]
    ) -> tuple[str, str | None, str | None, str | None]:
        """(name, layer, kind, role) of the variable stored at `path`."""
        folder, _, index = path.rpartition("/")
        parts = folder.split("/")
        role = _ROLES.get(parts[0])
        if parts[-1] != VARS or not index.isdigit():
            return path, None, None, role
        if role is not None:
            return "/".join((*parts[:-1], index)), None, None, role
        names = []
        kind = None
        layer = Layer(None, None, None)
        for depth in range(1, len(parts)):
            group = "/".join(parts[:depth])
            layer = self._layer(group, parts[depth - 1])
            if layer.name is not None:
                names.append(layer.name)
            if kind != "attention":  # its projections are dense layers of their own
                kind = kind_of_class(layer.class_name) or kind
        known = quantised_names(layer.class_name, counts[folder], self.firsts.get(folder))
        if known is None:
            known = variable_names(layer.class_name, counts[folder], layer.config)
        if layer.class_name in _NOT_LEARNED:
            role = "other"
        variable = known[int(index)] if known and int(index) < len(known) else index
        owner = "/".join(names) or None
        return "/".join((*names, variable)), owner, kind_of_variable(variable, kind), role

    def _layer(self, group: str, last: str) -> Layer:
        """What is known of the group at path `group`, called `last`."""
        name = self.stated.get(group)
        # A subclassed model's groups are called by its attributes; layers name themselves by class.
        class_name, config = class_of_group(last) or class_of_name(name or ""), None
        if name in self.by_name:
            class_name, config = self.by_name[name]
        elif group in self.configured:
            class_name, config = self.configured[group]
            name = name or str(config.get("name") or last)
        if name is None and last != "layers":
            name = last
        return Layer(name, class_name, config)


def _by_group(config: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Path of a group -> (class name, configuration), for the layers of functional models.

    Keras numbers the layers of one class in the order of the model: dense, dense_1, ... What a
    TimeDistributed or another wrapper holds is its `layer`.
    """
    groups: dict[str, tuple[str, Mapping[str, Any]]] = {}
    prefixes: dict[tuple[str, ...], str] = {(): ""}
    used: Counter[tuple[str, str]] = Counter()
    for around, class_name, settings in layers_of(config):
        prefix = prefixes.get(around)
        if prefix is None:
            continue
        snake = to_snake_case(class_name)
        number = used[prefix, snake]
        used[prefix, snake] += 1
        group = f"{prefix}layers/{snake}{f'_{number}' if number else ''}"
        groups[group] = (class_name, settings)
        groups.update(_wrapped(group, settings))
        name = settings.get("name")
        if type(name) is str:
            prefixes[(*around, name)] = f"{group}/"
    return groups


def _wrapped(
    group: str, settings: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """(path of its group, (class name, configuration)) of what a wrapper holds, and so on."""
    while True:
        held = {"class_name": "", "config": {"layers": [settings.get("layer")]}}
        first = next(layers_of(held), None)
        if first is None:
            return
        group, settings = f"{group}/layer", first[2]
        yield group, first[1:]


def _make_unique(tensors: list[Tensor]) -> tuple[str, ...]:
    """Give tensors that would share a name their stored path instead; a note says so."""
    counts = Counter(tensor.name for tensor in tensors)
    keys = {tensor.key for tensor in tensors}
    shared = [t for t in tensors if counts[t.name] > 1 or (t.name in keys and t.name != t.key)]
    for tensor in shared:
        tensor.name = tensor.key
        tensor.layer = tensor.key.removesuffix("/" + tensor.key.rpartition("/")[2])
    if not shared:
        return ()
    return (
        counted(len(shared), "tensor keeps its stored path", "tensors keep their stored paths")
        + ": the names of their layers are not unique",
    )
