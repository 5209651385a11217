"""A mapping applied to a checkpoint: every tensor of both sides accounted for, or nothing is done.

`convert_layouts` plans and verifies; `plan_layouts` plans alone, which reads headers only. Each
tensor of the source is taken by one rule, or left out by one that says why; each of the target is
given once. What does not fit is listed as open. Values are lazy: a writer streams them.
"""

from __future__ import annotations

from wtool.checkpoint import BESIDE_MODEL, Checkpoint
from wtool.conversion.accounts import (
    check_balance,
    check_sidecar,
    check_template,
    make_named,
    tie_target,
)
from wtool.conversion.books import Books
from wtool.conversion.layer_conversion import convert_instance
from wtool.conversion.outcome import Outcome
from wtool.conversion.rules import Mapping, SideName, other
from wtool.conversion.taking import claim_bookkeeping, drop_named, match_blocks
from wtool.errors import UsageError


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
    return _plan(Books(source, mapping, to, template, sidecar, one_way))


def _plan(books: Books) -> Outcome:
    """Run every rule, then account for what is left."""
    instances, unused = match_blocks(books)
    drop_named(books)
    claim_bookkeeping(books)
    for instance in sorted(instances, key=lambda one: one.order):
        convert_instance(books, instance)
    make_named(books)
    tie_target(books)
    for name in books.source.tensors:
        if name not in books.claims:
            role = books.source.tensors[name].role
            beside = f"; it is {role} state: --model-only leaves it out"
            books.fail(name, "has no rule" + (beside if role in BESIDE_MODEL else ""))
    if books.template is not None:
        check_template(books)
    if books.sidecar is not None:
        check_sidecar(books, books.sidecar)
    check_balance(books)
    return Outcome(
        books.source,
        books.mapping,
        books.to,
        tuple(step for _, step in sorted(books.steps, key=lambda pair: pair[0])),
        tuple(books.open),
        tuple(unused),
        tuple(dict.fromkeys(books.aside)),
    )
