"""A weight cannot be told from a freshly initialised one.

Why it is bad: the layer was never trained, or its weights were never loaded: a key did not match,
and the framework kept its random start. The model runs, and is wrong.

Example: `classifier.weight` has the scale, distribution and independence of PyTorch's default.

How to mend it: see which key of the source should have filled it (`wtool diff SOURCE MODEL`), load
it, and save again; `wtool init MODEL` shows the evidence for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from wtool.checkpoint import Tensor
from wtool.checks import Finding, Rule
from wtool.checks.subject import Facts, Subject, root_mean_square

# How far the scale of the whole tensor may be from a scheme's for the judgement to be asked.
NEAR = 0.05
# From this share of fresh weights on, one finding speaks for all.
MOST = 0.5


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each fresh weight; one for all where they are more than half."""
    from wtool.layers.initialisation import judge
    from wtool.layers.survey import agree

    asked = [
        tensor for tensor, facts in subject.matrices() if _may_be_fresh(tensor, facts, subject)
    ]
    names = {tensor.name for tensor in asked}
    layers = {tensor.layer for tensor in asked}
    # A layer is judged as a whole: its other tensors may show that it was trained.
    members = [
        tensor
        for tensor, _ in subject.measured("weight", "bias")
        if tensor.name in names or (tensor.layer in layers and tensor.role == "bias")
    ]
    judged = agree([(tensor, judge(tensor, subject.checkpoint)) for tensor in members])
    fresh = [
        (tensor, judgement)
        for tensor, judgement in judged
        if tensor.name in names and judgement.is_fresh and judgement.verdict != "fresh: zeros"
    ]
    total = sum(1 for _ in subject.matrices())
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


def _may_be_fresh(tensor: Tensor, facts: Facts, subject: Subject) -> bool:
    """Whether a scheme has nearly the tensor's scale; an orthogonal one has that of its size."""
    from wtool.layers.schemes import candidates

    own = root_mean_square(facts)
    if not own or facts.std is None or facts.std < own * (1 - NEAR):
        return False
    longest = max(tensor.shape[0], tensor.count // tensor.shape[0])
    widest = max(tensor.shape[-1], tensor.count // tensor.shape[-1])
    scales = [scheme.std for scheme in candidates(tensor, subject.checkpoint)]
    scales += [1 / math.sqrt(longest), 1 / math.sqrt(widest)]
    return any(abs(own / scale - 1) < NEAR for scale in scales)


RULE = Rule(
    "WT012",
    "fresh",
    "warning",
    "find the key that should have filled it with wtool diff, or train it",
    find,
    __doc__,
    True,
)
