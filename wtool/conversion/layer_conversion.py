"""One layer to the other side: its parts converted, dropped, made or restored from a sidecar."""

from __future__ import annotations

from dataclasses import replace

from wtool.checkpoint import Tensor
from wtool.conversion.books import Books, Instance
from wtool.conversion.contradictions import find_contradiction
from wtool.conversion.derived import constant, same_bits
from wtool.conversion.doubts import find_doubt
from wtool.conversion.operations import Extents, apply_all
from wtool.conversion.outcome import Step
from wtool.conversion.rules import Part
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError
from wtool.extents import Extent


def convert_instance(books: Books, instance: Instance) -> None:
    """All parts of one layer; made ones last, as their length is that of the others."""
    block = instance.block
    first = next(iter(next(iter(instance.found.values())).values())).name
    done = len(books.steps)
    for part in sorted(block.parts, key=lambda one: one.only == books.to):
        templates = part.names.get(books.origin, ())
        found = instance.found.get(part.name, {})
        if part.only == books.to:
            _make_part(books, instance, part)
        elif len(found) == len(templates) and found:
            inputs = tuple(found[index] for index in range(len(templates)))
            if part.only == books.origin:
                _drop_part(books, instance, part, inputs)
            else:
                _convert_part(books, instance, part, inputs)
        elif found or part.required:
            missing = [
                template.render(instance.values)
                for index, template in enumerate(templates)
                if index not in found
            ]
            books.fail(first, f"lacks '{', '.join(missing)}' beside it", block.label)
    against = find_contradiction(books, instance)
    if against is not None:
        books.fail(first, against, block.label)
    else:
        _check_lengths(books, instance, first)
        _note_doubt(books, instance, done)


def _drop_part(books: Books, instance: Instance, part: Part, inputs: tuple[Tensor, ...]) -> None:
    if part.fill is None:
        reason, lossy = "has no counterpart", part.name
        books.aside.extend(tensor.name for tensor in inputs)
    else:
        reason, lossy = f"every element is {part.fill:g}", ""
    instance.left[part.name] = tuple(tensor.extent for tensor in inputs)
    books.add(
        instance.order,
        Step(
            "dropped",
            inputs,
            (),
            "",
            books.evidence(instance.block),
            instance.block.label,
            lossy,
            reason,
        ),
    )


def _convert_part(books: Books, instance: Instance, part: Part, inputs: tuple[Tensor, ...]) -> None:
    block, steps = instance.block, part.steps[books.to]
    names = _target_names(books, instance, part)
    extents = tuple(tensor.extent for tensor in inputs)
    restored = _from_sidecar(books, part, names, extents, block.label)
    lossy = part.lossy(books.to)
    if steps is None and restored is None:
        if not books.one_way:
            problem = f"cannot become '{', '.join(names)}': the operation has no way back"
            books.fail(inputs[0].name, problem, block.label)
        return
    if restored is not None:
        outputs, status, lossy = restored, "sidecar", ""
    else:
        status = "converted"
        try:
            outputs = apply_all(steps or (), extents)
        except UnsupportedError as error:
            books.fail(inputs[0].name, str(error), block.label)
            return
        if len(outputs) != len(names):
            problem = f"gives {len(outputs)} tensors for {len(names)} names"
            books.fail(inputs[0].name, problem, block.label)
            return
    instance.left[part.name] = outputs if block.left == books.to else extents
    role = inputs[0].role
    targets = tuple(
        Tensor(name, name, extent, role=role) for name, extent in zip(names, outputs, strict=True)
    )
    if lossy or part.steps[books.origin] is None:
        books.aside.extend(tensor.name for tensor in inputs)
        lossy = lossy or "one-way"
    given = [tensor for tensor in targets if books.give(tensor, block.label)]
    books.add(
        instance.order,
        Step(
            status,
            inputs,
            tuple(given),
            ", ".join(step.text for step in steps or ()),
            books.evidence(block),
            block.label,
            lossy,
        ),
    )


def _target_names(books: Books, instance: Instance, part: Part) -> list[str]:
    """The names on the other side; each must mean the same variables when it is read back."""
    names = []
    for template in part.names[books.to]:
        name = template.render(instance.values)
        if template.match(name) != instance.values:
            books.fail(name, f"is read back otherwise by '{template.text}'")
        names.append(name)
    return names


def _make_part(books: Books, instance: Instance, part: Part) -> None:
    """A tensor that only the target has: filled vectors, and counters that start at 0."""
    block = instance.block
    for name in _target_names(books, instance, part):
        if part.fill is None:
            if books.template is not None and name not in books.slots:
                continue
            extent = _counter(books, name)
        else:
            like = None if part.like is None else instance.left.get(part.like[0])
            if part.like is None or not like:
                books.fail(name, "cannot be made: its length is not known", block.label)
                continue
            axis = part.like[1]
            model = like[-1]
            shape = model.shape if axis is None else (model.shape[axis],)
            extent = constant(model.dtype, shape, part.fill)
        tensor = Tensor(name, name, extent)
        if books.give(tensor, block.label):
            status = "sidecar" if name in books.restored else "made"
            reason = "" if status == "sidecar" else f"filled with {part.fill or 0:g}"
            step = Step(
                status, (), (tensor,), "", books.evidence(block), block.label, reason=reason
            )
            books.add(instance.order, step)


def _counter(books: Books, name: str) -> Extent:
    aside = None if books.sidecar is None else books.sidecar.tensors.get(name)
    if aside is not None:
        books.restored.add(name)
        return aside.extent
    return constant(DTYPES["int64"], (), 0)


def _from_sidecar(
    books: Books, part: Part, names: list[str], extents: Extents, label: str
) -> Extents | None:
    """The tensors of the sidecar where they become exactly what the source holds now."""
    if books.sidecar is None or not all(name in books.sidecar.tensors for name in names):
        return None
    aside = tuple(books.sidecar.tensors[name].extent for name in names)
    books.restored.update(names)
    try:
        again = apply_all(part.steps[books.origin] or (), aside)
    except UnsupportedError as error:
        books.fail(names[0], f"of the sidecar does not fit: {error}", label)
        return None
    if len(again) != len(extents) or not all(map(same_bits, again, extents)):
        books.fail(names[0], "of the sidecar belongs to other values", label)
        return None
    return aside


def _check_lengths(books: Books, instance: Instance, first: str) -> None:
    """A bias is as long as its weight is wide: the cheapest sign of a wrong kind."""
    for wide, axis, long in instance.block.lengths:
        if wide not in instance.left or long not in instance.left:
            continue
        shape = instance.left[wide][-1].shape
        length = instance.left[long][-1].count
        if axis >= len(shape) or shape[axis] != length:
            books.fail(
                first,
                f"does not look like {instance.block.kind}: axis {axis} of {list(shape)} has "
                f"another length than its {long}, {length}",
                instance.block.label,
            )


def _note_doubt(books: Books, instance: Instance, done: int) -> None:
    """What only the mapping's word decides is written on the step of the part that it decides.

    done: how many steps there were before the layer.
    """
    doubt = find_doubt(books, instance)
    if doubt is None:
        return
    part, why = doubt
    names = {tensor.name for tensor in instance.found.get(part, {}).values()}
    for place, (order, step) in enumerate(books.steps[done:], done):
        if names & {tensor.name for tensor in step.sources}:
            books.steps[place] = (order, replace(step, doubt=why))
