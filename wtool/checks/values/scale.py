"""A weight is thousands of times larger or smaller than its siblings.

Why it is bad: scales within one kind of layer stay within a factor of about a hundred. Beyond a
thousand, training diverged or collapsed there, a scale was applied twice, or bytes are damaged.

Example: `blocks.7.mlp.fc1.weight` has root mean square 412, the median of its 23 siblings is 0.04.

How to mend it: compare the tensor with an earlier checkpoint (`wtool diff`); look for a scale
factor that the conversion applied twice or forgot.

Siblings are the weights of the same kind with as many dimensions; where fewer than three have
values, all weights with two or more dimensions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from wtool.checkpoint import Tensor
from wtool.checks import Finding, Rule
from wtool.checks.subject import Facts, Subject, root_mean_square

# Ratio to the median of the siblings beyond which a scale is none that training gives.
FACTOR = 1000.0
# Siblings of another kind differ more.
WIDE_FACTOR = 3000.0
MIN_SIBLINGS = 3
# No layer works with weights of this size, whatever its siblings are.
ABSOLUTE = 1e6


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight whose scale is out of place."""
    groups: dict[tuple[str, int], list[tuple[Tensor, Facts]]] = {}
    everything: list[float] = []
    for tensor, facts in subject.measured("weight"):
        if tensor.dtype.kind != "float" or not root_mean_square(facts):
            continue
        groups.setdefault((tensor.kind or "", len(tensor.shape)), []).append((tensor, facts))
        if len(tensor.shape) >= 2:
            everything.append(root_mean_square(facts))
    every_scale = sorted(everything)
    for members in groups.values():
        scales = sorted(root_mean_square(facts) for _, facts in members)
        for tensor, facts in members:
            siblings, factor, what = scales, FACTOR, f"{len(members) - 1} siblings"
            if len(members) <= MIN_SIBLINGS:
                if len(every_scale) <= MIN_SIBLINGS or len(tensor.shape) < 2:
                    siblings = []
                else:
                    siblings, factor = every_scale, WIDE_FACTOR
                    what = f"{len(every_scale) - 1} other weights"
            yield from _judge(tensor, facts, siblings, factor, what)


def _judge(
    tensor: Tensor,
    facts: Facts,
    siblings: list[float],
    factor: float,
    what: str,
) -> Iterator[Finding]:
    own = root_mean_square(facts)
    middle = median_without(siblings, own) if len(siblings) > 1 else None
    if middle and not 1 / factor <= own / middle <= factor:
        word = "larger" if own > middle else "smaller"
        ratio = own / middle if own > middle else middle / own
        yield Finding(
            f"root mean square {own:.4g} is {ratio:,.0f} times {word} than the median "
            f"{middle:.4g} of its {what}",
            tensor.name,
            value=own,
        )
    elif facts.abs_max and facts.abs_max > ABSOLUTE:
        yield Finding(
            f"largest magnitude {facts.abs_max:.4g} is none that a layer works with",
            tensor.name,
            value=facts.abs_max,
        )


def median_without(ordered: list[float], own: float) -> float:
    """The median of two or more rising values after one that equals `own` is taken out."""
    place = bisect_left(ordered, own)
    rest = len(ordered) - 1

    def nth(index: int) -> float:
        return ordered[index + (index >= place)]

    return (nth((rest - 1) // 2) + nth(rest // 2)) / 2


RULE = Rule(
    "WT006",
    "scale",
    "warning",
    "compare it with an earlier checkpoint by wtool diff",
    find,
    __doc__,
)
