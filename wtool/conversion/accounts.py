"""The target's side: what no layer gives is made or tied, then all of it must add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL, Checkpoint, Tensor
from wtool.conversion.books import Books
from wtool.conversion.derived import Derived, constant, is_constant
from wtool.conversion.outcome import Step
from wtool.conversion.rules import Made
from wtool.conversion.templates import Values
from wtool.dtypes import DTYPES
from wtool.extents import Extent

if TYPE_CHECKING:
    import numpy as np


def make_named(books: Books) -> None:
    """Tensors of the target that the mapping makes."""
    for made in books.mapping.made:
        if made.side != books.to:
            continue
        name = made.name_among(books.slots)
        extent = _made_extent(books, made, name)
        if extent is None:
            continue
        tensor = Tensor(name, name, extent)
        if books.give(tensor, made.label):
            step = Step("made", (), (tensor,), "", made.label, made.label, reason=made.reason)
            books.add(len(books.places), step)


def _made_extent(books: Books, made: Made, name: str) -> Extent | None:
    slot = books.slots.get(name)
    if made.values is not None:
        if books.template is not None and slot is None:
            return None
        # Keras 3 makes a counter int32 or int64, whatever its backend calls an integer.
        dtype = DTYPES[made.dtype] if slot is None else slot.dtype
        return constant(dtype, made.shape, *made.values)
    aside = None if books.sidecar is None else books.sidecar.tensors.get(name)
    if aside is not None:
        books.restored.add(name)
        return aside.extent
    if slot is None:
        books.fail(name, "comes from a template, and none is given", made.label)
        return None
    return slot.extent


def tie_target(books: Books) -> None:
    """Names that repeat others on the target's side: given by the same values."""
    for tied in books.mapping.ties:
        if tied.side != books.to:
            continue
        names: list[tuple[str, Values]] = []
        if books.template is not None:
            for name in books.slots:
                values = tied.name.match(name)
                if values is not None:
                    names.append((name, values))
        elif tied.name.variables == tied.same_as.variables:
            for owner in list(books.given):
                values = tied.same_as.match(owner)
                if values is not None:
                    names.append((tied.name.render(values), values))
        if tied.when and books.template is None and tied.when not in books.given:
            continue
        for name, values in names:
            owner = tied.same_as.render(values)
            if owner in books.given and name not in books.given:
                given = books.given[owner]
                extent = given.extent
                if owner in books.slots and not _is_tied_in_template(books, name, owner):
                    extent = Derived(given.dtype, given.shape, (extent,), _unchanged, object())
                tensor = Tensor(name, name, extent, role=given.role)
                books.give(tensor, tied.label)
                reason = f"equal to '{owner}'"
                step = Step("tied", (), (tensor,), "", tied.label, tied.label, reason=reason)
                books.add(len(books.places), step)


def _is_tied_in_template(books: Books, name: str, owner: str) -> bool:
    """Whether the template keeps one copy for both; else the target expects two."""
    return books.slots[name].storage == books.slots[owner].storage


def check_template(books: Books) -> None:
    """The template's names, shapes and types, all of them and no others."""
    for name, tensor in books.given.items():
        slot = books.slots.get(name)
        if slot is None:
            books.fail(name, "is not in the template")
        elif slot.shape != tensor.shape:
            books.fail(name, f"has shape {list(tensor.shape)}, the template {list(slot.shape)}")
        elif slot.dtype is not tensor.dtype:
            books.fail(
                name,
                f"is {tensor.dtype.name}, the template {slot.dtype.name}: cast it first",
            )
    for name, slot in books.slots.items():
        if name in books.given:
            continue
        if slot.role in BESIDE_MODEL:
            tensor = Tensor(name, slot.key, slot.extent, role=slot.role)
            reason = "is no part of the model"
            step = Step("kept", (), (tensor,), "", "template", "template", reason=reason)
            books.add(len(books.places), step)
            continue
        ignored = [
            item
            for item in books.mapping.ignored
            if item.side == books.to and item.name.match(name) is not None
        ]
        if not ignored:
            books.fail(name, "of the template is given by no rule")


def check_sidecar(books: Books, sidecar: Checkpoint) -> None:
    """The sidecar is of this mapping and side, and all of it has a place."""
    side = sidecar.metadata.get("wtool.side")
    if side != books.to or sidecar.metadata.get("wtool.sidecar") != books.mapping.name:
        books.fail("", f"the sidecar '{sidecar.path}' was not set aside by this mapping")
        return
    for name in sidecar.tensors:
        if name not in books.restored:
            books.fail(name, "of the sidecar has no place")


def check_balance(books: Books) -> None:
    """As many elements out as in, but for what is declared."""
    for _, step in books.steps:
        if step.status == "converted" and not step.lossy:
            taken = sum(tensor.count for tensor in step.sources)
            # Zeros beside a bias that was a sum hold nothing.
            given = sum(t.count for t in step.targets if not is_constant(t.extent))
            if taken != given:
                problem = f"has {taken} elements, what it becomes {given}"
                books.fail(step.sources[0].name, problem, step.label)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values
