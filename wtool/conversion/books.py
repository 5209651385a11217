"""What one conversion has taken, given and left open so far: the state that its parts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.keras_facts import KerasFacts, facts_of
from wtool.conversion.operations import Extents
from wtool.conversion.outcome import Open, Step
from wtool.conversion.rules import Block, Mapping, SideName, other
from wtool.conversion.templates import Template, Values

# Roles of tensors that a file keeps for itself: graphs, counters of saves, random state.
BOOKKEEPING = "other"

_CONVOLUTIONS = ("conv", "depthwise", "transposed_conv")


@dataclass
class Instance:
    """A block met for one set of variables. found: part -> index of its template -> tensor."""

    block: Block
    values: Values
    order: int
    found: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    left: dict[str, Extents] = field(default_factory=dict)


class Books:
    """Every tensor of both sides, by what became of it; filled by the parts of the engine."""

    def __init__(
        self,
        source: Checkpoint,
        mapping: Mapping,
        to: SideName,
        template: Checkpoint | None,
        sidecar: Checkpoint | None,
        one_way: bool,
    ) -> None:
        self.source = source
        self.mapping = mapping
        self.to = to
        self.origin = other(to)
        self.template = template
        self.slots: dict[str, Tensor] = {}
        if template is not None:
            for tensor in template:
                self.slots[tensor.name] = tensor
        self.sidecar = sidecar
        self.one_way = one_way
        self.steps: list[tuple[int, Step]] = []
        self.open: list[Open] = []
        self.claims: dict[str, str] = {}
        self.given: dict[str, Tensor] = {}
        self.aside: list[str] = []
        self.restored: set[str] = set()
        self.places = {name: index for index, name in enumerate(source.tensors)}

    @cached_property
    def flat_widths(self) -> frozenset[int] | None:
        """Lengths of the source's vectors, which a Dense after another layer takes as inputs.

        None for a model without convolutions, where no pictures are flattened.
        """
        if not any(tensor.kind in _CONVOLUTIONS for tensor in self.source):
            return None
        return frozenset(t.shape[0] for t in self.source if len(t.shape) == 1)

    @cached_property
    def keras_facts(self) -> KerasFacts:
        """What the configuration of the Keras side's file states, where it is at hand."""
        is_torch = self.mapping.sides[self.origin].is_torch
        return facts_of(self.template if is_torch else self.source)

    def evidence(self, block: Block) -> str:
        """Why the rule is believed: its own evidence, or the file that states it."""
        if block.evidence != "mapping":
            return block.evidence
        if self.mapping.path.startswith("preset "):
            return self.mapping.path
        return f"mapping {block.label}"

    def fail(self, tensor: str, problem: str, label: str = "") -> None:
        """The conversion is not complete: `problem` is what is open."""
        self.open.append(Open(tensor, problem, label))

    def add(self, order: int, step: Step) -> None:
        """One more step; `order` is its place among the others."""
        self.steps.append((order, step))

    def claim(self, name: str, label: str) -> bool:
        """Whether the tensor was free; two rules for one tensor are an error."""
        if name in self.claims:
            self.fail(name, f"is taken by two rules: {self.claims[name]} and {label}")
            return False
        self.claims[name] = label
        return True

    def matches(self, template: Template) -> list[tuple[Tensor, Values]]:
        """The source's tensors that a template names, with its variables."""
        if template.literal is not None:
            tensor = self.source.tensors.get(template.literal)
            return [] if tensor is None else [(tensor, {})]
        found = []
        for name, tensor in self.source.tensors.items():
            values = template.match(name)
            if values is not None:
                found.append((tensor, values))
        return found

    def leave(self, status: str, tensor: Tensor, label: str, reason: str) -> None:
        """A step that takes a tensor and gives none."""
        self.add(
            self.places[tensor.name], Step(status, (tensor,), (), "", label, label, reason=reason)
        )

    def give(self, tensor: Tensor, label: str) -> bool:
        """Whether the target's name was free."""
        if tensor.name in self.given:
            self.fail(tensor.name, "is given twice", label)
            return False
        self.given[tensor.name] = tensor
        return True
