"""A checkpoint cut into the units that a mapping pairs: layers, and tensors that stand alone.

Each unit knows what it may be, as traits that a unit of the other framework may share: a Linear
and a Dense share ("linear", (in, out)). Traits speak in the shapes of Keras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL
from wtool.conversion.norm_options import UNNAMED, is_unnamed
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

# What a unit may be: a kind of the layer rules (or "raw"), and the shape that tells it apart; of a
# recurrent cell whether it reads backwards, and the shape.
Trait = tuple[str, tuple[int, ...]]

# Kind -> pairs of leaves (torch, the names it goes by in Keras and TensorFlow).
LEAVES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "linear": (("weight", ("kernel",)), ("bias", ("bias",))),
    "conv": (("weight", ("kernel",)), ("bias", ("bias",))),
    "conv_transpose": (("weight", ("kernel",)), ("bias", ("bias",))),
    "depthwise": (("weight", ("kernel", "depthwise_kernel")), ("bias", ("bias",))),
    "embedding": (("weight", ("embeddings",)),),
    "batchnorm": (
        ("weight", ("gamma",)),
        ("bias", ("beta",)),
        ("running_mean", ("moving_mean",)),
        ("running_var", ("moving_variance",)),
    ),
    "layernorm": (("weight", ("gamma",)), ("bias", ("beta",))),
    "rmsnorm": (("weight", ("scale", "gamma")),),
    "prelu": (("weight", ("alpha",)),),
}
_RECURRENT_LEAF = re.compile(r"(?:weight|bias)_(?:ih|hh)(_l\d+)?(_reverse)?")
_ATTENTION_PARTS = ("query", "key", "value", "attention_output")
_GATES = {4: "lstm", 3: "gru", 1: "rnn"}
_CELLS = ("lstm_cell", "gru_cell", "simple_rnn_cell", "cell")
_COUNTERS = ("num_batches_tracked",)
# Kind that a file states -> what its kernel may be.
_CONVOLUTIONS = {"conv": ("conv",), "transposed_conv": ("conv_transpose",)}


@dataclass(eq=False)
class Unit:
    """A layer, or a tensor that stands alone.

    path: of the module, for a tensor that stands alone its name; number: its place in the file.
    cell: which part of a torch RNN it is, "_l0_reverse"; empty for all else.
    members: last component of a name (below `path`) -> tensor. traits: what it may be.
    """

    path: str
    number: int
    members: dict[str, Tensor] = field(default_factory=dict)
    cell: str = ""
    traits: frozenset[Trait] = frozenset()

    @property
    def label(self) -> str:
        """What tells it apart in one checkpoint."""
        return self.path + self.cell

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor that stands alone, and no layer."""
        return "" in self.members


def stored_leaves(path: str, members: Mapping[str, Tensor]) -> dict[str, str]:
    """Leaf -> what the file calls it below `path`, where that is not the leaf: "kernel:0"."""
    return {
        leaf: tensor.name[len(path) + 1 :]
        for leaf, tensor in members.items()
        if tensor.name[:-1].startswith(f"{path}/{leaf}:")
    }


def is_torch(checkpoint: Checkpoint) -> bool:
    """Whether names are those of a PyTorch state dict; else they are Keras's or TensorFlow's."""
    slashes = sum("/" in tensor.name for tensor in checkpoint)
    return 2 * slashes < len(checkpoint)


def cut(checkpoint: Checkpoint) -> list[Unit]:
    """The units of the model in `checkpoint`, in stored order; optimizer state is left out."""
    aliases = checkpoint.aliases
    torch = is_torch(checkpoint)
    modules: dict[str, dict[str, Tensor]] = {}
    for tensor in checkpoint:
        if tensor.role in BESIDE_MODEL or tensor.name in aliases:
            continue
        module, leaf = split_leaf(tensor.name)
        if leaf not in _COUNTERS:
            modules.setdefault(module, {})[leaf] = tensor
    units: list[Unit] = []
    attention = _torch_attention(modules) if torch else _keras_attention(modules)
    for module, members in modules.items():
        if module in attention:
            owner, prefix = attention[module]
            if owner == module or prefix == _ATTENTION_PARTS[0]:
                units.append(_attention_unit(owner, modules, attention, len(units)))
            continue
        if torch:
            units.extend(_torch_units(module, members, len(units)))
        else:
            units.extend(_keras_units(module, members, len(units)))
    return units


def _torch_attention(modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[str, str]]:
    """Module -> (attention layer that it belongs to, name within it)."""
    found = {}
    for module, members in modules.items():
        if "in_proj_weight" in members and f"{module}.out_proj" in modules:
            found[module] = (module, "")
            found[f"{module}.out_proj"] = (module, "out_proj")
    return found


def _keras_attention(modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[str, str]]:
    found = {}
    for module, members in modules.items():
        owner, _, last = module.rpartition("/")
        if last == "query" and len(_shape(members, "kernel")) == 3:
            parts = {part: f"{owner}/{part}" for part in _ATTENTION_PARTS}
            if all(path in modules for path in parts.values()):
                found.update({path: (owner, part) for part, path in parts.items()})
    return found


def _attention_unit(
    owner: str,
    modules: Mapping[str, Mapping[str, Tensor]],
    attention: Mapping[str, tuple[str, str]],
    number: int,
) -> Unit:
    unit = Unit(owner, number)
    separator = "." if "in_proj_weight" in modules.get(owner, {}) else "/"
    for module, (belongs, prefix) in attention.items():
        if belongs == owner:
            for leaf, tensor in modules[module].items():
                unit.members[f"{prefix}{separator}{leaf}" if prefix else leaf] = tensor
    if "in_proj_weight" in unit.members:
        rows, width = unit.members["in_proj_weight"].shape
        unit.traits = frozenset({("mha", (width, rows // 3))})
    else:
        width, heads, size = unit.members["query/kernel"].shape
        same = all(
            unit.members[f"{part}/kernel"].shape == (width, heads, size)
            for part in ("key", "value")
        )
        unit.traits = frozenset({("mha", (width, heads * size))} if same else ())
    return unit


def _torch_units(module: str, members: Mapping[str, Tensor], number: int) -> list[Unit]:
    cells: dict[str, dict[str, Tensor]] = {}
    for leaf, tensor in members.items():
        match = _RECURRENT_LEAF.fullmatch(leaf)
        if match:
            cells.setdefault((match[1] or "") + (match[2] or ""), {})[leaf] = tensor
    if cells:
        return [
            Unit(module, number + i, parts, cell, _torch_cell_traits(parts, cell))
            for i, (cell, parts) in enumerate(cells.items())
        ]
    traits = _torch_traits(members)
    known = {leaf for kind, _ in traits for leaf, _ in LEAVES[kind]}
    units = []
    if traits:
        layer = {leaf: tensor for leaf, tensor in members.items() if leaf in known}
        units.append(Unit(module, number, layer, "", traits))
    alone = [tensor for leaf, tensor in members.items() if leaf not in known]
    return units + _raw_units(alone, number + len(units))


def _torch_cell_traits(members: Mapping[str, Tensor], cell: str) -> frozenset[Trait]:
    inputs = _shape(members, f"weight_ih{cell}")
    hidden = _shape(members, f"weight_hh{cell}")
    if len(inputs) != 2 or len(hidden) != 2 or not hidden[1]:
        return frozenset()
    gates, rest = divmod(hidden[0], hidden[1])
    if rest or gates not in _GATES:
        return frozenset()
    return frozenset({(_GATES[gates], ("_reverse" in cell, inputs[1], hidden[1]))})


def _torch_traits(members: Mapping[str, Tensor]) -> frozenset[Trait]:
    shape = _shape(members, "weight")
    rank = len(shape)
    stated = members["weight"].kind if "weight" in members else None
    if "running_mean" in members:
        return frozenset({("batchnorm", _shape(members, "running_mean"))})
    if "bias" in members and _shape(members, "bias") == shape and rank:
        return frozenset({("layernorm", shape)})
    if rank == 1:
        return frozenset({("rmsnorm", shape), ("prelu", shape)})
    if rank == 2:
        if stated == "embedding" and "bias" not in members:
            return frozenset({("embedding", shape)})
        bias = _shape(members, "bias")
        # A bias is as long as the outputs: GPT-2's Conv1D is stored (in, out).
        is_in_out = bias == shape[1:] and bias != shape[:1]
        linear: Trait = ("linear", shape if is_in_out else shape[::-1])
        if "bias" in members or stated == "dense":
            return frozenset({linear})
        return frozenset({linear, ("embedding", shape)})
    if 3 <= rank <= 5:
        # (O, I, k..) of a convolution, (I, O, k..) of a transposed one; the bias has O.
        kernel = (*shape[2:], shape[1], shape[0])
        width = _shape(members, "bias") if "bias" in members else None
        traits: set[Trait] = set()
        if width in (None, shape[:1]) and stated != "transposed_conv":
            traits.add(("conv", kernel))
            if shape[1] == 1:
                traits.add(("depthwise", (*shape[2:], shape[0])))
        if width in (None, shape[1:2]) and stated not in ("conv", "depthwise"):
            traits.add(("conv_transpose", kernel))
        return frozenset(traits)
    return frozenset()


def _keras_units(module: str, members: Mapping[str, Tensor], number: int) -> list[Unit]:
    traits = _keras_traits(module, members)
    recurrent = {"kernel", "recurrent_kernel", "bias"}
    kinds = {kind for kind, _ in traits}
    known = {leaf for kind in kinds & set(LEAVES) for _, ls in LEAVES[kind] for leaf in ls}
    known |= recurrent if kinds & set(_GATES.values()) else set()
    known |= {UNNAMED} if is_unnamed(members) else set()
    units = []
    if traits:
        layer = {leaf: tensor for leaf, tensor in members.items() if leaf in known}
        units.append(Unit(module, number, layer, "", traits))
    alone = [tensor for leaf, tensor in members.items() if leaf not in known]
    return units + _raw_units(alone, number + len(units))


def split_direction(path: str) -> tuple[str, str]:
    """(path without the cell and the direction, "forward", "backward" or "") of a Keras cell."""
    parts = path.split("/")
    if len(parts) > 1 and parts[-1] in _CELLS:
        parts.pop()
    direction = ""
    if len(parts) > 1 and parts[-1].startswith(("forward", "backward")):
        direction = parts.pop().partition("_")[0]
    return "/".join(parts), direction


def _keras_traits(module: str, members: Mapping[str, Tensor]) -> frozenset[Trait]:
    if "recurrent_kernel" in members and "kernel" in members:
        inputs, hidden = _shape(members, "kernel"), _shape(members, "recurrent_kernel")
        gates = hidden[1] // max(hidden[0], 1) if len(hidden) == len(inputs) == 2 else 0
        if gates not in _GATES:
            return frozenset()
        return frozenset((_GATES[gates], (way, inputs[0], hidden[0])) for way in _ways(module))
    if "moving_mean" in members:
        return frozenset({("batchnorm", _shape(members, "moving_mean"))})
    if "gamma" in members and "beta" in members:
        return frozenset({("layernorm", _shape(members, "gamma"))})
    if is_unnamed(members) or (set(members) == {"beta"} and members["beta"].kind == "norm"):
        # One vector, whose counterpart may be alone too.
        (tensor,) = members.values()
        return frozenset({("layernorm", tensor.shape), ("rmsnorm", tensor.shape)})
    for leaf, kind in (("scale", "rmsnorm"), ("gamma", "rmsnorm"), ("alpha", "prelu")):
        if leaf in members:
            shape = tuple(n for n in _shape(members, leaf) if n != 1) or (1,)
            one_sided = leaf == "gamma" and members[leaf].kind == "norm"
            return frozenset({(kind, shape), *({("layernorm", shape)} if one_sided else ())})
    if "embeddings" in members:
        return frozenset({("embedding", _shape(members, "embeddings"))})
    if "pointwise_kernel" in members:
        return frozenset()
    depthwise = _shape(members, "depthwise_kernel")
    shape = depthwise or _shape(members, "kernel")
    if depthwise or ("kernel" in members and members["kernel"].kind == "depthwise"):
        return frozenset({("depthwise", (*shape[:-2], shape[-2] * shape[-1]))})
    if len(shape) == 2:
        return frozenset({("linear", shape)})
    if not 3 <= len(shape) <= 5:
        return frozenset()
    kinds = _CONVOLUTIONS.get(members["kernel"].kind or "", ("conv", "conv_transpose"))
    return frozenset((kind, shape) for kind in kinds)


def _ways(module: str) -> tuple[bool, ...]:
    """Whether the cell reads backwards, as Keras names the two layers of a Bidirectional; either
    where the name does not tell.
    """
    _, direction = split_direction(module)
    return (direction == "backward",) if direction else (False, True)


def _raw_units(tensors: list[Tensor], number: int) -> list[Unit]:
    """Tensors whose layout nothing states: they are paired as they lie, where shapes agree."""
    units = []
    for i, tensor in enumerate(tensors):
        traits: set[Trait] = {("raw", tensor.shape)}
        if tensor.kind == "embedding" and len(tensor.shape) == 2:
            traits.add(("embedding", tensor.shape))
        units.append(Unit(tensor.name, number + i, {"": tensor}, "", frozenset(traits)))
    return units


def _shape(members: Mapping[str, Tensor], leaf: str) -> tuple[int, ...]:
    return members[leaf].shape if leaf in members else ()
