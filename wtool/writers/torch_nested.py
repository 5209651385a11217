"""Keeps the nesting of a PyTorch file: its dictionaries, lists and plain values around new tensors.

Only what torch.load reads with weights_only is kept. Objects of other classes, which only their own
code could rebuild, are left out and listed; numpy numbers become Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wtool.checkpoint import Tensor
from wtool.dialects.pickle_numpy import SCALAR, read_scalar
from wtool.dialects.torch_entries import component
from wtool.dialects.torch_tree import dotted
from wtool.dtypes import BY_TORCH
from wtool.encodings.pickle_nodes import Call, Dict, Global, Size
from wtool.encodings.pickle_writer import ORDERED_DICT, PLAIN_TYPES
from wtool.writers.plans import Loss

# Calls on plain values that weights_only makes itself.
PURE_CALLS = frozenset(("torch.device", "builtins.set", "torch.serialization._get_layout"))
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
REBUILD_TYPED = "torch._tensor._rebuild_from_type_v2"
# Torch's own calls that make a tensor, and a tensor of parts.
TENSOR_PREFIXES = ("torch._utils._rebuild_", "torch._tensor._rebuild_")
# What nn.Buffer keeps beside its values; a plain tensor is the same to load_state_dict.
_BUFFER_MARKS = frozenset(("persistent", "_is_buffer"))


@dataclass
class Nested:
    """root: what to pickle. losses: what was left out. placed: paths whose tensor was met."""

    root: Any = None
    losses: list[Loss] = field(default_factory=list)
    placed: set[tuple[str, ...]] = field(default_factory=set)


def can_nest(tree: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tree's tensors are these: none renamed, left out or added."""
    if tree is None or any(not _keeps_name(tensor) for tensor in tensors.values()):
        return False
    paths = {tensor.path for tensor in tensors.values()}
    met = set()
    for path, node, _ in _nodes(tree, paths):
        if path in paths:
            met.add(path)
        elif type(node) is Call and node.full.startswith(TENSOR_PREFIXES):
            return False
    return len(met) == len(tensors)


def nest(tree: Any, tensors: Mapping[str, Tensor], rebuild: Callable[[Tensor], Call]) -> Nested:
    """The tree with `rebuild(tensor)` in the place of each tensor, and only plain values around.

    `can_nest` must hold.
    """
    by_path = {tensor.path: tensor for tensor in tensors.values()}
    nested = Nested()
    built: dict[tuple[str, ...], Any] = {}
    pending: list[tuple[tuple[str, ...], Any, list[Any]]] = []
    for path, node, entries in _nodes(tree, set(by_path)):
        tensor = by_path.get(path)
        if tensor is not None:
            built[path] = _tensor_node(node, rebuild(tensor), path, nested)
        elif entries is None:
            built[path] = _plain(node, path, nested)
        else:
            pending.append((path, node, entries))
    # Children come after their containers: from the last to the first, every child is ready.
    for path, node, entries in reversed(pending):
        built[path] = _container(node, path, entries, built, nested)
    nested.root = built.get(())
    nested.losses.sort(key=lambda loss: loss.name)
    return nested


def _keeps_name(tensor: Tensor) -> bool:
    """Whether the name is the stored path, or the end of it where a prefix was dropped."""
    full = dotted(tensor.path)
    return bool(tensor.path) and (full == tensor.name or full.endswith("." + tensor.name))


def _nodes(
    tree: Any, leaves: set[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], Any, list[Any] | None]]:
    """(path, node, entries) of the tree, each container before what it holds; iterative.

    entries: (key, path) of a Dict, paths of a list or tuple; None for anything else.
    """
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        kind = type(node)
        entries: list[Any] | None = None
        children: list[tuple[tuple[str, ...], Any]] = []
        if path not in leaves and kind is Dict:
            entries = []
            for key, value in node.items():
                inner = (*path, key if type(key) is str else component(key))
                entries.append((key, inner))
                children.append((inner, value))
        elif path not in leaves and (kind is list or kind is tuple):
            children = [((*path, str(index)), value) for index, value in enumerate(node)]
            entries = [inner for inner, _ in children]
        yield path, node, entries
        stack.extend(reversed(children))


class _Left:
    """Stands for a value that was left out."""


_LEFT = _Left()


def _plain(node: Any, path: tuple[str, ...], nested: Nested) -> Any:
    """The value itself where weights_only reads it, else _LEFT and a Loss."""
    kind = type(node)
    if kind in PLAIN_TYPES or kind is Size:
        return node
    if kind is Global and node.module == "torch" and node.name in BY_TORCH:
        return node
    if kind is Call:
        if node.full in SCALAR:
            number = read_scalar(node)
            if number is not None:
                return number
        if node.full in PURE_CALLS and _is_pure(node):
            return node
    what = node.full if kind is Call else node.full if kind is Global else kind.__name__
    nested.losses.append(Loss("extras", dotted(path), f"a {what}, which weights_only refuses"))
    return _LEFT


def _is_pure(node: Call) -> bool:
    if node.state is not None or node.items or node.pairs or node.kwargs:
        return False
    flat: list[Any] = []
    for arg in node.args:
        flat.extend(arg if isinstance(arg, list | tuple) else (arg,))
    return all(type(item) in PLAIN_TYPES for item in flat)


def _container(
    node: Any,
    path: tuple[str, ...],
    entries: list[Any],
    built: dict[tuple[str, ...], Any],
    nested: Nested,
) -> Any:
    if type(node) is not Dict:
        # Positions count: what is left out leaves None behind.
        items = [None if built[inner] is _LEFT else built[inner] for inner in entries]
        return items if type(node) is list else tuple(items)
    result = Dict((key, built[inner]) for key, inner in entries if built[inner] is not _LEFT)
    if node.cls == ORDERED_DICT:
        result.cls = node.cls
    elif node.cls is not None:
        reason = f"a {node.cls.full}, written as a plain dictionary"
        nested.losses.append(Loss("structure", dotted(path), reason))
    for key, _ in node.odd:
        name = dotted((*path, component(key) if isinstance(key, str | int | tuple) else "?"))
        nested.losses.append(Loss("extras", name, "its key is no plain value"))
    result.state = _kept_state(node, path, nested)
    return result


def _kept_state(node: Dict, path: tuple[str, ...], nested: Nested) -> Any:
    """`_metadata` of a state dict, its modules' versions; nothing else is set on dictionaries."""
    if type(node.state) is not Dict or node.cls != ORDERED_DICT:
        return None
    kept = Dict()
    for key, value in node.state.items():
        inner = nest(value, {}, _no_tensor)
        if type(key) is str and inner.root is not _LEFT and not inner.losses:
            kept[key] = inner.root
        else:
            name = dotted((*path, component(key)))
            nested.losses.append(Loss("extras", name, "weights_only refuses it"))
    return kept or None


def _no_tensor(tensor: Tensor) -> Call:
    raise KeyError(tensor.name)


def _tensor_node(node: Any, rebuilt: Call, path: tuple[str, ...], nested: Nested) -> Call:
    """`rebuilt`, as a Parameter where it was one; a Loss for attributes set on a tensor."""
    if type(node) is not Call:
        return rebuilt
    if node.full == REBUILD_PARAMETER and len(node.args) == 3 and type(node.args[1]) is bool:
        hooks = Dict()
        hooks.cls = ORDERED_DICT
        return Call(node.function, (rebuilt, node.args[1], hooks))
    state = node.args[3] if node.full == REBUILD_TYPED and len(node.args) == 4 else None
    if type(state) is Dict and not _BUFFER_MARKS.issuperset(state):
        nested.losses.append(Loss("extras", dotted(path), "attributes set on the tensor"))
    return rebuilt
