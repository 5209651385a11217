"""Every node of a pickle, once: iterative, for the pickle comes from anywhere.

Containers may hold one another any number of times; each is looked into once, so a walk takes no
longer than the pickle is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wtool.encodings.pickle_nodes import Call, Dict, Persistent

_HOLDERS = (list, tuple, dict, Call, Persistent)


def walk(*roots: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every node of a pickle below `roots`, each container once.

    seen: what several walks through one pickle share; what one has looked into the next leaves out.
    """
    pending = list(roots)
    seen = set() if seen is None else seen
    while pending:
        node = pending.pop()
        if isinstance(node, _HOLDERS):
            if id(node) in seen:
                continue
            seen.add(id(node))
        yield node
        pending += _children(node)


def storage_keys(*roots: Any) -> Iterator[str]:
    """The key of every storage that a torch pickle names below `roots`, some of them repeatedly.

    Plain views are not spelled out: a file of 100,000 tensors takes a fraction of a second.
    """
    pending = list(roots)
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if not isinstance(node, _HOLDERS) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Persistent):
            if isinstance(node.id, tuple) and len(node.id) > 2:
                yield str(node.id[2])
        elif isinstance(node, Call) and node.view is not None:
            yield node.key
            pending += (node.state, node.items, node.pairs)
            continue
        pending += _children(node)


def _children(node: Any) -> Iterator[Any] | tuple[Any, ...] | list[Any]:
    """What a node holds, the last of which is looked into first."""
    if isinstance(node, Dict):
        return [*_flat(node.pairs()), node.state, node.args]
    if isinstance(node, dict):
        return _flat(node.items())
    if isinstance(node, list | tuple):
        return node
    if isinstance(node, Call):
        return (node.args, node.state, node.items, node.pairs, node.kwargs, node.function)
    if isinstance(node, Persistent):
        return (node.id,)
    return ()


def _flat(pairs: Any) -> Iterator[Any]:
    for key, value in pairs:
        yield value
        yield key
