"""A Checkpoint from what torch pickled: names, roles, ties, extras, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_roots import choose_root, role_of_branch, role_outside
from wtool.dialects.torch_tree import Leaf, Walked, dotted, walk
from wtool.encodings.pickle_machine import Pickled
from wtool.errors import UnsupportedError, shorten

# More composites than this are counted, not described one by one.
MAX_DESCRIBED = 20
# The name of a tensor that was saved by itself.
BARE = "tensor"


def build_checkpoint(
    path: str,
    format: str,
    pickled: Pickled,
    reader: ObjectReader,
    *,
    root: str | None = None,
    metadata: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    files: tuple[str, ...] | None = None,
) -> Checkpoint:
    """The Checkpoint of a file whose object pickle is `pickled`.

    root: which branch of a nested file, see torch_roots; "." keeps everything under full names.
    Raises UsageError for an unknown root, UnsupportedError where two entries get one name.
    """
    walked = walk(pickled.value, reader)
    branch, root_notes = choose_root(walked.leaves, root)
    leaves = walked.leaves
    if root is not None and branch:
        leaves = [leaf for leaf in leaves if leaf.path[: len(branch)] == branch]
    tensors, described = _tensors(leaves, branch, walked, explicit=root is not None)
    if tensors is None:
        branch, root_notes = (
            (),
            ["names of the model and of other branches meet; all are kept whole"],
        )
        tensors, described = _tensors(leaves, branch, walked, explicit=False)
    if tensors is None:
        raise _double_name(leaves)
    return Checkpoint(
        path,
        format,
        tensors,
        metadata=metadata or {},
        extras=walked.extras,
        notes=(*notes, *root_notes, *walked.notes, *described),
        globals=pickled.globals,
        files=files or (path,),
        tree=pickled.value,
    )


def _tensors(
    leaves: list[Leaf | Tensor], branch: tuple[str, ...], walked: Walked, *, explicit: bool
) -> tuple[dict[str, Tensor] | None, list[str]]:
    """(tensors by name, one line per composite); no tensors where names are not unique."""
    tensors: dict[str, Tensor] = {}
    described: list[str] = []
    composites = total = 0
    depth = len(branch)
    for leaf in leaves:
        path = leaf.path
        if isinstance(leaf, Tensor):
            name = dotted(path[depth:]) if depth and path[:depth] == branch else leaf.key
            role = _role(leaf, branch, explicit) if branch or len(path) > 1 else leaf.role
            if name is not leaf.name or role is not leaf.role:
                leaf = Tensor(name, leaf.key, leaf.extent, role, path=path)
            tensors[name] = leaf
            total += 1
            continue
        found = leaf.found
        key = name = ".".join(path)
        if depth and path[:depth] == branch:
            name = dotted(path[depth:])
        if not path:
            name = BARE
        role = _role(leaf, branch, explicit)
        extent, composite = found.extent, found.composite
        if extent is not None:
            tensor = tensors[name] = Tensor(name, key, extent, role, path=path)
            if found.is_parameter:
                tensor.is_parameter = True
            total += 1
        if composite is None:
            continue
        composites += 1
        if composites <= MAX_DESCRIBED:
            described.append(f"'{shorten(name)}' is a {composite.summary}")
        for suffix, extent in composite.parts.items():
            part = (suffix,) if suffix else ()
            part_role = role if suffix in composite.values else role or "other"
            part_name = dotted((name, *part))
            tensor = tensors[part_name] = Tensor(
                part_name, dotted((key, *part)), extent, part_role, path=(*path, *part)
            )
            tensor.is_parameter = found.is_parameter and suffix in composite.values
            total += 1
        for suffix, value in composite.extras.items():
            walked.extras[dotted((key, suffix))] = value
    if composites > MAX_DESCRIBED:
        described.append(f"{composites - MAX_DESCRIBED} more tensors are made of several")
    return (tensors if len(tensors) == total else None), described


def _role(leaf: Leaf | Tensor, branch: tuple[str, ...], explicit: bool) -> str | None:
    role = role_outside(leaf, () if explicit else branch)
    if explicit and branch and leaf.role is None:
        # A copy that the user chose is the model now; optimizer state stays what it is.
        role = role_of_branch(branch[-1])
        role = None if role == "ema" else role
    if role is None and isinstance(leaf, Leaf) and leaf.found.is_buffer:
        return "buffer"
    return role


def _double_name(leaves: list[Leaf | Tensor]) -> UnsupportedError:
    """torch loads such a file: its keys differ, and only their names are the same."""
    seen: dict[str, tuple[str, ...]] = {}
    for leaf in leaves:
        composite = leaf.found.composite if isinstance(leaf, Leaf) else None
        parts: Iterable[str] = composite.parts if composite else ("",)
        for part in parts:
            path: tuple[Any, ...] = (*leaf.path, part) if part else leaf.path
            first = seen.setdefault(dotted(path), path)
            if first is not path and seen[dotted(path)] is not path:
                branch = path if len(path) > len(first) else first
                return UnsupportedError(
                    "two entries get one name",
                    tensor=dotted(path),
                    found=f"{_keys(first)} and {_keys(path)}",
                    hint=f"--root {branch[0]} opens one of them" if len(branch) > 1 else None,
                )
    return UnsupportedError("two entries get one name")


def _keys(path: tuple[str, ...]) -> str:
    return shorten(" -> ".join(map(repr, path)))
