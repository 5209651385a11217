"""What torch pickled, walked: each tensor with its path of keys, everything else as inert extras.

Dictionaries, lists, tuples, whole modules and unknown objects are walked without recursion. A
value that the pickle shares is listed under each of its names, as torch's state dicts do; what a
pickle of a few bytes can multiply is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from wtool.checkpoint import Tensor
from wtool.dialects.pickle_numpy import SCALAR, read_scalar
from wtool.dialects.torch_found import Found
from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_plain import take_plain
from wtool.dialects.torch_storages import StorageTable
from wtool.encodings.pickle_nodes import ByteText, Call, Dict, Global, Persistent
from wtool.errors import MalformedInput, UnsafeInput, WtoolError

# Python's own limit for nested calls; torch.save cannot write deeper than this.
MAX_DEPTH = 1000
# Entries of shared containers that are walked again. Modules are shared a few times, not thousands.
MAX_REPEATS = 200_000
MAX_NAME_CHARACTERS = 64 << 10
# Elements of a module's plain attribute that are looked at for tensors.
MAX_ATTRIBUTES = 1000
# All names together, and 8 bytes for each key of a path: a long key above many entries multiplies.
MAX_ALL_NAME_CHARACTERS = 100 << 20
KEY_CHARACTERS = 9

_SCALARS = frozenset((str, ByteText, bytes, bytearray, int, float, complex, bool, type(None)))
# Of an object's own attributes, those of a module that lead to its tensors.
_MODULE_TABLES = ("_parameters", "_buffers", "_modules")
# C++ objects; torch pickles what their __getstate__ gives, and the name of their class.
_SCRIPT_OBJECT = "torch.ScriptObject"
# Modules that are pickled as a call, and the name that their state dict has for its first argument.
_FIRST_NAMES = {"torch._dynamo.eval_frame.OptimizedModule": "_orig_mod"}
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
            elif kind in _SCALARS or kind is Global:
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
                repeats += 1 + _size(child)
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
        return _named(node), role
    if kind is list or isinstance(node, tuple):
        if all(type(item) in _SCALARS for item in node):
            result.extras[dotted(path)] = node
            return None, role
        return _listed(node), role
    if kind is Call:
        if node.full in SCALAR:
            number = read_scalar(node)
            if number is not None:
                result.extras[dotted(path)] = number
                return None, role
        if is_module(node):
            _note_module(node, path, result)
            result.buffers.update(map(id, node.state["_buffers"].values()))
            return _module_entries(node), role
        state = node.state
        if type(state) is Dict and "state" in state and "param_groups" in state:
            role = "optimizer"
        if node.full in _ELEMENTS_OF:
            entries = list(_elements(node))
            if all(type(item) in _SCALARS for item in entries):
                result.extras[dotted(path)] = entries
                return None, role
        result.extras[dotted(path)] = node
        packed = _packed(node)
        return _object_entries(node) if packed is None else _listed(packed), role
    result.extras[dotted(path)] = node
    return None, role


def is_module(node: Any) -> bool:
    """Whether a node is a whole torch.nn.Module: an object with tables of tensors and modules."""
    state = node.state
    return type(state) is Dict and all(type(state.get(key)) is Dict for key in _MODULE_TABLES)


def component(key: Any) -> str:
    """The name of a key: text as it is, integers as digits, the rest as Python writes it."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if type(key) is int:
        return str(key) if key.bit_length() <= 256 else f"integer of {key.bit_length()} bits"
    if isinstance(key, tuple):
        return f"({', '.join(map(component, key))})"
    return repr(key)


def _named(node: Dict) -> Iterator[tuple[str, Any]]:
    plain = not node.odd and {str}.issuperset(map(type, node))
    return iter(node.items()) if plain else _spelled(node)


def _spelled(node: Dict) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield (key if type(key) is str else component(key)), value
    for index, (_, value) in enumerate(node.odd):
        yield str(index), value


def _module_entries(node: Call) -> Iterator[tuple[str, Any]]:
    """What the module's state_dict would hold: parameters, persistent buffers, then its modules.

    Quantised layers put the tensors of their packed weights, a C++ object, between these.
    """
    state = node.state
    hidden = state.get("_non_persistent_buffers_set")
    skipped = set()
    if type(hidden) is Call:
        skipped = {name for name in _elements(hidden) if isinstance(name, str)}
    for name, value in _named(state["_parameters"]):
        if value is not None:
            yield name, value
    for name, value in _named(state["_buffers"]):
        if value is not None and name not in skipped:
            yield name, value
    for name, value in _named(state):
        if type(value) is Call and value.full == _SCRIPT_OBJECT:
            yield name, value
    for name, value in _named(state["_modules"]):
        if value is not None:
            yield name, value


def _note_module(node: Call, path: tuple[str, ...], result: Walked) -> None:
    """The class of a module and its plain attributes are evidence of what the layer is."""
    if node.full:
        result.extras[dotted((*path, "__class__"))] = node.full
    tables = (node.state[key].values() for key in ("_parameters", "_buffers"))
    known = {id(value) for table in tables for value in table}
    for key, value in node.state.items():
        plain = type(value) in _SCALARS or (
            isinstance(value, tuple) and all(type(item) in _SCALARS for item in value)
        )
        if plain and isinstance(key, str) and not key.startswith("_"):
            result.extras[dotted((*path, key))] = value
        elif key not in _MODULE_TABLES and _holds_tensors(value, known):
            result.notes["tensors that modules hold as plain attributes are not listed"] = None


def _holds_tensors(value: Any, known: set[int]) -> bool:
    """Whether a value is a tensor, or a container of some, that is not among those `known`."""
    values: Iterable[Any] = (value,)
    if type(value) is Dict:
        values = value.values()
    elif isinstance(value, list | tuple):
        values = value
    return any(
        type(item) is Call and item.full.startswith("torch._utils._rebuild_")
        for item in islice(values, MAX_ATTRIBUTES)
        if id(item) not in known
    )


def _packed(node: Call) -> tuple[Any, ...] | None:
    """What a C++ object gave to be pickled: the first of its state and its class."""
    state = node.state
    if node.full == _SCRIPT_OBJECT and type(state) is tuple and len(state) == 2:
        return state[0] if type(state[0]) is tuple else None
    return None


def _listed(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(index), value) for index, value in enumerate(values))


def _elements(node: Call) -> Iterator[Any]:
    """What a pickled set or deque holds."""
    for arg in node.args[:1]:
        if isinstance(arg, list | tuple):
            yield from arg
    yield from node.items or ()


def _object_entries(node: Call) -> Iterator[tuple[str, Any]]:
    """Everything that an unknown object was given, since tensors may be among it."""
    for index, value in enumerate(node.args):
        yield _FIRST_NAMES.get(node.full, "0") if index == 0 else str(index), value
    if type(node.state) is Dict:
        yield from _named(node.state)
    elif isinstance(node.state, tuple) and len(node.state) == 2:
        for part in node.state:
            if type(part) is Dict:
                yield from _named(part)
            elif part is not None:
                yield "state", part
    elif node.state is not None:
        yield "state", node.state
    yield from _listed(node.items or ())
    for index, (key, value) in enumerate(node.pairs or ()):
        plain = type(key) in _SCALARS or (
            isinstance(key, tuple) and all(type(item) in _SCALARS for item in key)
        )
        yield (component(key) if plain else str(index)), value


def _size(node: Any) -> int:
    if type(node) is Call:
        inner: Iterable[Any] = node.state if type(node.state) is Dict else _packed(node) or ()
        return len(node.args) + len(node.items or ()) + len(node.pairs or ()) + len(list(inner))
    return len(node)


def _refuse_cycle(frames: list[_Frame], child: Any, path: tuple[str, ...], result: Walked) -> None:
    """Objects refer back to their owners, and that is noted; plain containers never do."""
    first = next(index for index, frame in enumerate(frames) if frame.node is child)
    if not any(type(frame.node) is Call for frame in frames[first:]):
        raise MalformedInput("container that contains itself", tensor=dotted(path))
    result.notes["objects that refer back to themselves are listed once"] = None
