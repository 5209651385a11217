"""Output units of a weight are 0 throughout.

Why it is bad: a dead unit gives only its bias: the layer is narrower than it looks. Pruning makes
them on purpose; a collapsed training, or a copy that stopped half way, by accident.

Example: 12 of 64 units of `conv2.weight` are 0, the first is 52.

How to mend it: cut the units out (and the inputs of the next layer), retrain, or suppress the
finding where the pruning is meant.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.checks.values.units_of import count_units, dead, weights
from wtool.layers import unit_box


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight with units of zeros."""
    for tensor, facts, axes in weights(subject):
        units = count_units(tensor, axes)
        if facts.moments.zeros < tensor.count // units:
            continue
        found = dead(subject, tensor, axes)
        if found:
            index = unit_box(tensor.shape, axes, found[0])[0]
            yield Finding(
                f"{len(found):,} of {units:,} output units are 0, the first is unit {found[0]}",
                tensor.name,
                index,
                0,
            )


RULE = Rule(
    "WT010",
    "dead-units",
    "warning",
    "cut them out or retrain; suppress the finding if they were pruned",
    find,
    __doc__,
)
