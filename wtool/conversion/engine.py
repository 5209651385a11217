"""A mapping applied to a checkpoint: every tensor of both sides accounted for, or nothing is done.

`convert_layouts` plans and verifies; `plan_layouts` plans alone, which reads headers only. Each
tensor of the source is taken by one rule, or left out by one that says why; each of the target is
given once. What does not fit is listed as open. Values are lazy: a writer streams them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.derived import Derived, is_constant, same_bits
from wtool.conversion.operations import Extents, apply_all
from wtool.conversion.outcome import Open, Outcome, Step
from wtool.conversion.rules import Block, Made, Mapping, Part, SideName, other
from wtool.conversion.templates import Template, Values
from wtool.dtypes import DTYPES, DType
from wtool.errors import UnsupportedError, UsageError
from wtool.extents import Extent

if TYPE_CHECKING:
    import numpy as np

# Roles of tensors that a file keeps for itself: graphs, counters of saves, random state.
BOOKKEEPING = "other"
# Roles of what is beside the model; of a template they are kept as they are.
BESIDE = ("optimizer", "ema", BOOKKEEPING)


@dataclass
class _Instance:
    """A block met for one set of variables. found: part -> index of its template -> tensor."""

    block: Block
    values: Values
    order: int
    found: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    left: dict[str, Extents] = field(default_factory=dict)


def choose_side(source: Checkpoint, mapping: Mapping, framework: str | None = None) -> SideName:
    """The side to convert to: that of the framework where one is, else the one the source is not.

    UsageError where the framework is on neither side.
    """
    if framework is not None:
        side = mapping.side_of(framework)
        if side is not None:
            return side
        wanted = framework == "torch"
        if all(mapping.sides[s].is_torch != wanted for s in ("a", "b")):
            raise UsageError(
                f"mapping '{mapping.name}' has no side of {framework}",
                found=", ".join(side.framework for side in mapping.sides.values()),
            )
    taken: dict[SideName, int] = {"a": 0, "b": 0}
    sides: tuple[SideName, ...] = ("a", "b")
    for side in sides:
        outcome = plan_layouts(source, mapping, to=other(side))
        taken[side] = sum(len(step.sources) for step in outcome.steps) - len(outcome.open)
    return "a" if taken["b"] > taken["a"] else "b"


def plan_layouts(
    source: Checkpoint,
    mapping: Mapping,
    *,
    to: SideName,
    template: Checkpoint | None = None,
    sidecar: Checkpoint | None = None,
    one_way: bool = False,
) -> Outcome:
    """The conversion of `source` to side `to`. Reads no values, save those that a sidecar restores.

    template: a checkpoint of the target model: names, shapes and types must be its own, exactly.
    sidecar: what an earlier conversion from side `to` set aside. one_way: parts without a way to
    `to` are passed over, for checking what the others give. Never raises for what does not fit.
    """
    return _Planner(source, mapping, to, template, sidecar, one_way).plan()


class _Planner:
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

    def plan(self) -> Outcome:
        """Run every rule, then account for what is left."""
        instances, unused = self._match_blocks()
        self._drop_named()
        self._claim_bookkeeping()
        for instance in sorted(instances, key=lambda one: one.order):
            self._convert(instance)
        self._make_named()
        self._tie_target()
        for name in self.source.tensors:
            if name not in self.claims:
                role = self.source.tensors[name].role
                beside = f"; it is {role} state: --model-only leaves it out"
                self._fail(name, "has no rule" + (beside if role in BESIDE else ""))
        if self.template is not None:
            self._check_template()
        if self.sidecar is not None:
            self._check_sidecar(self.sidecar)
        self._check_balance()
        return Outcome(
            self.source,
            self.mapping,
            self.to,
            tuple(step for _, step in sorted(self.steps, key=lambda pair: pair[0])),
            tuple(self.open),
            tuple(unused),
            tuple(dict.fromkeys(self.aside)),
        )

    def _fail(self, tensor: str, problem: str, label: str = "") -> None:
        self.open.append(Open(tensor, problem, label))

    def _add(self, order: int, step: Step) -> None:
        self.steps.append((order, step))

    def _evidence(self, block: Block) -> str:
        """Why the rule is believed: its own evidence, or the file that states it."""
        if block.evidence != "mapping":
            return block.evidence
        if self.mapping.path.startswith("preset "):
            return self.mapping.path
        return f"mapping {block.label}"

    def _claim(self, name: str, label: str) -> bool:
        """Whether the tensor was free; two rules for one tensor are an error."""
        if name in self.claims:
            self._fail(name, f"is taken by two rules: {self.claims[name]} and {label}")
            return False
        self.claims[name] = label
        return True

    def _matches(self, template: Template) -> list[tuple[Tensor, Values]]:
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

    def _match_blocks(self) -> tuple[list[_Instance], list[str]]:
        instances: dict[tuple[int, frozenset[tuple[str, object]]], _Instance] = {}
        unused = []
        for number, block in enumerate(self.mapping.blocks):
            met = False
            for part in block.parts:
                for index, template in enumerate(part.names.get(self.origin, ())):
                    for tensor, values in self._matches(template):
                        met = True
                        if not self._claim(tensor.name, block.label):
                            continue
                        key = (number, frozenset(values.items()))
                        order = self.places[tensor.name]
                        instance = instances.setdefault(key, _Instance(block, values, order))
                        instance.order = min(instance.order, order)
                        instance.found.setdefault(part.name, {})[index] = tensor
            if not met:
                unused.append(block.label)
        return list(instances.values()), unused

    def _drop_named(self) -> None:
        for ignored in self.mapping.ignored:
            if ignored.side == self.origin:
                for tensor, _ in self._matches(ignored.name):
                    if self._claim(tensor.name, ignored.label):
                        self._leave("ignored", tensor, ignored.label, ignored.reason)
        for tied in self.mapping.ties:
            if tied.side == self.origin:
                for tensor, values in self._matches(tied.name):
                    if self._claim(tensor.name, tied.label):
                        owner = tied.same_as.render(values)
                        self._leave("tied", tensor, tied.label, f"equal to '{owner}'")
                        if owner not in self.source.tensors:
                            self._fail(tensor.name, f"is tied to '{owner}', which is not there")
        for made in self.mapping.made:
            found = self.source.tensors.get(made.name)
            if made.side != self.origin or found is None:
                continue
            if self._claim(made.name, made.label):
                self._leave("dropped", found, made.label, made.reason)
                if made.values is None:
                    self.aside.append(made.name)

    def _claim_bookkeeping(self) -> None:
        for name, tensor in self.source.tensors.items():
            if name not in self.claims and tensor.role == BOOKKEEPING:
                self._claim(name, "bookkeeping")
                self._leave("ignored", tensor, "bookkeeping", "kept by the container for itself")

    def _leave(self, status: str, tensor: Tensor, label: str, reason: str) -> None:
        self._add(
            self.places[tensor.name], Step(status, (tensor,), (), "", label, label, reason=reason)
        )

    def _convert(self, instance: _Instance) -> None:
        """All parts of one layer; made ones last, as their length is that of the others."""
        block = instance.block
        first = next(iter(next(iter(instance.found.values())).values())).name
        for part in sorted(block.parts, key=lambda one: one.only == self.to):
            templates = part.names.get(self.origin, ())
            found = instance.found.get(part.name, {})
            if part.only == self.to:
                self._make_part(instance, part)
            elif len(found) == len(templates) and found:
                inputs = tuple(found[index] for index in range(len(templates)))
                if part.only == self.origin:
                    self._drop_part(instance, part, inputs)
                else:
                    self._convert_part(instance, part, inputs)
            elif found or part.required:
                missing = [
                    template.render(instance.values)
                    for index, template in enumerate(templates)
                    if index not in found
                ]
                self._fail(first, f"lacks '{', '.join(missing)}' beside it", block.label)
        self._check_lengths(instance, first)

    def _drop_part(self, instance: _Instance, part: Part, inputs: tuple[Tensor, ...]) -> None:
        if part.fill is None:
            reason, lossy = "has no counterpart", part.name
            self.aside.extend(tensor.name for tensor in inputs)
        else:
            reason, lossy = f"every element is {part.fill:g}", ""
        instance.left[part.name] = tuple(tensor.extent for tensor in inputs)
        self._add(
            instance.order,
            Step(
                "dropped",
                inputs,
                (),
                "",
                self._evidence(instance.block),
                instance.block.label,
                lossy,
                reason,
            ),
        )

    def _convert_part(self, instance: _Instance, part: Part, inputs: tuple[Tensor, ...]) -> None:
        block, steps = instance.block, part.steps[self.to]
        names = self._target_names(instance, part)
        extents = tuple(tensor.extent for tensor in inputs)
        restored = self._from_sidecar(part, names, extents, block.label)
        lossy = part.lossy(self.to)
        if steps is None and restored is None:
            if not self.one_way:
                problem = f"cannot become '{', '.join(names)}': the operation has no way back"
                self._fail(inputs[0].name, problem, block.label)
            return
        if restored is not None:
            outputs, status, lossy = restored, "sidecar", ""
        else:
            status = "converted"
            try:
                outputs = apply_all(steps or (), extents)
            except UnsupportedError as error:
                self._fail(inputs[0].name, str(error), block.label)
                return
            if len(outputs) != len(names):
                problem = f"gives {len(outputs)} tensors for {len(names)} names"
                self._fail(inputs[0].name, problem, block.label)
                return
        instance.left[part.name] = outputs if block.left == self.to else extents
        role = inputs[0].role
        targets = tuple(
            Tensor(name, name, extent, role=role)
            for name, extent in zip(names, outputs, strict=True)
        )
        if lossy or part.steps[self.origin] is None:
            self.aside.extend(tensor.name for tensor in inputs)
            lossy = lossy or "one-way"
        given = [tensor for tensor in targets if self._give(tensor, block.label)]
        self._add(
            instance.order,
            Step(
                status,
                inputs,
                tuple(given),
                ", ".join(step.text for step in steps or ()),
                self._evidence(block),
                block.label,
                lossy,
            ),
        )

    def _target_names(self, instance: _Instance, part: Part) -> list[str]:
        """The names on the other side; each must mean the same variables when it is read back."""
        names = []
        for template in part.names[self.to]:
            name = template.render(instance.values)
            if template.match(name) != instance.values:
                self._fail(name, f"is read back otherwise by '{template.text}'")
            names.append(name)
        return names

    def _give(self, tensor: Tensor, label: str) -> bool:
        """Whether the target's name was free."""
        if tensor.name in self.given:
            self._fail(tensor.name, "is given twice", label)
            return False
        self.given[tensor.name] = tensor
        return True

    def _make_part(self, instance: _Instance, part: Part) -> None:
        """A tensor that only the target has: filled vectors, and counters that start at 0."""
        block = instance.block
        for name in self._target_names(instance, part):
            if part.fill is None:
                if self.template is not None and name not in self.slots:
                    continue
                extent = self._counter(name)
            else:
                like = None if part.like is None else instance.left.get(part.like[0])
                if part.like is None or not like:
                    self._fail(name, "cannot be made: its length is not known", block.label)
                    continue
                axis = part.like[1]
                model = like[-1]
                shape = model.shape if axis is None else (model.shape[axis],)
                extent = constant(model.dtype, shape, part.fill)
            tensor = Tensor(name, name, extent)
            if self._give(tensor, block.label):
                status = "sidecar" if name in self.restored else "made"
                reason = "" if status == "sidecar" else f"filled with {part.fill or 0:g}"
                step = Step(
                    status, (), (tensor,), "", self._evidence(block), block.label, reason=reason
                )
                self._add(instance.order, step)

    def _counter(self, name: str) -> Extent:
        aside = None if self.sidecar is None else self.sidecar.tensors.get(name)
        if aside is not None:
            self.restored.add(name)
            return aside.extent
        return constant(DTYPES["int64"], (), 0)

    def _from_sidecar(
        self, part: Part, names: list[str], extents: Extents, label: str
    ) -> Extents | None:
        """The tensors of the sidecar where they become exactly what the source holds now."""
        if self.sidecar is None or not all(name in self.sidecar.tensors for name in names):
            return None
        aside = tuple(self.sidecar.tensors[name].extent for name in names)
        self.restored.update(names)
        try:
            again = apply_all(part.steps[self.origin] or (), aside)
        except UnsupportedError as error:
            self._fail(names[0], f"of the sidecar does not fit: {error}", label)
            return None
        if len(again) != len(extents) or not all(map(same_bits, again, extents)):
            self._fail(names[0], "of the sidecar belongs to other values", label)
            return None
        return aside

    def _check_lengths(self, instance: _Instance, first: str) -> None:
        """A bias is as long as its weight is wide: the cheapest sign of a wrong kind."""
        for wide, axis, long in instance.block.lengths:
            if wide not in instance.left or long not in instance.left:
                continue
            shape = instance.left[wide][-1].shape
            length = instance.left[long][-1].count
            if axis >= len(shape) or shape[axis] != length:
                self._fail(
                    first,
                    f"does not look like {instance.block.kind}: axis {axis} of {list(shape)} has "
                    f"another length than its {long}, {length}",
                    instance.block.label,
                )

    def _make_named(self) -> None:
        for made in self.mapping.made:
            if made.side != self.to:
                continue
            extent = self._made_extent(made)
            if extent is None:
                continue
            tensor = Tensor(made.name, made.name, extent)
            if self._give(tensor, made.label):
                step = Step("made", (), (tensor,), "", made.label, made.label, reason=made.reason)
                self._add(len(self.places), step)

    def _made_extent(self, made: Made) -> Extent | None:
        if made.values is not None:
            if self.template is not None and made.name not in self.slots:
                return None
            # Keras 3 makes a counter int32 or int64, whatever its backend calls an integer.
            known = self.slots.get(made.name)
            dtype = DTYPES[made.dtype] if known is None else known.dtype
            return constant(dtype, made.shape, *made.values)
        aside = None if self.sidecar is None else self.sidecar.tensors.get(made.name)
        if aside is not None:
            self.restored.add(made.name)
            return aside.extent
        slot = self.slots.get(made.name)
        if slot is None:
            self._fail(made.name, "comes from a template, and none is given", made.label)
            return None
        return slot.extent

    def _tie_target(self) -> None:
        """Names that repeat others on the target's side: given by the same values."""
        for tied in self.mapping.ties:
            if tied.side != self.to:
                continue
            names: list[tuple[str, Values]] = []
            if self.template is not None:
                for name in self.slots:
                    values = tied.name.match(name)
                    if values is not None:
                        names.append((name, values))
            elif tied.name.variables == tied.same_as.variables:
                for owner in list(self.given):
                    values = tied.same_as.match(owner)
                    if values is not None:
                        names.append((tied.name.render(values), values))
            if tied.when and self.template is None and tied.when not in self.given:
                continue
            for name, values in names:
                owner = tied.same_as.render(values)
                if owner in self.given and name not in self.given:
                    given = self.given[owner]
                    extent = given.extent
                    if owner in self.slots and not self._is_tied_in_template(name, owner):
                        extent = Derived(given.dtype, given.shape, (extent,), _unchanged, object())
                    tensor = Tensor(name, name, extent, role=given.role)
                    self._give(tensor, tied.label)
                    reason = f"equal to '{owner}'"
                    step = Step("tied", (), (tensor,), "", tied.label, tied.label, reason=reason)
                    self._add(len(self.places), step)

    def _is_tied_in_template(self, name: str, owner: str) -> bool:
        """Whether the template keeps one copy for both; else the target expects two."""
        return self.slots[name].storage == self.slots[owner].storage

    def _check_template(self) -> None:
        for name, tensor in self.given.items():
            slot = self.slots.get(name)
            if slot is None:
                self._fail(name, "is not in the template")
            elif slot.shape != tensor.shape:
                self._fail(name, f"has shape {list(tensor.shape)}, the template {list(slot.shape)}")
            elif slot.dtype is not tensor.dtype:
                self._fail(
                    name,
                    f"is {tensor.dtype.name}, the template {slot.dtype.name}: cast it first",
                )
        for name, slot in self.slots.items():
            if name in self.given:
                continue
            if slot.role in BESIDE:
                tensor = Tensor(name, slot.key, slot.extent, role=slot.role)
                reason = "is no part of the model"
                step = Step("kept", (), (tensor,), "", "template", "template", reason=reason)
                self._add(len(self.places), step)
                continue
            ignored = [
                item
                for item in self.mapping.ignored
                if item.side == self.to and item.name.match(name) is not None
            ]
            if not ignored:
                self._fail(name, "of the template is given by no rule")

    def _check_sidecar(self, sidecar: Checkpoint) -> None:
        side = sidecar.metadata.get("wtool.side")
        if side != self.to or sidecar.metadata.get("wtool.sidecar") != self.mapping.name:
            self._fail("", f"the sidecar '{sidecar.path}' was not set aside by this mapping")
            return
        for name in sidecar.tensors:
            if name not in self.restored:
                self._fail(name, "of the sidecar has no place")

    def _check_balance(self) -> None:
        """As many elements out as in, but for what is declared."""
        for _, step in self.steps:
            if step.status == "converted" and not step.lossy:
                taken = sum(tensor.count for tensor in step.sources)
                # Zeros beside a bias that was a sum hold nothing.
                given = sum(t.count for t in step.targets if not is_constant(t.extent))
                if taken != given:
                    problem = f"has {taken} elements, what it becomes {given}"
                    self._fail(step.sources[0].name, problem, step.label)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def constant(dtype: DType, shape: tuple[int, ...], *values: float) -> Extent:
    """An extent of one value everywhere, or of as many values as it has elements."""
    count = math.prod(shape)

    def compute() -> np.ndarray:
        import numpy

        flat = numpy.asarray(values, numpy.float64).astype(dtype.carrier)
        return flat if len(flat) == count else numpy.broadcast_to(flat, (count,))

    # Two vectors of zeros are no tied weights: each constant is a storage of its own.
    return Derived(dtype, shape, (), compute, object())
