"""What headers cannot say, verified by values: ties, fills, constants, and the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.derived import constant, same_bits
from wtool.conversion.engine import plan_layouts
from wtool.conversion.outcome import Open, Outcome
from wtool.conversion.rules import Mapping, SideName, other

_BLOCK_BYTES = 1 << 20


def convert_layouts(
    source: Checkpoint,
    mapping: Mapping,
    *,
    to: SideName,
    template: Checkpoint | None = None,
    sidecar: Checkpoint | None = None,
) -> Outcome:
    """The conversion, planned and verified by value; see `engine.plan_layouts`.

    Laws: nothing is open only if both sides are covered entirely; then converting back gives every
    tensor that was not declared lossy with the same bits.
    """
    return verify(plan_layouts(source, mapping, to=to, template=template, sidecar=sidecar))


def verify(outcome: Outcome) -> Outcome:
    """The outcome with what its values contradict added to `open`; each value is read once or
    twice. Where something is open already, the values are not read.
    """
    if outcome.open:
        return outcome
    found = [*_false_ties(outcome), *_false_fills(outcome), *_lost_on_the_way_back(outcome)]
    return dataclasses.replace(outcome, open=tuple(found), verified=True)


def _false_ties(outcome: Outcome) -> Iterator[Open]:
    origin = other(outcome.to)
    for tied in outcome.mapping.ties:
        if tied.side != origin:
            continue
        for tensor in outcome.source:
            values = tied.name.match(tensor.name)
            if values is None:
                continue
            owner = outcome.source.tensors[tied.same_as.render(values)]
            if not same_bits(tensor.extent, owner.extent):
                yield Open(tensor.name, f"is not equal to '{owner.name}'", tied.label)


def _false_fills(outcome: Outcome) -> Iterator[Open]:
    """Tensors that are dropped because they hold a stated value, and do not."""
    fills = {block.label: block for block in outcome.mapping.blocks}
    made = {item.label: item for item in outcome.mapping.made if item.side != outcome.to}
    for step in outcome.steps:
        if step.status != "dropped" or step.lossy:
            continue
        for tensor in step.sources:
            if step.label in fills:
                parts = [p for p in fills[step.label].parts if p.only and p.fill is not None]
                wanted = {
                    p.fill
                    for p in parts
                    for t in p.names[other(outcome.to)]
                    if t.match(tensor.name) is not None
                }
                if not any(fill is not None and _is_filled(tensor, fill) for fill in wanted):
                    shown = ", ".join(f"{fill:g}" for fill in wanted if fill is not None)
                    yield Open(tensor.name, f"is dropped as {shown}, and is not", step.label)
            elif step.label in made and made[step.label].values is not None:
                item = made[step.label]
                expected = constant(tensor.dtype, item.shape, *(item.values or ()))
                if not same_bits(tensor.extent, expected):
                    yield Open(tensor.name, "is dropped as a constant, and is another", step.label)


def _is_filled(tensor: Tensor, fill: float) -> bool:
    return all(bool((block == fill).all()) for block in tensor.blocks(_BLOCK_BYTES))


def _lost_on_the_way_back(outcome: Outcome) -> Iterator[Open]:
    """Source tensors that do not come back with the same bits, and names that come from nowhere."""
    there = outcome.unchecked()
    # What the template keeps beside its model did not come from the source.
    kept = {t.name for step in outcome.steps if step.status == "kept" for t in step.targets}
    model = {name: tensor for name, tensor in there.tensors.items() if name not in kept}
    there = dataclasses.replace(there, tensors=model)
    back = plan_layouts(there, outcome.mapping, to=other(outcome.to), one_way=True)
    excused = {step.label for step in outcome.steps if step.lossy}
    for item in back.open:
        if item.label not in excused:
            yield Open(item.tensor, f"on the way back: {item.problem}", item.label)
    again = back.tensors
    lossy = set(outcome.lossy)
    source = outcome.source.tensors
    for step in outcome.steps:
        if step.status != "converted" or step.lossy:
            continue
        for tensor in step.sources:
            if tensor.name in lossy:
                continue
            returned = again.get(tensor.name)
            if returned is None:
                yield Open(tensor.name, "does not come back", step.label)
            elif not same_bits(tensor.extent, returned.extent):
                yield Open(tensor.name, "comes back with other values", step.label)
    for step in back.steps:
        for tensor in step.targets:
            if tensor.name not in source and step.status not in ("made", "tied"):
                yield Open(tensor.name, "comes back and was not there", step.label)
