"""Roles, layers and kinds for a whole checkpoint, from the strongest evidence there is.

Evidence, strongest first: what the reader set (the file states it), names and siblings, then shape
and element type. What none of them decides stays "unknown".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL
from wtool.layers.kinds import KindFinder, Members, kind_of_leaf
from wtool.layers.names import (
    BRANCH_ROLES,
    BRANCHES,
    LOSS,
    PARAMETRIZATIONS,
    role_of_branch,
    role_of_leaf,
    role_of_slot,
    split_leaf,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wtool.checkpoint import Checkpoint, Tensor

LEARNED = ("weight", "bias")
_LEARNABLE_KINDS = ("float", "complex")
# What the last component of a name says of these needs no second look, save where siblings change
# what it means.
_BY_LEAF = frozenset(("weight", "buffer", "optimizer", "other"))
_BY_SIBLINGS = frozenset(("weight_v", "scale"))
# Branches of a nested file that hold the model, when a name still starts with one of them.
MODEL_BRANCHES = frozenset(("state_dict", "model_state_dict", "model_state", "params"))


def assign_roles(checkpoint: Checkpoint, *, kinds: bool = True) -> None:
    """Fill `role`, `layer` and `kind` of every tensor where the reader left None; reads no values.

    kinds: False leaves `layer` and `kind` as they are.

    A parameter is a weight or a bias. A floating tensor of a model that no name calls state is a
    weight (`cls_token`); an integer one is a buffer, for nothing can be learned in integers, unless
    its name says weight (quantised). Where nothing says that the file is a model, both are unknown.
    What the file calls a parameter is a weight, or a bias where its name says so.
    """
    modules = _group_by_module(checkpoint.tensors)
    undecided, evident = _assign_by_name(modules, checkpoint.tensors)
    _assign_undecided(undecided, evident)
    _unlearn_frozen_norms(modules)
    _unlearn_class_weights(modules)
    _unlearn_lora_scales(modules)
    if kinds:
        _assign_kinds(modules)


def _group_by_module(tensors: Mapping[str, Tensor]) -> dict[str, Members]:
    """Module path -> last component -> tensor, both in stored order."""
    modules: dict[str, Members] = {}
    text = "\0".join(tensors)
    is_dotted = not any(mark in text for mark in ("/", ":", PARAMETRIZATIONS))
    for name, tensor in tensors.items():
        if is_dotted:
            module, _, leaf = name.rpartition(".")
        else:
            module, leaf = split_leaf(name)
        members = modules.get(module)
        if members is None:
            modules[module] = {leaf: tensor}
        else:
            # "w:0" and "w" of one module would share a leaf; the second keeps its full spelling.
            members[leaf if leaf not in members else name] = tensor
    return modules


def _assign_by_name(
    modules: Mapping[str, Members], tensors: Mapping[str, Tensor]
) -> tuple[list[tuple[str, Tensor]], set[str]]:
    """Roles that names and siblings decide. (module and tensor of those that they do not decide,
    first components of names under which something is known to be learned).
    """
    leaf_roles: dict[str, str | None] = {}
    plain: dict[str, str] = {}  # of the leaves that need no second look in an ordinary module
    undecided: list[tuple[str, Tensor]] = []
    evident: set[str] = set()
    variables = modules.keys() & tensors.keys()
    for module, members in modules.items():
        slash = "/" in module
        first = module.partition("/" if slash else ".")[0]
        if slash or first in BRANCHES:
            branch = role_of_branch(module)
            if branch is not None:
                for tensor in members.values():
                    if tensor.role is None:
                        tensor.role = branch
                continue
        if variables and module in variables and module:
            _assign_attached(module, members)
        is_odd = slash or not module
        for leaf, tensor in members.items():
            role = tensor.role
            if role is None:
                role = None if is_odd else plain.get(leaf)
                if role is None:
                    if leaf not in leaf_roles:
                        role = leaf_roles[leaf] = role_of_leaf(leaf)
                        if role in _BY_LEAF and leaf not in _BY_SIBLINGS:
                            plain[leaf] = role
                    role = _judge(module, leaf, tensor, members, leaf_roles[leaf])
                if tensor.is_parameter and role != "bias":
                    role = "weight"
                if role is None:
                    undecided.append((module, tensor))
                    continue
                tensor.role = role
            if role in LEARNED:
                evident.add(first)
    return undecided, evident


def _assign_attached(variable: str, members: Members) -> None:
    """Roles of tensors whose parent is itself a tensor: TensorFlow slots, quantisation scales."""
    attached = "optimizer" if "/" in variable else "buffer"
    for leaf, tensor in members.items():
        if tensor.role is None and not tensor.is_parameter:
            tensor.role = role_of_slot(leaf) or attached


def _judge(
    module: str, leaf: str, tensor: Tensor, members: Members, role: str | None
) -> str | None:
    """The role of a tensor whose last component says `role`, from all that its module shows."""
    if "/" in module and role in (None, "weight"):
        role = role_of_slot(leaf) or role
    elif not module:
        role = BRANCH_ROLES.get(leaf, role)
    if role is None:
        return _judge_siblings(leaf, members)
    if role == "bias" and not tensor.is_parameter:
        return _judge_bias(tensor)
    return _judge_weight(leaf, members) if role == "weight" else role


def _judge_bias(tensor: Tensor) -> str:
    """A "bias" of shape (1, 1, n, n), or of booleans, is the causal mask that GPT-2 calls so."""
    shape = tensor.extent.shape
    if tensor.extent.dtype.kind == "bool":
        return "buffer"
    if len(shape) == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3] > 1:
        return "buffer"
    return "bias"


def _judge_weight(leaf: str, members: Members) -> str:
    """Spectral norm keeps its vectors beside `weight_orig`; weight norm learns the same names."""
    if leaf == "weight_v" and "weight_u" in members:
        return "buffer"
    if leaf == "scale" and "zero_point" in members:  # of a quantised layer's output
        return "buffer"
    return "weight"


def _judge_siblings(leaf: str, members: Members) -> str | None:
    """Roles of names that mean something only beside others: Keras Normalization, spectral norm."""
    if leaf in ("mean", "variance", "count") and "mean" in members and "variance" in members:
        return "buffer"
    if leaf in ("mean", "std") and "mean" in members and "std" in members:
        return "buffer"
    if leaf == "_v" and "_u" in members:
        return "buffer"
    if leaf == "embed" and "cluster_size" in members:
        return "buffer"
    if leaf == "betas" and "alphas_cumprod" in members:
        return "buffer"  # the schedule of a diffusion
    if leaf == "freqs" and len(members[leaf].extent.shape) == 1:
        return "buffer"  # rotary; learned ones have an axis for the layers
    if leaf in ("0", "1") and "0" in members and _is_quantised(members["0"]):
        return "weight" if leaf == "0" else "bias"  # torch's packed parameters of a layer
    if leaf in ("w", "b") and "w" in members and "b" in members:
        return "weight" if leaf == "w" else "bias"
    return None


def _is_quantised(tensor: Tensor) -> bool:
    """Whether the type itself says that integers stand for learned numbers: qint8, quint8..."""
    return tensor.extent.dtype.name.startswith(("qint", "quint"))


def _assign_undecided(undecided: list[tuple[str, Tensor]], evident: set[str]) -> None:
    """Roles by element type, where the file is known to hold a model."""
    wrapped = len(evident) == 1 and evident <= MODEL_BRANCHES
    for module, tensor in undecided:
        separator = "/" if "/" in module else "."
        if not evident or (wrapped and module.partition(separator)[0] not in evident):
            tensor.role = "unknown"
        elif tensor.extent.dtype.kind in _LEARNABLE_KINDS or _is_quantised(tensor):
            tensor.role = "weight"
        elif tensor.extent.dtype.kind in ("int", "uint", "bool"):
            tensor.role = "buffer"
        else:
            tensor.role = "other"


def _unlearn_frozen_norms(modules: Mapping[str, Members]) -> None:
    """Frozen batch normalisation registers its weight and bias as buffers.

    It has no `num_batches_tracked`; where other layers of the file have one, its absence says so.
    """
    norms = [members for members in modules.values() if "running_var" in members]
    frozen = [members for members in norms if "num_batches_tracked" not in members]
    if len(frozen) < len(norms):
        for members in frozen:
            for leaf in ("weight", "bias"):
                tensor = members.get(leaf)
                if tensor is not None and tensor.role in LEARNED and not tensor.is_parameter:
                    tensor.role = "buffer"


def _unlearn_class_weights(modules: Mapping[str, Members]) -> None:
    """A loss registers the weights of its classes as a buffer, one number a class."""
    for module, members in modules.items():
        if "oss" not in module and "criterion" not in module:
            continue
        tensor = members.get("weight")
        if (
            tensor is not None
            and len(tensor.extent.shape) == 1
            and tensor.role == "weight"
            and "bias" not in members
            and not tensor.is_parameter
            and re.fullmatch(LOSS, module.rpartition(".")[2])
        ):
            tensor.role = "buffer"


def _unlearn_lora_scales(modules: Mapping[str, Members]) -> None:
    """`alpha` beside the factors of an adapter is the scale that was chosen for it, not learned.

    Source: kohya-ss/sd-scripts `networks/lora.py`, LyCORIS: `register_buffer("alpha", ...)`.
    """
    for module, members in modules.items():
        tensor = members.get("alpha")
        if tensor is None or tensor.extent.shape or tensor.role not in LEARNED:
            continue
        if f"{module}.lora_down" in modules or any(
            leaf.startswith(("hada_", "lokr_", "oft_")) for leaf in members
        ):
            tensor.role = "buffer"


def _assign_kinds(modules: Mapping[str, Members]) -> None:
    """Layer and kind of every tensor; slots take those of the variable that they belong to."""
    finder = KindFinder(modules)
    attached = []
    for module, members in modules.items():
        kind = None
        for leaf, tensor in members.items():
            if tensor.role in BESIDE_MODEL:
                attached.append((module, tensor))
                continue
            if kind is None:
                kind = finder.find(module, members)
            if tensor.layer is None:
                tensor.layer = module
            if tensor.kind is None:
                tensor.kind = kind_of_leaf(leaf, tensor, kind)
                tensor.kind_is_guess = True
    for module, tensor in attached:
        layer = split_leaf(module)[0] if "/" in module else module
        if tensor.layer is None:
            tensor.layer = layer
        if tensor.kind is None:
            owner = modules.get(layer, {}).values()
            kinds = (t.kind for t in owner if t.role not in BESIDE_MODEL and t.kind)
            tensor.kind = next(kinds, "unknown")
