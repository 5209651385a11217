"""Two output units of a weight are equal, value for value.

Why it is bad: equal units compute the same and are trained the same way: symmetry that was never
broken. A copy that wrote a row twice looks like this too.

Example: unit 9 of `fc1.weight` repeats unit 8.

How to mend it: initialise the layer at random and train it again; where rows were added on purpose
(new classes that start from an old one), suppress the finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.checks.values.units_of import count_units, repeated, weights
from wtool.layers import unit_box


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight with equal units."""
    for tensor, facts, axes in weights(subject):
        if facts.distinct < 4:
            continue  # binary and ternary weights repeat by chance
        found = repeated(subject, tensor, axes)
        if found:
            unit, original = found[0]
            index = unit_box(tensor.shape, axes, unit)[0]
            units = count_units(tensor, axes)
            yield Finding(
                f"{len(found):,} of {units:,} output units repeat another, first "
                f"unit {unit} that of unit {original}",
                tensor.name,
                index,
            )


RULE = Rule(
    "WT011",
    "duplicate-units",
    "warning",
    "initialise the layer at random and train it again",
    find,
    __doc__,
)
