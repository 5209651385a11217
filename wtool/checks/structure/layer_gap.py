"""The numbers of equal blocks have a gap.

Why it is bad: a whole layer was lost (a shard that was not merged, a filter that matched too much),
or layers were pruned without renumbering; loading by name puts a random layer into the gap.

Example: `encoder.layer.0` to `encoder.layer.11` without 7.

How to mend it: fetch the missing layer from the source; renumber after pruning on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.structure.blocks import families
from wtool.checks.subject import Subject

MIN_BLOCKS = 4
# In a sequence with pooling between, more numbers are free: that is no gap.
MOST_MISSING = 5


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each number that is missing among blocks of several layers."""
    for family in families(subject):
        numbers = sorted(family.below)
        if len(numbers) < MIN_BLOCKS or numbers[-1] > 10 * len(numbers):
            continue
        separator = "/" if "/" in family.prefix else "."
        common = family.common(0.8)
        # Leaves alone ("features.0.weight") are layers among others that have no tensors.
        deep = {name for name in common if separator in name}
        alike = sum(deep <= names.keys() for names in family.below.values())
        if len(deep) < 2 or alike < 0.8 * len(numbers):
            continue
        first = 0 if family.plain else numbers[0]
        missing = [n for n in range(first, numbers[-1]) if n not in family.below]
        if missing and len(missing) * MOST_MISSING <= max(len(numbers), MOST_MISSING):
            for number in missing:
                yield Finding(
                    f"is missing among {len(numbers)} equal blocks up to {numbers[-1]}",
                    family.block(number),
                    value=number,
                )


RULE = Rule(
    "WT024",
    "layer-gap",
    "warning",
    "fetch the missing layer from the source, or renumber the blocks",
    find,
    __doc__,
)
