"""The kind of each module of a model whose counterpart has the same module path.

It comes from evidence, strongest first: what the user assumes, what the target's file states, the
only layout that its shapes allow, names and siblings of safe kinds. Where none decides the layer
is open: square weights prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from wtool.checkpoint import BESIDE_MODEL, Checkpoint, Tensor
from wtool.conversion.dense_axes import CONV1D_NAMES, stored_in_out
from wtool.conversion.file_order import in_model_order
from wtool.conversion.keras_facts import Ordered, facts_of, ordered_kind
from wtool.conversion.kernel_shapes import against_transpose, layouts_between
from wtool.conversion.layer_rules import KINDS, NORMS
from wtool.conversion.norm_options import UNNAMED, WHICH, is_unnamed, norm_options
from wtool.conversion.suspects import (
    AXES,
    after_flatten,
    before_pictures,
    has_turned_axes,
    produced_widths,
)
from wtool.conversion.units import cut
from wtool.errors import UsageError
from wtool.layers.names import split_leaf

# Kind that a Keras file states by its class -> kind of the layout table, for a plain weight.
_STATED = {
    "dense": "linear",
    "conv": "conv",
    "transposed_conv": "conv_transpose",
    "depthwise": "depthwise",
    "embedding": "embedding",
}
# Kinds of layers that may have a bias.
_BIASED = (
    "linear", "linear_flatten", "linear_unflatten", "conv1d_linear",
    "conv", "conv_transpose", "depthwise",
)  # fmt: skip
_FLATTEN = "may follow Flatten, whose order differs"
_RESHAPE = "may come before a Reshape to pictures"
# Leaves that tell how many inputs and outputs a Dense has, and how many elements a norm; the first
# of them that is there does.
_TELLING = ("weight", "kernel", "gamma", "scale", "bias", "beta", "running_mean", "moving_mean")
Members = dict[str, Tensor]


@dataclass(frozen=True)
class Assumption:
    """What the user states: modules that match `pattern` are of `kind`."""

    pattern: str
    kind: str


@dataclass(frozen=True)
class FoundKind:
    """A kind of the layout table, what decided it, and the options of its block."""

    kind: str
    evidence: str
    options: Dict[str, object]


def parse_assumptions(texts: Sequence[str]) -> tuple[Assumption, ...]:
    """`PATTERN=KIND` each; UsageError otherwise."""
    made = []
    for text in texts:
        pattern, equals, kind = text.rpartition("=")
        if not equals or not pattern or kind not in KINDS:
            raise UsageError(
                "bad assumption",
                expected=f"PATTERN=KIND with one of {', '.join(KINDS)}",
                found=text,
            )
        made.append(Assumption(pattern, kind))
    return tuple(made)


def modules_of(checkpoint: Checkpoint) -> dict[str, Members]:
    """Tensors of the model by the path of their module, in stored order."""
    modules: dict[str, Members] = {}
    for tensor in checkpoint:
        if tensor.role not in BESIDE_MODEL:
            path, leaf = split_leaf(tensor.name)
            modules.setdefault(path, {})[leaf] = tensor
    return modules


class KindFinder:
    """Kinds of the modules of one source, each with its evidence; a text where none decides."""

    def __init__(
        self,
        source: Checkpoint,
        template: Checkpoint | None,
        assume: Sequence[Assumption],
        is_torch: bool,
    ) -> None:
        self.assume = assume
        self.is_torch = is_torch
        self.targets = {} if template is None else modules_of(template)
        self.has_template = template is not None
        self.stated = template if is_torch else source
        modules = modules_of(source)
        units = cut(source)
        self.units = units
        self.widths = produced_widths(units)
        torch_units = units if is_torch else [] if template is None else cut(template)
        is_ordered = in_model_order(source)
        suspected = units
        if not is_ordered and torch_units and template is not None and in_model_order(template):
            is_ordered, suspected = True, torch_units
        self.behind, self.before = (
            {label.replace(".", "/") for label in find(suspected, ordered=is_ordered)}
            for find in (after_flatten, before_pictures)
        )
        self.axes = stored_in_out(torch_units)
        self.has_conv = any(
            len(t.shape) > 2 and leaf in ("weight", "kernel", "depthwise_kernel")
            for members in modules.values()
            for leaf, t in members.items()
        )
        self.has_conv1d = any(path.endswith(CONV1D_NAMES) for path in modules)
        self.facts = facts_of(template if is_torch else source)

    def find(self, path: str, members: Members) -> FoundKind | str:
        """The kind of a module, or why it is open."""
        swapped = path.replace(".", "/") if self.is_torch else path.replace("/", ".")
        target = self.targets.get(swapped)
        torch, keras = (members, target) if self.is_torch else (target, members)
        assumed = self._assumed(path)
        found = assumed or self._kind(torch, keras)
        if assumed is None and isinstance(found, FoundKind) and found.kind in ("linear", *NORMS):
            found = self._in_order(found, path, members)
        if isinstance(found, FoundKind) and found.kind in _BIASED and torch and keras:
            found = replace(found, options={**found.options, **_one_sided_bias(torch, keras)})
        weight = None if torch is None else torch.get("weight")
        if isinstance(found, str) or found.kind != "conv_transpose" or weight is None:
            return found
        bias = None if torch is None else torch.get("bias")
        kernel = None if keras is None else keras.get("kernel")
        against = against_transpose(
            weight.shape,
            None if bias is None else bias.count,
            None if kernel is None else kernel.shape,
        )
        return against or found

    def _assumed(self, path: str) -> FoundKind | None:
        for assumption in self.assume:
            if fnmatchcase(path, assumption.pattern):
                return FoundKind(assumption.kind, "assumed by the user", {})
        return None

    def _kind(self, torch: Members | None, keras: Members | None) -> FoundKind | str:
        if self.has_template and (torch is None or keras is None):
            return "the target has no module of that name"
        found = self._by_leaves(torch, keras)
        if found is not None:
            return found
        if torch is None:
            return self._from_keras(keras or {})
        if "weight" not in torch:
            return "its tensors are of no known layer"
        return self._weight(torch, keras)

    def _by_leaves(self, torch: Members | None, keras: Members | None) -> FoundKind | None:
        """Kinds that their own tensors give away."""
        if torch is not None:
            if "running_mean" in torch and "running_var" in torch:
                return FoundKind("batchnorm", "names of its tensors", {})
            weight, bias = torch.get("weight"), torch.get("bias")
            if (
                weight is not None
                and bias is not None
                and len(weight.shape) == 1
                and bias.shape == weight.shape
                and weight.count > 1
            ):
                return FoundKind("layernorm", "names and shapes of its tensors", {})
        if keras is not None:
            if "moving_mean" in keras and "moving_variance" in keras:
                return FoundKind("batchnorm", "names of its tensors", {})
            if set(keras) == {"gamma", "beta"} or (torch is not None and _is_one_sided(keras)):
                return FoundKind("layernorm", "names of its tensors", {})
            if set(keras) == {"embeddings"}:
                return FoundKind("embedding", "names of its tensors", {})
            if set(keras) == {"scale"}:
                return FoundKind("rmsnorm", "names of its tensors", {})
        return None

    def _from_keras(self, keras: Members) -> FoundKind | str:
        """Without a torch template: Keras names and classes."""
        if "depthwise_kernel" in keras and "pointwise_kernel" not in keras:
            multiplier = keras["depthwise_kernel"].shape[-1]
            return FoundKind("depthwise", "names of its tensors", {"multiplier": multiplier})
        if "recurrent_kernel" in keras:
            return "a recurrent cell: its PyTorch module has another path"
        if is_unnamed(keras):
            return WHICH
        if _is_one_sided(keras):
            return "a LayerNorm of PyTorch may have both scale and shift: give --like"
        kernel = keras.get("kernel")
        if kernel is None:
            return "its tensors are of no known layer"
        kind = _stated_kind(kernel)
        if kind is None and len(kernel.shape) == 2:
            return FoundKind("linear", "names of its tensors", {})
        if kind == "depthwise":
            return FoundKind(kind, "class stated by the file", {"multiplier": kernel.shape[-1]})
        if kind in ("linear", "conv", "conv_transpose"):
            if len(kernel.shape) == 2 and kind != "linear":
                return "its kernel has no window"
            return FoundKind(kind, "class stated by the file", {})
        return "the file does not state its class"

    def _weight(self, torch: Members, keras: Members | None) -> FoundKind | str:
        weight, bias = torch["weight"], torch.get("bias")
        rank = len(weight.shape)
        if keras is not None:
            stated = self._stated(weight, keras)
            if stated is not None:
                return stated
        if rank == 2:
            if bias is None:
                return "a matrix without a bias may be a Linear or an Embedding"
            if bias.shape == weight.shape:
                return "its bias is a matrix"
            if self.has_conv1d or bias.count != weight.shape[0]:
                return "may be GPT-2's Conv1D, which is stored (in, out)"
            return FoundKind("linear", "names and siblings", {})
        if rank < 3 or rank > 5:
            return f"a weight of rank {rank} is of no known layer"
        if bias is None or weight.shape[0] == weight.shape[1] or weight.shape[1] == 1:
            return "its shape may be a convolution, a depthwise or a transposed one"
        if bias.count == weight.shape[0]:
            return FoundKind("conv", "names and siblings", {})
        if bias.count == weight.shape[1]:
            return FoundKind("conv_transpose", "names and siblings", {})
        return "its bias fits no axis of its weight"

    def _stated(self, weight: Tensor, keras: Members) -> FoundKind | None:
        """The kind by the target's leaves, its class, or the only layout that its shape allows."""
        if "depthwise_kernel" in keras:
            multiplier = keras["depthwise_kernel"].shape[-1]
            return FoundKind("depthwise", "name of the target's tensor", {"multiplier": multiplier})
        kernel = keras.get("kernel")
        if kernel is None:
            return None
        kind = _stated_kind(kernel)
        if kind is None and len(kernel.shape) == 2:
            return FoundKind("linear", "names of the target's tensors", {})
        if kind is not None:
            options = {"multiplier": kernel.shape[-1]} if kind == "depthwise" else {}
            return FoundKind(kind, "class stated by the target", options)
        allowed = layouts_between(weight.shape, kernel.shape)
        return (
            FoundKind(allowed[0], "the only layout of this shape", {})
            if len(allowed) == 1
            else None
        )

    def _in_order(self, found: FoundKind, path: str, members: Members) -> FoundKind | str:
        """The kind of a layer of vectors that may have been pictures, or become some; as the
        configuration states it, else open where that may be.
        """
        slashed = path.replace(".", "/")
        if found.kind in NORMS and found.kind != "rmsnorm":
            options = self._norm_options(slashed, members)
            if isinstance(options, str):
                return options
            found = replace(found, options=options)
        tensor = next(members[leaf] for leaf in (*_TELLING, UNNAMED) if leaf in members)
        shape = tensor.shape[::-1] if self.is_torch else tensor.shape
        stated = ordered_kind(self.facts, slashed, found.kind, shape)
        if stated.problem:
            return stated.problem
        if found.kind in NORMS and has_turned_axes(shape, self.units, is_given=self.has_template):
            return AXES
        if found.kind == "linear":
            in_out = self.axes.get(path if self.is_torch else path.replace("/", "."), False)
            if in_out is None:
                return "may be GPT-2's Conv1D, which is stored (in, out)"
            if in_out and stated.kind == "linear":
                found, stated = replace(found, kind="conv1d_linear"), Ordered("conv1d_linear")
            suspect = slashed in self.behind or (self.has_conv and shape[0] not in self.widths)
            asked = [_FLATTEN] if suspect and not stated.inputs else []
            asked += [_RESHAPE] if slashed in self.before and not stated.outputs else []
            if asked:
                kind = "linear_flatten" if _FLATTEN in asked else "linear_unflatten"
                assume = f"--assume '{path}={kind}' --set chw=C,H,W, or '{path}=linear'"
                return f"{', or '.join(asked)}: {assume}"
        evidence = "; ".join(text for text in (found.evidence, stated.evidence) if text)
        return FoundKind(stated.kind, evidence, {**found.options, **stated.options})

    def _norm_options(self, path: str, members: Members) -> dict[str, object] | str:
        """Which of scale and shift a norm has on each side."""
        target = self.targets.get(path if self.is_torch else path.replace("/", "."))
        if target is None and self.is_torch:
            return _affine(members)
        torch, keras = (members, target) if self.is_torch else (target, members)
        if torch is None:
            # A norm of PyTorch has both, unless its file says otherwise.
            torch = dict.fromkeys(("weight", "bias"), next(iter(members.values())))
            torch = {} if not {"gamma", "beta", UNNAMED} & set(members) else torch
        return norm_options(torch, keras or {}, torch_is_trained=self.is_torch)


def _one_sided_bias(torch: Members, keras: Members) -> dict[str, object]:
    """A bias that one side has alone is made of zeros, and dropped the other way if it is zero."""
    if ("bias" in torch) == ("bias" in keras):
        return {}
    return {"bias": {"only": "a" if "bias" in torch else "b", "fill": 0.0}}


def _stated_kind(kernel: Tensor) -> str | None:
    """What a file says of a layer; what wtool makes of names and shapes itself is no evidence."""
    return None if kernel.kind_is_guess else _STATED.get(kernel.kind or "")


def _is_one_sided(keras: Members) -> bool:
    """Whether a module is a norm of Keras with one vector only."""
    leaves = set(keras)
    stated = any(tensor.kind == "norm" and not tensor.kind_is_guess for tensor in keras.values())
    return is_unnamed(keras) or (stated and leaves in ({"gamma"}, {"beta"}))


def _affine(torch: Members) -> dict[str, object]:
    """Options of a norm of PyTorch, whose counterpart has what it has."""
    return {
        switch: False
        for switch, leaf in (("scale", "weight"), ("center", "bias"))
        if leaf not in torch
    }
