"""Starts that need no distribution: constants, identity, forget gates, and normalisations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wtool.layers.judgement import CLEARLY, EXACT, MIN_BIAS, Judgement
from wtool.layers.names import split_leaf
from wtool.layers.randomness import cdf_distance, distance_limit
from wtool.layers.samples import is_constant
from wtool.layers.schemes import Scheme

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor


def judge_fixed(tensor: Tensor, values: np.ndarray) -> tuple[str, str] | None:
    """(verdict, reason) where no randomness is involved: constants, identity, Keras' LSTM bias."""
    first = float(values.flat[0])
    if (values == first).all():
        if not is_constant(tensor, first):
            return "trained", f"{first:.6g} save for a few values"
        if first == 0:
            return "fresh: zeros", "every value is 0"
        if first == 1 and len(tensor.shape) <= 1:
            return "fresh: ones", "every value is 1"
        if tensor.count > 1:
            return "constant", f"every value is {first:.6g}"
        return "undecided", "a single value"
    if values.ndim == 2 and values.shape == tensor.shape and _is_identity(values):
        return "fresh: identity", "ones on the diagonal, zeros elsewhere"
    leaf = split_leaf(tensor.name)[1]
    if leaf == "bias" and tensor.kind == "recurrent" and values.shape == tensor.shape:
        gates = values.ravel()
        size = len(gates) // 4
        forget = gates[size : 2 * size]
        if len(gates) % 4 == 0 and (forget == 1).all() and gates.sum() == size:
            rest = gates[2 * size :].any() or gates[:size].any()
            if not rest:
                return "fresh: unit_forget_bias", "ones in the forget gate, zeros elsewhere"
    return None


def judge_norm(
    facts: Judgement, values: np.ndarray, schemes: list[Scheme], is_bias: bool
) -> Judgement:
    """The verdict on a normalisation's weight or bias that varies: they start at ones and zeros.

    Only the weight of a generative network starts at 1 plus a normal of 0.02 (Radford et al. 2015).
    """
    import numpy as np

    ordered = np.sort(values, axis=None)
    if not is_bias:
        ordered, schemes = ordered - 1, [Scheme("normal_0.02", "normal", 0.02)]
    largest = float(np.abs(ordered).max())
    limit = CLEARLY * distance_limit(len(ordered), EXACT)
    if len(ordered) < MIN_BIAS:
        return replace(facts, reason="too few values")
    if any(largest <= s.bound and cdf_distance(ordered, s) <= limit for s in schemes):
        return replace(facts, reason="random values that a generative network may start with")
    return replace(facts, verdict="trained", reason="a normalisation that no initialiser leaves")


def _is_identity(values: np.ndarray) -> bool:
    rows, columns = values.shape
    return (
        rows == columns
        and bool((values.diagonal() == 1).all())
        and float(abs(values).sum()) == rows
    )
