"""Judgements on all learned tensors of a checkpoint: in parallel, then made to agree by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from wtool.layers.initialisation import Judgement, judge
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

LEARNED = ("weight", "bias")


def judge_all(
    checkpoint: Checkpoint,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Tensor, Judgement]]:
    """(tensor, judgement) of every weight and bias in stored order, tied tensors once.

    progress(done, all) is told of elements. A law it keeps: the answer does not depend on `jobs`;
    every tensor is judged alone, then the layers one after the other.
    """
    aliases = checkpoint.aliases
    tensors = [t for t in checkpoint if t.role in LEARNED and t.name not in aliases]
    total = sum(tensor.count for tensor in tensors)
    done = 0
    judgements = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as executor:
        results = executor.map(lambda tensor: judge(tensor, checkpoint), tensors)
        for tensor, judgement in zip(tensors, results, strict=True):
            judgements.append((tensor, judgement))
            done += tensor.count
            if progress is not None:
                progress(done, total)
    return agree(judgements)


def agree(judged: Iterable[tuple[Tensor, Judgement]]) -> list[tuple[Tensor, Judgement]]:
    """The judgements of layers made to agree: a random bias is fresh only beside fresh weights.

    A bias has too few values to show that it was trained; its layer's weight has enough.
    """
    judged = list(judged)
    trained = {
        split_leaf(tensor.name)[0]
        for tensor, judgement in judged
        if tensor.role == "weight" and not judgement.is_fresh
    }
    seen = {split_leaf(tensor.name)[0] for tensor, _ in judged if tensor.role == "weight"}
    answer = []
    for tensor, judgement in judged:
        module = split_leaf(tensor.name)[0]
        random = judgement.is_fresh and judgement.distance is not None
        if tensor.role == "bias" and random and (module in trained or module not in seen):
            reason = "too few values, and its weight is not fresh"
            judgement = replace(judgement, verdict="undecided", reason=reason)
        answer.append((tensor, judgement))
    return answer
