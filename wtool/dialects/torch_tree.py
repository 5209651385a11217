"""What torch pickled, walked: each tensor with its path of keys, everything else as inert extras.

Dictionaries, lists, tuples, whole modules and unknown objects are walked without recursion. A
value that the pickle shares is listed under each of its names, as torch's state dicts do; what a
pickle of a few bytes can multiply is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wtool.checkpoint import Tensor
from wtool.dialects.pickle_numpy import SCALAR, read_scalar
from wtool.dialects.torch_entries import (
    MODULE_TABLES,
    SCALARS,
    elements,
    holds_tensors,
    is_module,
    module_entries,
    named,
    numbered,
    object_entries,
    packed_values,
    size_of,
)
from wtool.dialects.torch_found import Found
from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_plain import take_plain
from wtool.dialects.torch_storages import StorageTable
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.errors import MalformedInput, UnsafeInput, WtoolError

# Python's own limit for nested calls; torch.save cannot write deeper than this.
MAX_DEPTH = 1000
# Entries of shared containers that are walked again. Modules are shared a few times, not thousands.
MAX_REPEATS = 200_000
MAX_NAME_CHARACTERS = 64 << 10
# All names together, and 8 bytes for each key of a path: a long key above many entries multiplies.
MAX_ALL_NAME_CHARACTERS = 100 << 20
KEY_CHARACTERS = 9

_ELEMENTS_OF = frozenset(("builtins.set", "builtins.frozenset", "collections.deque"))


@dataclass(slots=True, eq=False)
class Leaf:
    """One tensor or composite. path: keys from the root; role: where the tree states it."""

    path: tuple[str, ...]
    found: Found
    role: str | None


@dataclass(slots=True, eq=False)
class Walked:
    """leaves in stored order; extras by dotted path; notes; identities of registered buffers.

    A plain tensor is among the leaves as the Tensor that a whole file would have of it.
    """

    leaves: list[Leaf | Tensor] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    buffers: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Frame:
    """A container whose entries are being walked; `node` is alive, so its identity is its own."""

    entries: Iterator[tuple[str, Any]]
    path: tuple[str, ...]
    role: str | None
    node: Any
    characters: int


def walk(root: Any, reader: ObjectReader) -> Walked:
    """Every tensor below `root`, and the other values.

    Raises MalformedInput, naming the entry, for a container that contains itself or is nested
    beyond MAX_DEPTH, UnsafeInput where shared containers multiply, and what `reader.find` raises.
    """
    result = Walked()
    seen: set[int] = set()
    open_ids: set[int] = set()
    frames = [_Frame(iter((("", root),)), (), None, None, 0)]
    repeats = characters = 0
    leaves, buffers = result.leaves, result.buffers
    table = reader.storages if type(reader.storages) is StorageTable else None
    while frames:
        frame = frames[-1]
        path, role = frame.path, frame.role
        top = frame.node is None
        is_run = False
        while True:
            if is_run and table is not None and not buffers:
                besides = frame.characters + KEY_CHARACTERS
                limits = besides, MAX_NAME_CHARACTERS, MAX_ALL_NAME_CHARACTERS - characters
                entry, used = take_plain(frame.entries, reader, table, path, role, limits, leaves)
                characters += used
                is_run = False
            else:
                entry = next(frame.entries, None)
            if entry is None:
                open_ids.discard(id(frame.node))
                frames.pop()
                break
            component, child = entry
            here = path if top else (*path, component)
            kind = type(child)
            length = frame.characters + len(component) + KEY_CHARACTERS
            characters += length
            if length > MAX_NAME_CHARACTERS or characters > MAX_ALL_NAME_CHARACTERS:
                raise UnsafeInput(
                    "names too long",
                    expected=f"at most {MAX_NAME_CHARACTERS} characters, "
                    f"{MAX_ALL_NAME_CHARACTERS} in all",
                )
            if kind is Call or kind is Persistent:
                try:
                    found = reader.find(child)
                except WtoolError as error:
                    raise error.locate(tensor=dotted(here)) from error.__cause__
                if found is not None:
                    stated = role
                    if role is None and buffers and id(child) in buffers:
                        stated = "buffer"
                    leaves.append(Leaf(here, found, stated))
                    # Behind a plain tensor there are more, as a rule.
                    is_run = kind is Call and child.view is not None
                    if found.attributes is None:
                        continue
                    child = found.attributes
            elif kind in SCALARS or kind is Global:
                if not _is_quiet(here, role):
                    result.extras[dotted(here)] = child
                continue
            entries, inner_role = _enter(child, here, role, result)
            if entries is None:
                # A long list of numbers is looked through each time.
                if kind in (list, tuple) and id(child) in seen:
                    repeats += len(child) // 100
                    if repeats > MAX_REPEATS:
                        raise _multiplied(here)
                seen.add(id(child))
                continue
            if id(child) in open_ids:
                _refuse_cycle(frames, child, here, result)
                continue
            if len(frames) > MAX_DEPTH:
                raise MalformedInput(
                    "nested too deep", tensor=dotted(here), expected=f"at most {MAX_DEPTH} levels"
                )
            if id(child) in seen:
                repeats += 1 + size_of(child)
                if repeats > MAX_REPEATS:
                    raise _multiplied(here)
            seen.add(id(child))
            open_ids.add(id(child))
            frames.append(_Frame(entries, here, inner_role, child, length))
            break
    result.notes.update(reader.notes)
    return result


def _multiplied(path: tuple[str, ...]) -> UnsafeInput:
    return UnsafeInput(
        "shared values multiply",
        tensor=dotted(path),
        expected=f"at most {MAX_REPEATS} repeated entries",
    )


def dotted(path: tuple[str, ...]) -> str:
    """The name of a path: its keys joined by dots."""
    return ".".join(path)


def _is_quiet(path: tuple[str, ...], role: str | None) -> bool:
    """Whether a scalar says nothing: an attribute that torch keeps for itself."""
    return bool(path) and path[-1] in ("_is_buffer", "persistent") and role != "optimizer"


def _enter(
    node: Any, path: tuple[str, ...], role: str | None, result: Walked
) -> tuple[Iterator[tuple[str, Any]] | None, str | None]:
    """Entries of a container, and the role of what is in it; None for a leaf, kept as an extra."""
    kind = type(node)
    if kind is Dict:
        metadata = node.state.get("_metadata") if type(node.state) is Dict else None
        if metadata is not None:
            result.extras[dotted((*path, "_metadata"))] = metadata
        if "state" in node and "param_groups" in node:
            role = "optimizer"
        if not node and not node.odd:
            result.extras[dotted(path)] = node
            return None, role
        return named(node), role
    if kind is list or isinstance(node, tuple):
        if all(type(item) in SCALARS for item in node):
            result.extras[dotted(path)] = node
            return None, role
        return numbered(node), role
    if kind is Call:
        if node.full in SCALAR:
            number = read_scalar(node)
            if number is not None:
                result.extras[dotted(path)] = number
                return None, role
        if is_module(node):
            _note_module(node, path, result)
            result.buffers.update(map(id, node.state["_buffers"].values()))
            return module_entries(node), role
        state = node.state
        if type(state) is Dict and "state" in state and "param_groups" in state:
            role = "optimizer"
        if node.full in _ELEMENTS_OF:
            entries = list(elements(node))
            if all(type(item) in SCALARS for item in entries):
                result.extras[dotted(path)] = entries
                return None, role
        result.extras[dotted(path)] = node
        packed = packed_values(node)
        return object_entries(node) if packed is None else numbered(packed), role
    result.extras[dotted(path)] = node
    return None, role


def _note_module(node: Call, path: tuple[str, ...], result: Walked) -> None:
    """The class of a module and its plain attributes are evidence of what the layer is."""
    if node.full:
        result.extras[dotted((*path, "__class__"))] = node.full
    tables = (node.state[key].values() for key in ("_parameters", "_buffers"))
    known = {id(value) for table in tables for value in table}
    for key, value in node.state.items():
        plain = type(value) in SCALARS or (
            isinstance(value, tuple) and all(type(item) in SCALARS for item in value)
        )
        if plain and isinstance(key, str) and not key.startswith("_"):
            result.extras[dotted((*path, key))] = value
        elif key not in MODULE_TABLES and holds_tensors(value, known):
            result.notes["tensors that modules hold as plain attributes are not listed"] = None


def _refuse_cycle(frames: list[_Frame], child: Any, path: tuple[str, ...], result: Walked) -> None:
    """Objects refer back to their owners, and that is noted; plain containers never do."""
    first = next(index for index, frame in enumerate(frames) if frame.node is child)
    if not any(type(frame.node) is Call for frame in frames[first:]):
        raise MalformedInput("container that contains itself", tensor=dotted(path))
    result.notes["objects that refer back to themselves are listed once"] = None
