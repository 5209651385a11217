"""A weight cannot be told from a freshly initialised one.

Why it is bad: the layer was never trained, or its weights were never loaded: a key did not match,
and the framework kept its random start. The model runs, and is wrong.

Example: `classifier.weight` has the scale, distribution and independence of PyTorch's default.

How to mend it: see which key of the source should have filled it (`wtool diff SOURCE MODEL`), load
it, and save again; `wtool init MODEL` shows the evidence for each tensor.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wtool.checkpoint import Tensor
from wtool.checks import Finding, Rule
from wtool.checks.subject import Facts, Subject, root_mean_square

if TYPE_CHECKING:
    from wtool.layers.judgement import Judgement

# How far the scale of the whole tensor may be from a scheme's for the judgement to be asked; of few
# values a little more.
NEAR = 0.05
# Standard errors by which mean and kurtosis of the whole may be off; the kurtosis a bit more.
ERRORS = 6
KURTOSIS_ROOM = 0.1
# From this share of fresh weights on, one finding speaks for all.
MOST = 0.5
# So many weights, drawn at random, speak for a model in which most have an initialiser's moments:
# were half of them trained, all would look fresh once in 1,000 models.
SPOKESMEN = 10


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each fresh weight; one for all where they are more than half."""
    asked = [
        tensor for tensor, facts in subject.matrices() if _may_be_fresh(tensor, facts, subject)
    ]
    total = sum(1 for _ in subject.matrices())
    if len(asked) > max(MOST * total, 2 * SPOKESMEN):
        drawn = sorted(random.Random(len(asked)).sample(range(len(asked)), SPOKESMEN))
        spokesmen = [asked[place] for place in drawn]
        if len(_fresh(subject, spokesmen)) == SPOKESMEN:
            yield Finding(
                f"{len(asked)} of {total} weights have scale, mean and tails of an initialiser; "
                f"all of {SPOKESMEN} looked at closely are as one left them, first "
                f"'{spokesmen[0].name}': most of the model was not trained"
            )
            return
    fresh = _fresh(subject, asked)
    if total > 3 and len(fresh) > MOST * total:
        yield Finding(
            f"{len(fresh)} of {total} weights look as an initialiser left them, first "
            f"'{fresh[0][0].name}': most of the model was not trained"
        )
        return
    for tensor, judgement in fresh:
        yield Finding(
            f"looks as initialised by {judgement.verdict.removeprefix('fresh: ')}",
            tensor.name,
            value=judgement.std,
        )


def _fresh(subject: Subject, asked: Sequence[Tensor]) -> list[tuple[Tensor, Judgement]]:
    """The tensors among those asked about that cannot be told from fresh ones."""
    from wtool.layers.initialisation import judge
    from wtool.layers.survey import agree

    layers = {tensor.layer for tensor in asked}
    biases = [t for t, _ in subject.measured("bias") if t.layer in layers]
    work = [*asked, *biases]
    with ThreadPoolExecutor(subject.jobs or os.cpu_count() or 1) as pool:
        judgements = dict(
            zip(
                [tensor.name for tensor in work],
                pool.map(lambda tensor: judge(tensor, subject.checkpoint), work),
                strict=True,
            )
        )
    # Other weights of a recurrent layer do not speak for it: it is one key that was not loaded.
    groups = [[tensor] for tensor in asked if tensor.kind == "recurrent"]
    groups.append([tensor for tensor in asked if tensor.kind != "recurrent"])
    fresh = {}
    for group in groups:
        own = {tensor.layer for tensor in group}
        members = [*group, *(bias for bias in biases if bias.layer in own)]
        agreed = agree([(one, judgements[one.name]) for one in members])
        for tensor, judgement in agreed[: len(group)]:
            if judgement.is_fresh and judgement.verdict != "fresh: zeros":
                fresh[tensor.name] = judgement
    return [(tensor, fresh[tensor.name]) for tensor in asked if tensor.name in fresh]


def _may_be_fresh(tensor: Tensor, facts: Facts, subject: Subject) -> bool:
    """Whether a scheme has nearly the tensor's moments, or an orthogonal one its scale.

    The moments are those of all values, so that chance leaves them little room.
    """
    from wtool.layers.schemes import candidates

    own = root_mean_square(facts)
    if not own or facts.std is None or facts.mean is None:
        return False
    error = ERRORS / math.sqrt(tensor.count)
    if abs(facts.mean) > own * error:
        return False
    longest = max(tensor.shape[0], tensor.count // tensor.shape[0])
    widest = max(tensor.shape[-1], tensor.count // tensor.shape[-1])
    near = NEAR + error / 2
    if any(abs(own * math.sqrt(side) - 1) < near for side in (longest, widest)):
        return True
    room = KURTOSIS_ROOM + error * math.sqrt(24)
    if tensor.kind == "embedding":
        room += 6 / tensor.shape[0]  # a row of zeros for padding
    return any(
        abs(own / scheme.std - 1) < near
        and (facts.kurtosis is None or abs(facts.kurtosis - scheme.kurtosis) < room)
        for scheme in candidates(tensor, subject.checkpoint)
    )


RULE = Rule(
    "WT012",
    "fresh",
    "warning",
    "find the key that should have filled it with wtool diff, or train it",
    find,
    __doc__,
)
