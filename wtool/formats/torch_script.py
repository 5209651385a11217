"""TorchScript archives, what torch.jit.save writes: attributes of a compiled module, and constants.

    X/data.pkl       the module: objects of classes `__torch__...` with a dictionary of attributes
    X/data/N         their storages
    X/constants.pkl  a tuple of what the code names CONSTANTS.c0, c1, ...; frozen modules keep all
                     their weights there
    X/constants/N    their storages
    X/code/...       the compiled code; only the lists __buffers__ of its classes are read
    X/extra/...      files of the user

Names are those of the attributes, as in `state_dict()`; a class says what kind of module it is.
Source: torch 2.13 `torch/csrc/jit/serialization/`, checked against `torch.jit.load`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.dialects.torch_archive import TorchArchive, open_archive
from wtool.encodings.pickle_nodes import Call, Dict, Global
from wtool.errors import MalformedInput
from wtool.formats import Format, Probe

# Records of code that are read for their lists of buffers; a file of code has some kilobytes.
MAX_CODE_BYTES = 4 << 20
MAX_ALL_CODE_BYTES = 64 << 20
CONSTANTS = "CONSTANTS"

# Calls that only say the type of their first argument.
_TRANSPARENT = frozenset(
    f"torch.jit._pickle.{name}"
    for name in (
        "build_intlist",
        "build_doublelist",
        "build_boollist",
        "build_tensorlist",
        "restore_type_tag",
    )
)
MAX_TAGS = 16
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_LISTS = re.compile(
    rb"^class (\w{1,200})\(Module\):$|^  __(parameters|buffers)__ = \[(.*)\]$", re.MULTILINE
)
_WORD = re.compile(rb'"([^"\\]*)"')


def claims(probe: Probe) -> bool:
    """Whether the file is a zip with members `X/data.pkl` and `X/constants.pkl`."""
    names = {name.lower() for name in probe.zip_names}
    return any(
        name.count("/") == 1 and name.replace("/constants.pkl", "/data.pkl") in names
        for name in names
        if name.endswith("/constants.pkl")
    )


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Tensors of the module under their attributes, then constants as `CONSTANTS.c0` and so on.

    root: a part of the module; no prefix is dropped without it, since the module is the model.
    """
    from wtool.dialects.torch_checkpoint import build_checkpoint

    archive = open_archive(probe.source)
    pickled = archive.pickle("data.pkl")
    classes: dict[int, Global] = {}
    plain = dataclasses.replace(pickled, value=plain_tree(pickled.value, classes))
    metadata, notes = archive.extra_texts()
    checkpoint = build_checkpoint(
        probe.path,
        FORMAT.name,
        plain,
        archive.reader("data"),
        root=root or ".",
        metadata=metadata,
        notes=notes,
    )
    _mark_states(checkpoint, plain.value, classes, archive)
    if root not in (None, "."):
        return checkpoint
    # Freezing makes constants of the weights, and of the flag `training` too.
    is_frozen = type(plain.value) is not Dict or "training" not in plain.value
    return _with_constants(checkpoint, archive, None if is_frozen else "other")


def _with_constants(checkpoint: Checkpoint, archive: TorchArchive, role: str | None) -> Checkpoint:
    """`checkpoint` with the tensors of `constants.pkl` behind its own; those have that role."""
    from wtool.dialects.torch_checkpoint import build_checkpoint

    pickled = archive.pickle("constants.pkl")
    if not isinstance(pickled.value, tuple):
        raise MalformedInput(
            "constants.pkl", expected="a tuple", found=type(pickled.value).__name__
        )
    named = Dict()
    for index, value in enumerate(pickled.value):
        named[f"c{index}"] = plain_tree(value, {})
    tree = Dict()
    tree[CONSTANTS] = named
    constants = build_checkpoint(
        checkpoint.path,
        checkpoint.format,
        dataclasses.replace(pickled, value=tree),
        archive.reader("constants"),
        root=".",
    )
    for name in constants.tensors:
        if name in checkpoint.tensors:
            raise MalformedInput("two tensors have the same name", tensor=name)
    for tensor in constants:
        tensor.role = tensor.role or role
    mentions = dict(checkpoint.globals)
    for name, count in constants.globals.items():
        mentions[name] = mentions.get(name, 0) + count
    extras = {**constants.extras, **checkpoint.extras}
    extras.pop(CONSTANTS, None)
    return dataclasses.replace(
        checkpoint,
        tensors={**checkpoint.tensors, **constants.tensors},
        extras=extras,
        notes=(*checkpoint.notes, *constants.notes),
        globals=mentions,
    )


def plain_tree(root: Any, classes: dict[int, Global]) -> Any:
    """The pickled module as dictionaries and lists of the same order; tensors stay as they are.

    classes: filled with the class of each dictionary that stands for an object, by identity. Every
    object is converted once, and shared objects stay shared.
    """
    made: dict[int, Any] = {}
    pending: list[tuple[Any, Any]] = []

    def convert(node: Any) -> Any:
        for _ in range(MAX_TAGS):
            if type(node) is not Call or not node.args or node.full not in _TRANSPARENT:
                break
            node = node.args[0]
        known = made.get(id(node))
        if known is not None:
            return known
        result: Any = node
        if type(node) is Call:
            if type(node.function) is Global and node.new and node.full.startswith("__torch__"):
                has_attributes = node.state is None or type(node.state) is Dict
                result = Dict() if has_attributes else []
                classes[id(result)] = node.function
        elif type(node) is Dict:
            result = Dict()
        elif type(node) in (list, tuple):
            result = []
        if result is not node:
            made[id(node)] = result
            pending.append((node, result))
        return result

    value = convert(root)
    while pending:
        node, result = pending.pop()
        entries = node
        if type(node) is Call:
            entries = node.state if node.state is not None else Dict()
        if type(result) is list:
            # An object with a state of its own making (packed weights) is a list of that one.
            parts = [entries] if type(node) is Call else entries
            result.extend(convert(part) for part in parts)
            continue
        if type(node) is Call:
            result["__class__"] = _MANGLED.sub("", node.full).removeprefix("__torch__.")
        for key, part in entries.items():
            if key != "_is_full_backward_hook":
                result[key] = convert(part)
        result.odd = [(key, convert(part)) for key, part in entries.odd]
    return value


def _mark_states(
    checkpoint: Checkpoint, tree: Any, classes: dict[int, Global], archive: TorchArchive
) -> None:
    """Say of each attribute what the code of its class calls it: a parameter, a buffer, neither.

    A list of parameters that a module keeps beside them (`_flat_weights`) is the parameters again.
    """
    lists = _CodeLists(archive)
    neither = []
    for tensor in checkpoint:
        if tensor.role is not None:
            continue
        cls, attribute = _owner(tree, tensor.path, classes)
        stated = {} if cls is None else lists.of(cls)
        if attribute in stated.get("buffers", ()):
            tensor.role = "buffer"
        elif attribute in stated.get("parameters", ()):
            tensor.is_parameter = True
        elif "buffers" in stated:  # old files list parameters alone
            neither.append(tensor)
    learned = {tensor.storage for tensor in checkpoint if tensor.is_parameter}
    for tensor in neither:
        if tensor.storage not in learned:
            tensor.role = "other"


def _owner(
    tree: Any, path: tuple[str, ...], classes: dict[int, Global]
) -> tuple[Global | None, str]:
    """The class of the innermost object around a tensor, and the attribute that leads to it."""
    owner: tuple[Global | None, str] = None, ""
    for component in path:
        cls = classes.get(id(tree))
        if cls is not None:
            owner = cls, component
        if type(tree) is Dict:
            tree = tree.get(component)
        elif type(tree) is list and component.isdecimal() and int(component) < len(tree):
            tree = tree[int(component)]
        else:
            break
    return owner


class _CodeLists:
    """The names in each class's `__parameters__` and `__buffers__`; code is read when needed."""

    def __init__(self, archive: TorchArchive) -> None:
        self._archive = archive
        self._left = MAX_ALL_CODE_BYTES
        self._read: dict[str, dict[str, dict[str, frozenset[str]]]] = {}

    def of(self, cls: Global) -> dict[str, frozenset[str]]:
        """A class's "parameters" and "buffers", as far as the archive has code that lists them."""
        record = f"code/{cls.module.replace('.', '/')}.py"
        if record not in self._read:
            self._read[record] = self._lists(record)
        return self._read[record].get(cls.name, {})

    def _lists(self, record: str) -> dict[str, dict[str, frozenset[str]]]:
        size = self._archive.nbytes(record)
        if size is None or size > min(MAX_CODE_BYTES, self._left):
            return {}
        self._left -= size
        found: dict[str, dict[str, frozenset[str]]] = {}
        current = ""
        for match in _LISTS.finditer(bytes(self._archive.read(record, MAX_CODE_BYTES))):
            if match[1] is not None:
                current = match[1].decode()
            else:
                words = _WORD.findall(match[3])
                names = frozenset(word.decode("utf-8", "replace") for word in words)
                found.setdefault(current, {})[match[2].decode()] = names
        return found


FORMAT = Format("torchscript", "TorchScript archive", (".pt", ".pth", ".ts"), claims, open_file)
