"""What the nodes of a torch pickle hold: (key, value) of modules, dictionaries, unknown objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from wtool.encodings.pickle_nodes import ByteText, Call, Dict

# Elements of a module's plain attribute that are looked at for tensors.
MAX_ATTRIBUTES = 1000
# Types of values that hold no others.
SCALARS = frozenset((str, ByteText, bytes, bytearray, int, float, complex, bool, type(None)))
# Of an object's own attributes, those of a module that lead to its tensors.
MODULE_TABLES = ("_parameters", "_buffers", "_modules")
# C++ objects; torch pickles what their __getstate__ gives, and the name of their class.
_SCRIPT_OBJECT = "torch.ScriptObject"
# Modules that are pickled as a call, and the name that their state dict has for its first argument.
_FIRST_NAMES = {"torch._dynamo.eval_frame.OptimizedModule": "_orig_mod"}


def is_module(node: Any) -> bool:
    """Whether a node is a whole torch.nn.Module: an object with tables of tensors and modules."""
    state = node.state
    return type(state) is Dict and all(type(state.get(key)) is Dict for key in MODULE_TABLES)


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


def named(node: Dict) -> Iterator[tuple[str, Any]]:
    """(name of the key, value) of a dictionary; keys that are none have numbers."""
    plain = not node.odd and {str}.issuperset(map(type, node))
    return iter(node.items()) if plain else _spelled(node)


def _spelled(node: Dict) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield (key if type(key) is str else component(key)), value
    for index, (_, value) in enumerate(node.odd):
        yield str(index), value


def module_entries(node: Call) -> Iterator[tuple[str, Any]]:
    """What the module's state_dict would hold: parameters, persistent buffers, then its modules.

    Quantised layers put the tensors of their packed weights, a C++ object, between these.
    """
    state = node.state
    hidden = state.get("_non_persistent_buffers_set")
    skipped = set()
    if type(hidden) is Call:
        skipped = {name for name in elements(hidden) if isinstance(name, str)}
    for name, value in named(state["_parameters"]):
        if value is not None:
            yield name, value
    for name, value in named(state["_buffers"]):
        if value is not None and name not in skipped:
            yield name, value
    for name, value in named(state):
        if type(value) is Call and value.full == _SCRIPT_OBJECT:
            yield name, value
    for name, value in named(state["_modules"]):
        if value is not None:
            yield name, value


def object_entries(node: Call) -> Iterator[tuple[str, Any]]:
    """Everything that an unknown object was given, since tensors may be among it."""
    for index, value in enumerate(node.args):
        yield _FIRST_NAMES.get(node.full, "0") if index == 0 else str(index), value
    if type(node.state) is Dict:
        yield from named(node.state)
    elif isinstance(node.state, tuple) and len(node.state) == 2:
        for part in node.state:
            if type(part) is Dict:
                yield from named(part)
            elif part is not None:
                yield "state", part
    elif node.state is not None:
        yield "state", node.state
    yield from numbered(node.items or ())
    for index, (key, value) in enumerate(node.pairs or ()):
        plain = type(key) in SCALARS or (
            isinstance(key, tuple) and all(type(item) in SCALARS for item in key)
        )
        yield (component(key) if plain else str(index)), value


def elements(node: Call) -> Iterator[Any]:
    """What a pickled set or deque holds."""
    for arg in node.args[:1]:
        if isinstance(arg, list | tuple):
            yield from arg
    yield from node.items or ()


def packed_values(node: Call) -> tuple[Any, ...] | None:
    """What a C++ object gave to be pickled: the first of its state and its class."""
    state = node.state
    if node.full == _SCRIPT_OBJECT and type(state) is tuple and len(state) == 2:
        return state[0] if type(state[0]) is tuple else None
    return None


def numbered(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(place as text, value) of a list."""
    return ((str(index), value) for index, value in enumerate(values))


def holds_tensors(value: Any, known: set[int]) -> bool:
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


def size_of(node: Any) -> int:
    """How many entries a container has: what walking it once more costs."""
    if type(node) is Call:
        inner: Iterable[Any] = node.state if type(node.state) is Dict else packed_values(node) or ()
        return len(node.args) + len(node.items or ()) + len(node.pairs or ()) + len(list(inner))
    return len(node)
