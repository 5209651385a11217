"""Which branch of a nested torch file is the model, and what the others are.

Lightning keeps the model in `state_dict`, DeepSpeed in `module`, YOLO in `model` beside an `ema`,
timm in `state_dict` beside `state_dict_ema`. A flat state dict has no branches, and nothing is
dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from wtool.checkpoint import Tensor
from wtool.dialects.torch_tree import Leaf, dotted
from wtool.errors import UsageError, counted, shorten

# These name a model whatever lies beside them...
_MODEL = frozenset(
    (
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "model_dict",
        "net_state_dict",
        "network_state_dict",
        "model_weights",
        "module_state_dict",
    )
)
# ...and these do where all other branches are known to be something else.
_PERHAPS_MODEL = frozenset(("module", "net", "network", "params", "weights", "backbone_state_dict"))
# Patterns are text: `re` compiles each where it is first asked for.
_EMA = r"(^|_)(ema|swa|shadow|averaged|averages)(_|$|\d)|^ema|ema$"
_OPTIMIZER = r"optim|^opt(_|$)|^opts?_state"
_OTHER = (
    r"rng|random_state|sched|scaler|(^|_)amp(_|$)|callbacks|loops|hyper_parameters|hparams|"
    r"criterion|(^|_)loss|trainer|sampler|dataloader|metrics?(_|$)"
)


@lru_cache(maxsize=1024)
def role_of_branch(name: str) -> str | None:
    """ "optimizer", "ema" or "other" where the name of a branch says so, else None."""
    name = name.lower()
    if re.search(_OPTIMIZER, name):
        return "optimizer"
    if re.search(_EMA, name):
        return "ema"
    if re.search(_OTHER, name):
        return "other"
    return None


def branches(leaves: Sequence[Leaf | Tensor]) -> list[str]:
    """Top-level names that hold tensors below them, in stored order."""
    return list(dict.fromkeys(leaf.path[0] for leaf in leaves if len(leaf.path) > 1))


def choose_root(
    leaves: Sequence[Leaf | Tensor], root: str | None
) -> tuple[tuple[str, ...], list[str]]:
    """(path of the branch that is the model, notes); () where nothing is to be dropped.

    root: as the user named it, dotted; UsageError with the choices where there is no such branch.
    """
    if root is not None:
        return _named_root(leaves, root), []
    path: tuple[str, ...] = ()
    notes: list[str] = []
    for _ in range(4):
        below = [leaf for leaf in leaves if leaf.path[: len(path)] == path] if path else leaves
        step, ambiguous = _model_branch(below, len(path))
        if ambiguous:
            notes.append(
                f"several branches could be the model: {', '.join(map(shorten, ambiguous))}; "
                "all are kept; --root chooses"
            )
        if step is None:
            break
        path = (*path, step)
    while path and not _is_model(path[-1]):
        path = path[:-1]
    if path:
        outside = sum(leaf.path[: len(path)] != path for leaf in leaves)
        note = (
            f"the model is the branch '{shorten(dotted(path))}'; its prefix is dropped from names"
        )
        if outside:
            note += f"; {counted(outside, 'other tensor keeps its', 'other tensors keep theirs')}"
        notes.append(note)
    return path, notes


def role_outside(leaf: Leaf | Tensor, root: tuple[str, ...]) -> str | None:
    """Role of a tensor by the branch it is in: outside of the model, nothing is a parameter."""
    if leaf.role is not None:
        return leaf.role
    if root and leaf.path[: len(root)] == root:
        return None
    # The first key outside of the model's own path says what the branch is.
    shared = 0
    while shared < len(root) and shared < len(leaf.path) and leaf.path[shared] == root[shared]:
        shared += 1
    if shared < len(leaf.path) and (root or len(leaf.path) > 1):
        role = role_of_branch(leaf.path[shared])
        if role is not None:
            return role
    return "other" if root else None


def _is_model(name: str) -> bool:
    name = name.lower()
    return name in _MODEL or name in _PERHAPS_MODEL or re.search(_EMA, name) is not None


def _model_branch(leaves: Sequence[Leaf | Tensor], depth: int) -> tuple[str | None, list[str]]:
    """(the one branch at `depth` that is the model or holds it, names that compete for it)."""
    names = list(dict.fromkeys(leaf.path[depth] for leaf in leaves if len(leaf.path) > depth + 1))
    if not names or any(leaf.role == "optimizer" and len(leaf.path) == depth for leaf in leaves):
        return None, []
    by_role = {name: role_of_branch(name) for name in names}
    sure = [name for name in names if name.lower() in _MODEL]
    if len(sure) == 1:
        return sure[0], []
    if len(sure) > 1:
        return None, sure
    perhaps = [name for name in names if name.lower() in _PERHAPS_MODEL]
    unknown = [name for name in names if by_role[name] is None and name not in perhaps]
    if len(perhaps) == 1 and not unknown:
        return perhaps[0], []
    if perhaps or len(unknown) > 1:
        return None, perhaps if len(perhaps) > 1 else []
    averages = [name for name in names if by_role[name] == "ema"]
    if not unknown and len(averages) == 1:
        return averages[0], []
    flat = any(len(leaf.path) <= depth + 1 for leaf in leaves)
    if len(unknown) == 1 and not averages and not flat and depth == 0:
        return unknown[0], []  # a wrapper: the model may be one level down
    return None, []


def _named_root(leaves: Sequence[Leaf | Tensor], root: str) -> tuple[str, ...]:
    if root == ".":
        return ()
    for leaf in leaves:
        for length in range(1, len(leaf.path)):
            if dotted(leaf.path[:length]) == root:
                return leaf.path[:length]
    choices = [*branches(leaves), "."]
    if len(choices) == 1:
        raise UsageError(
            "the file has no branches", found=f"--root {shorten(root)}", hint="drop --root"
        )
    raise UsageError(
        f"no branch '{shorten(root)}' with tensors",
        expected="one of " + ", ".join(map(shorten, choices[:20])),
    )
