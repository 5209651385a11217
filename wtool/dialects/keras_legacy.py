"""Keras's legacy HDF5: layers and weights in the order of the attributes that name them.

`layer_names` on the root (weights only) or on `model_weights` (a whole model); `weight_names` on
each layer's group, each the path of a dataset below it. Lists too long for one attribute are split
over `layer_names0`, `layer_names1`, ...
"""

from __future__ import annotations

from collections import Counter

from wtool.checkpoint import Tensor
from wtool.dialects.keras_classes import kind_of_class, kind_of_variable, layers_of
from wtool.dialects.keras_entries import make_tensor
from wtool.encodings import strict_json
from wtool.encodings.hdf5_file import Dataset, Group, Hdf5File
from wtool.errors import MalformedInput, UnsafeInput, WtoolError, counted

MODEL, OPTIMIZER, TOP_LEVEL = "model_weights", "optimizer_weights", "top_level_model_weights"
MAX_PARTS = 100_000


def is_legacy_file(root: Group) -> bool:
    """Whether the attributes of a legacy file are there."""
    names = {"layer_names", "layer_names0"}
    return MODEL in root.groups or bool(names & set(root.attributes))


def read_tensors(path: str, file: Hdf5File) -> tuple[list[Tensor], tuple[str, ...]]:
    """(weights in order, then the optimizer's, notes); path: of the file on disk."""
    root = file.root
    model = root.groups.get(MODEL, root)
    layer_names = read_list(file, model, "layer_names")
    classes = classes_by_name(file)
    tensors = []
    listed = set()
    for layer in [*layer_names, *([TOP_LEVEL] if TOP_LEVEL in model.groups else [])]:
        group = model.groups.get(check_name(layer, model))
        if group is None:
            raise MalformedInput(
                f"layer_names lists '{layer[:80]}', which is not there",
                found=f"{len(model.groups)} groups",
            )
        for weight in read_list(file, group, "weight_names"):
            dataset = find_dataset(group, weight)
            listed.add(dataset.path)
            tensor = make_tensor(file, dataset, display_name(layer, weight), path)
            owner, _, variable = tensor.name.rpartition("/")
            tensor.layer = owner or None
            tensor.kind = kind_of_variable(variable, kind_of_class(classes.get(layer)))
            tensors.append(tensor)
    make_unique(tensors)
    optimizer = root.groups.get(OPTIMIZER)
    if optimizer is not None:
        for weight in read_list(file, optimizer, "weight_names"):
            dataset = find_dataset(optimizer, weight)
            listed.add(dataset.path)
            name = f"optimizer/{weight.removesuffix(':0')}"
            tensor = make_tensor(file, dataset, name, path)
            tensor.role = "optimizer"
            tensors.append(tensor)
    return tensors, unlisted_notes(file, listed)


def read_list(file: Hdf5File, group: Group, name: str) -> list[str]:
    """The texts of an attribute, or of its numbered parts where it was split; in order."""
    attributes = group.attributes
    try:
        if name in attributes:
            return file.texts(attributes[name])
        texts: list[str] = []
        for part in range(MAX_PARTS):
            if f"{name}{part}" not in attributes:
                break
            texts.extend(file.texts(attributes[f"{name}{part}"]))
    except WtoolError as error:
        raise error.locate(tensor=group.path or None) from error.__cause__
    if not texts and f"{name}0" not in attributes:
        raise MalformedInput(f"group '{group.path}' has no {name}", expected="a Keras HDF5 file")
    return texts


def find_dataset(group: Group, weight: str) -> Dataset:
    """The dataset that `weight_names` lists, below its own group only."""
    found = group.find(check_name(weight, group))
    if not isinstance(found, Dataset):
        raise MalformedInput(
            f"weight_names of '{group.path}' lists '{weight[:80]}', which is not there"
        )
    return found


def check_name(name: str, group: Group) -> str:
    """`name` as a path below `group`; UnsafeInput where it leads out of it."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UnsafeInput(
            f"a name listed in '{group.path or '/'}' leads out of its group", found=repr(name[:80])
        )
    return name


def display_name(layer: str, weight: str) -> str:
    """The name of a weight from its layer on: "sequential/bn/gamma" of layer "bn" is "bn/gamma"."""
    parts = weight.removesuffix(":0").split("/")
    if layer in parts[:-1]:
        parts = parts[parts.index(layer) :]
    elif len(parts) == 1 and layer != TOP_LEVEL:
        parts.insert(0, layer)
    return "/".join(parts)


def make_unique(tensors: list[Tensor]) -> None:
    """Give tensors that would share a name their stored path instead."""
    counts = Counter(tensor.name for tensor in tensors)
    for tensor in tensors:
        if counts[tensor.name] > 1:
            tensor.name = tensor.key
            tensor.layer = tensor.key.rpartition("/")[0]


def classes_by_name(file: Hdf5File) -> dict[str, str]:
    """Layer name -> class name from the model's configuration, where a whole model was saved."""
    attribute = file.root.attributes.get("model_config")
    if attribute is None:
        return {}
    try:
        config = strict_json.loads(file.text(attribute).encode())
    except WtoolError:
        # Evidence only: the weights are sound without it.
        return {}
    return {
        settings["name"]: class_name
        for _, class_name, settings in layers_of(config)
        if type(settings.get("name")) is str
    }


def unlisted_notes(file: Hdf5File, listed: set[str]) -> tuple[str, ...]:
    """A note for datasets that no attribute lists: Keras does not read them either."""
    pending = [file.root]
    left: list[str] = []
    while pending:
        group = pending.pop()
        pending.extend(group.groups.values())
        left.extend(d.path for d in group.datasets.values() if d.path not in listed)
    if not left:
        return ()
    datasets = counted(len(left), "dataset")
    return (f"left out, in no list of weight_names: {datasets}, first '{min(left)}'",)
