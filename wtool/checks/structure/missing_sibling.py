"""A tensor is missing that all its siblings have.

Why it is bad: a key was lost: the framework keeps a random start for it, or refuses to load. Where
half of a normalisation's statistics is gone, evaluation is wrong.

Example: `layers.7.attn.q_proj.bias` is missing; the other 11 layers have it.

How to mend it: find the tensor in the source (`wtool diff SOURCE MODEL`) and save again.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.structure.blocks import Family, families
from wtool.checks.subject import Subject

# Families smaller than these have no rule to break; "layer1" to "layer4" of a ResNet differ.
MIN_BLOCKS = 4
MIN_SUFFIXED = 6
# A block that lacks more of what the others have is another kind of block.
MOST_MISSING = 0.5
_PAIRS = (("running_mean", "running_var"), ("moving_mean", "moving_variance"))


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each missing tensor, under the name that it should have."""
    reported: set[str] = set()
    for finding in _halves(subject):
        reported.add(finding.tensor or "")
        yield finding
    for family in families(subject):
        for number, name, others in _missing(family):
            separator = "/" if "/" in family.prefix else "."
            full = f"{family.block(number)}{separator}{name}"
            if full in reported:
                continue
            reported.add(full)
            yield Finding(
                f"is missing; the other {others} blocks of '{family.prefix}*' have it",
                full,
            )


def _halves(subject: Subject) -> Iterator[Finding]:
    """Running statistics of which only one is there."""
    names = subject.checkpoint.tensors
    for name in names:
        for pair in _PAIRS:
            for here, there in (pair, pair[::-1]):
                head, found, tail = name.rpartition(here)
                if not found or (head and head[-1] not in "./") or (tail and tail[0] not in "/:"):
                    continue
                if head + there + tail not in names:
                    yield Finding(
                        f"is missing; '{here}' of the layer is there",
                        head + there + tail,
                        severity="error",
                    )


def _missing(family: Family) -> Iterator[tuple[int, str, int]]:
    """(block, name, number of the others) of what one block alone lacks among those of its kind."""
    fewest = MIN_BLOCKS if family.plain else MIN_SUFFIXED
    if len(family.below) < fewest:
        return
    all_but_one = family.common((len(family.below) - 1) / len(family.below))
    for number, names in sorted(family.below.items()):
        lacking = all_but_one - names.keys()
        if lacking and len(lacking) <= MOST_MISSING * len(all_but_one):
            others = len(family.siblings(number))
            for name in sorted(lacking) if others + 1 >= fewest else ():
                yield number, name, others


RULE = Rule(
    "WT023",
    "missing-sibling",
    "warning",
    "find it in the source with wtool diff and save again",
    find,
    __doc__,
)
