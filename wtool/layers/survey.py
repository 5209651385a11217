"""Judgements on all learned tensors of a checkpoint: in parallel, then made to agree by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from wtool.layers.initialisation import judge
from wtool.layers.judgement import Judgement
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
    """The judgements of layers made to agree: a layer is trained as a whole.

    A weight that varies, whose bias has left every start, was trained with it, however random it
    looks; so were the other weights of a recurrent or attention layer. A bias has too few values to
    show that it was not trained: a random one is fresh only beside a fresh weight.
    """
    judged = list(judged)
    modules = [split_leaf(tensor.name)[0] for tensor, _ in judged]
    attentions = {
        module
        for module, (tensor, _) in zip(modules, judged, strict=True)
        if split_leaf(tensor.name)[1].startswith("in_proj_")
    }
    layers: dict[str, list[tuple[Tensor, Judgement]]] = {}
    for module, pair in zip(modules, judged, strict=True):
        # torch's MultiheadAttention is one layer, its output projection included.
        whole = module.removesuffix(".out_proj")
        layers.setdefault(whole if whole in attentions else module, []).append(pair)
    answer: dict[str, Judgement] = {}
    for members in layers.values():
        evidence = _trained_member(members)
        weights = [judgement for tensor, judgement in members if tensor.role == "weight"]
        for tensor, judgement in members:
            random = judgement.distance is not None or judgement.verdict == "fresh: orthogonal"
            if random and judgement.verdict != "trained" and evidence and tensor.role == "weight":
                reason = f"{split_leaf(evidence.name)[1]} of its layer was trained"
                judgement = replace(judgement, verdict="trained", reason=reason)
            elif random and judgement.is_fresh and tensor.role == "bias":
                if evidence or not weights or not all(weight.is_fresh for weight in weights):
                    reason = "its weight is not fresh"
                    judgement = replace(judgement, verdict="undecided", reason=reason)
            answer[tensor.name] = judgement
    return [(tensor, answer[tensor.name]) for tensor, _ in judged]


def _trained_member(members: list[tuple[Tensor, Judgement]]) -> Tensor | None:
    """The tensor of a layer that shows that the layer was trained, None where none does."""
    for tensor, judgement in members:
        whole = tensor.role == "bias" or tensor.kind in ("recurrent", "attention")
        if whole and judgement.verdict == "trained" and tensor.layer:
            return tensor
    return None
