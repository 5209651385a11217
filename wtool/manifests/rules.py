"""Freezing rules: which tensors a rule speaks of, and what all of them together decide.

Rules apply in the order given and the last one that speaks of a tensor wins. What no rule speaks of
is the opposite of the first rule: `--freeze` first leaves the rest trained, `--train` first leaves
it frozen. A rule that speaks of nothing is an error.

Buffers (running statistics) are frozen unless every learned tensor of their layer is trained; only
a rule whose pattern matches buffers and nothing else decides them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wtool.checkpoint import Checkpoint, Tensor
from wtool.errors import UsageError
from wtool.layers.kinds import KINDS
from wtool.manifests.layer_order import layer_order

STATES = ("frozen", "trained")
# Rule -> the state that it gives.
RULES = {
    "freeze": "frozen",
    "train": "trained",
    "train-last": "trained",
    "freeze-until": "frozen",
    "freeze-kind": "frozen",
    "train-kind": "trained",
    "train-biases": "trained",
    "replace": "trained",
}
_PATTERNS = ("freeze", "train", "replace")
_MODEL_ROLES = ("weight", "bias", "buffer", "unknown", None)
# Random state of dropout layers: it moves on with every step, whatever is frozen.
_RANDOM_STATE = "seed_generator_state"

Match = Callable[[str, Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a name of RULES, and its pattern, number, layer or kind; None for train-biases."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return f"--{self.name}" + ("" if self.value is None else f" {self.value}")


@dataclass(slots=True)
class Decision:
    """What the rules say: a state of every tensor of the model, and which may be replaced."""

    default: str
    states: dict[str, str] = field(default_factory=dict)
    replaceable: set[str] = field(default_factory=set)


def is_buffer(tensor: Tensor) -> bool:
    """Whether a tensor is state that gradients do not change: a buffer, or no floating numbers."""
    return tensor.role == "buffer" or tensor.dtype.kind not in ("float", "complex")


def model_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model itself, in stored order: without optimizer state, EMA copies, random state."""
    return {
        tensor.name: tensor
        for tensor in checkpoint
        if tensor.role in _MODEL_ROLES and not tensor.name.endswith(_RANDOM_STATE)
    }


def decide(checkpoint: Checkpoint, rules: Sequence[Rule], match: Match) -> Decision:
    """Apply `rules` in order.

    match(pattern, names): the names that a pattern selects, possibly none; raises UsageError for a
    pattern that is none. UsageError where there is no rule, a rule speaks of nothing, or tied
    tensors would get different states.
    """
    if not rules:
        raise UsageError("no rule says what is frozen", hint="for example --freeze 'backbone.*'")
    for rule in rules:
        if rule.name not in RULES:
            raise UsageError("unknown rule", expected=", ".join(RULES), found=rule.name)
    tensors = model_tensors(checkpoint)
    learned = {name: tensor for name, tensor in tensors.items() if not is_buffer(tensor)}
    decision = Decision("trained" if RULES[rules[0].name] == "frozen" else "frozen")
    states = dict.fromkeys(learned, decision.default)
    spoken: dict[str, str] = {}
    for rule in rules:
        names = _names_of(rule, checkpoint, tensors, learned, match)
        if not names:
            raise UsageError(f"{rule} matches nothing", hint="wtool ls MODEL lists the names")
        state = RULES[rule.name]
        only_buffers = not any(name in learned for name in names)
        for name in names:
            if name in learned:
                states[name] = state
            elif only_buffers:
                spoken[name] = state
        if rule.name == "replace":
            decision.replaceable.update(names)
        elif state == "frozen":
            decision.replaceable.difference_update(names)
    states |= _buffer_states(tensors, states, spoken, decision)
    decision.states = {name: states[name] for name in tensors}
    _refuse_split_ties(checkpoint, decision.states)
    return decision


def _names_of(
    rule: Rule,
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    learned: dict[str, Tensor],
    match: Match,
) -> list[str]:
    """The names of the tensors that a rule speaks of, possibly none."""
    value = rule.value or ""
    if rule.name in _PATTERNS:
        chosen = set(match(value, list(tensors)))
        layers = sorted({tensor.layer for tensor in tensors.values() if tensor.layer})
        in_layers = set(match(value, layers))
        return [name for name, t in tensors.items() if name in chosen or t.layer in in_layers]
    if rule.name == "train-biases":
        return [name for name, tensor in learned.items() if tensor.role == "bias"]
    if rule.name in ("freeze-kind", "train-kind"):
        if value not in KINDS:
            raise UsageError("unknown kind of layer", expected=", ".join(KINDS), found=value)
        return [name for name, tensor in learned.items() if tensor.kind == value]
    order = layer_order(checkpoint, learned.values(), f"--{rule.name}")
    if rule.name == "train-last":
        number = int(value) if value.isdecimal() and len(value) < 10 else 0
        if not 1 <= number <= len(order):
            raise UsageError(
                "bad number of layers", expected=f"--train-last 1 to {len(order)}", found=value
            )
        layers_chosen = set(order[-number:])
    else:
        starts = [i for i, layer in enumerate(order) if is_within(layer, value)]
        layers_chosen = set(order[: starts[0]]) if starts else set()
    return [name for name, tensor in learned.items() if (tensor.layer or "") in layers_chosen]


def is_within(layer: str, path: str) -> bool:
    """Whether the layer is `path` or lies below it: "layer4.0.conv1" within "layer4"."""
    return layer == path or layer.startswith((path + ".", path + "/"))


def _buffer_states(
    tensors: dict[str, Tensor], states: dict[str, str], spoken: dict[str, str], decision: Decision
) -> dict[str, str]:
    """States of the buffers, from what was said of them or from their layers."""
    by_layer: dict[str | None, set[str]] = {}
    for name, state in states.items():
        by_layer.setdefault(tensors[name].layer, set()).add(state)
    found = {}
    for name, tensor in tensors.items():
        if name in states:
            continue
        of_layer = by_layer.get(tensor.layer, {decision.default})
        whole = of_layer == {"trained"} or name in decision.replaceable
        state = "trained" if whole else "frozen"
        found[name] = spoken.get(name, state)
    return found


def _refuse_split_ties(checkpoint: Checkpoint, states: dict[str, str]) -> None:
    for alias, owner in checkpoint.aliases.items():
        if alias in states and owner in states and states[alias] != states[owner]:
            raise UsageError(
                f"tied tensors cannot be split: '{alias}' would be {states[alias]}, '{owner}' "
                f"{states[owner]}",
                hint="give both the same rule",
            )
