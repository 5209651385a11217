"""Every node of a pickle, once: iterative and counted, for the pickle comes from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wtool.encodings.pickle_nodes import Call, Dict, Persistent

MAX_NODES = 1_000_000


def walk(*roots: Any) -> Iterator[Any]:
    """Every node of a pickle below `roots`, each container once, at most MAX_NODES of them."""
    pending = list(roots)
    seen: set[int] = set()
    for _ in range(MAX_NODES):
        if not pending:
            return
        node = pending.pop()
        if isinstance(node, list | tuple | dict | Call | Persistent):
            if id(node) in seen:
                continue
            seen.add(id(node))
        yield node
        if isinstance(node, Dict):
            for key, value in node.pairs():
                pending += (value, key)
            pending += (node.state, node.args)
        elif isinstance(node, dict):
            for key, value in node.items():
                pending += (value, key)
        elif isinstance(node, list | tuple):
            pending.extend(node)
        elif isinstance(node, Call):
            pending += (node.args, node.state, node.items, node.pairs, node.kwargs, node.function)
        elif isinstance(node, Persistent):
            pending.append(node.id)
