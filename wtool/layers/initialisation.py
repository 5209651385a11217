"""Which initialisation a tensor still looks like, if any: the verdict and its evidence.

fresh: SCHEME - scale, distribution and structure are those of the scheme; trained - they are far
from those of any; constant - one value that no scheme sets; undecided - too few values, values just
outside what a scheme draws, or values that look random at a scale that no scheme has.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from wtool.extents import Absent
from wtool.layers.fixed_starts import judge_fixed, judge_norm
from wtool.layers.judgement import CLEARLY, MIN_BIAS, Judgement, rounding
from wtool.layers.layouts import fans, layout_of
from wtool.layers.names import split_leaf
from wtool.layers.orthogonality import is_orthogonal
from wtool.layers.randomness import (
    SPECTRUM_LIMITS,
    STRUCTURE_LIMIT,
    cdf_distance,
    distance_limit,
    inner,
    spectrum,
    structure,
    tails,
)
from wtool.layers.samples import matrix_shape, read_sample
from wtool.layers.schemes import KURTOSIS, TRUNCATED_AT, TRUNCATED_STD, Scheme, candidates

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Checkpoint, Tensor

# Fewer values cannot tell a scheme from light training: they are trained or undecided...
MIN_VALUES = 512
# ...and fewer than these cannot show training either, save in a bias.
FEW_VALUES = 64
# Sides below this have no spectrum worth the name.
MIN_SIDE = 8
# Magnitudes whose squares float64 still holds; no scheme is anywhere near.
TINY, HUGE = 1e-100, 1e100
# A fitted scale is this many standard errors from a scheme's at most.
SCALE_LIMIT = 3.3
# Log-likelihood by which the best scheme must beat another to be named alone.
DECISIVE = 4.6  # ln 100


def judge(tensor: Tensor, checkpoint: Checkpoint) -> Judgement:
    """The verdict on one tensor from a bounded, deterministic sample of its values.

    A law it keeps: the same values in another file, order of bytes or number of jobs give the
    same verdict. Reads at most some 2^20 values, all of them only where they seem to be constant.
    """
    import numpy as np

    if tensor.dtype.kind != "float" or not tensor.count or isinstance(tensor.extent, Absent):
        return Judgement("undecided", "no floating values")
    pair = fans(tensor, checkpoint)
    layout = layout_of(tensor, checkpoint)
    values = read_sample(tensor, layout)
    fan_in, fan_out = pair or (None, None)
    facts = Judgement("undecided", "", fan_in, fan_out, sampled=values.size)
    if not np.isfinite(values).all():
        return replace(facts, reason="values that are not finite")
    facts = replace(facts, bound=float(np.abs(values).max()))
    fixed = judge_fixed(tensor, values)
    if fixed is None and not TINY < (facts.bound or 0) < HUGE:
        fixed = "trained", "magnitudes that no scheme has"
    if (facts.bound or 0) < HUGE:
        facts = replace(facts, std=float(values.std()))
    if fixed is not None:
        return replace(facts, verdict=fixed[0], reason=fixed[1])
    if len(tensor.shape) >= 2 and is_orthogonal(tensor, checkpoint, rounding(tensor)):
        return replace(
            facts, verdict="fresh: orthogonal", reason="orthogonal vectors of one length"
        )
    if tensor.kind == "embedding" and values.ndim == 2:
        values = _without_padding(values)
    schemes = candidates(tensor, checkpoint)
    keras, is_bias = layout == "keras", tensor.role == "bias"
    if is_bias and not keras and not _has_known_start(tensor, schemes):
        return replace(facts, reason="the weight of this bias is not there")
    if tensor.kind == "norm":
        return judge_norm(facts, values, schemes, is_bias)
    facts = _judge_random(facts, values, schemes, rounding(tensor), keras=keras, is_bias=is_bias)
    if values.size < MIN_VALUES and facts.is_fresh:
        return replace(facts, verdict="undecided", reason="too few values")
    return facts


def _without_padding(values: np.ndarray) -> np.ndarray:
    """An embedding without its one row of zeros, which `padding_idx` sets; else as it is."""
    zero = ~values.any(axis=1)
    return values[~zero] if zero.sum() == 1 else values


def _judge_random(
    facts: Judgement,
    values: np.ndarray,
    schemes: list[Scheme],
    step: float,
    *,
    keras: bool,
    is_bias: bool,
) -> Judgement:
    """The verdict on values that vary: the schemes that pass, the likeliest named."""
    import numpy as np

    ordered = np.sort(values, axis=None)
    count = len(ordered)
    energy = inner(ordered, ordered)
    std = math.sqrt(energy / count)
    largest = max(-float(ordered[0]), float(ordered[-1]))
    limit = distance_limit(count, step)
    nearest = min(schemes, key=lambda s: abs(math.log(s.std / std)), default=None)
    if nearest is not None:
        facts = replace(
            facts,
            nearest=nearest.name,
            expected_std=nearest.std,
            distance=cdf_distance(ordered, nearest),
            limit=limit,
        )
    if count < FEW_VALUES and not is_bias:
        return replace(facts, reason="too few values")
    passing = []
    for scheme in schemes:
        error = math.sqrt((scheme.kurtosis - 1) / (4 * count))
        if largest > scheme.bound * (1 + step):
            continue
        # A uniform's scale shows in its bound and its CDF far better than in its deviation.
        if scheme.family != "uniform" and abs(std / scheme.std - 1) > SCALE_LIMIT * error + step:
            continue
        distance = cdf_distance(ordered, scheme)
        if distance <= limit:
            passing.append((scheme.log_likelihood(count, energy), scheme, distance))
    if is_bias and count < MIN_VALUES:
        left = count >= MIN_BIAS and not any(
            largest <= scheme.bound * (1 + step)
            and cdf_distance(ordered, scheme) <= CLEARLY * limit
            for scheme in schemes
        )
        if left:
            return replace(facts, verdict="trained", reason="a bias that no initialiser leaves")
        return replace(facts, reason="too few values")
    if not passing:
        return _judge_unnamed(facts, ordered, values, std, largest, limit, step, keras)
    passing.sort(key=lambda entry: -entry[0])
    best, scheme, distance = passing[0]
    names = [
        other.name
        for likelihood, other, _ in passing
        if other.family == scheme.family
        and (best - likelihood < DECISIVE or abs(other.scale / scheme.scale - 1) <= step)
    ]
    facts = replace(
        facts,
        nearest=" or ".join(names),
        expected_std=scheme.std,
        distance=distance,
    )
    facts = _add_structure(facts, values, scheme.std, scheme.kurtosis, keras)
    if facts.reason:
        return facts
    return replace(
        facts,
        verdict=f"fresh: {facts.nearest}",
        reason="scale, distribution and independence of a fresh tensor",
    )


def _has_known_start(tensor: Tensor, schemes: list[Scheme]) -> bool:
    """Whether it is known how a PyTorch bias starts: the default needs the shape of its weight.

    Packed biases of attention, and those of normalisations, start at zero.
    """
    at_zero = split_leaf(tensor.name)[1] == "in_proj_bias" or tensor.kind == "norm"
    return at_zero or any("default" in scheme.name for scheme in schemes)


def _judge_unnamed(
    facts: Judgement,
    ordered: np.ndarray,
    values: np.ndarray,
    std: float,
    largest: float,
    limit: float,
    step: float,
    keras: bool,
) -> Judgement:
    """The verdict where no scheme fits: undecided if some distribution of another scale does."""
    fitted = (
        Scheme("uniform", "uniform", largest),
        Scheme("normal", "normal", std),
        Scheme("truncated", "truncated", max(std / TRUNCATED_STD, largest / TRUNCATED_AT)),
    )
    for scheme in fitted:
        if cdf_distance(ordered, scheme) <= CLEARLY * limit:
            facts = _add_structure(facts, values, std, KURTOSIS[scheme.family], keras)
            if facts.reason:
                return facts
            return replace(facts, reason=f"random and {scheme.name}, at no scheme's scale")
    return replace(facts, verdict="trained", reason="distribution of no scheme")


def _add_structure(
    facts: Judgement, values: np.ndarray, std: float, kurtosis: float, keras: bool
) -> Judgement:
    """`facts` with the tests of independence; verdict and reason are set where one fails."""
    departure, name = structure(values, std, kurtosis)
    if kurtosis == KURTOSIS["normal"]:
        departure, name = max((departure, name), tails(values))
    if values.ndim >= 2:
        rows, columns = matrix_shape(values.shape, "keras" if keras else "torch")
        if min(rows, columns) >= MIN_SIDE:
            top, together = spectrum(values.reshape(rows, columns), std)
            departure, name = max((departure, name), (abs(together), "inner products of rows"))
            facts = replace(facts, spectrum=top)
    facts = replace(facts, structure=departure)
    if departure > STRUCTURE_LIMIT:
        verdict = "trained" if departure > CLEARLY * STRUCTURE_LIMIT else "undecided"
        return replace(facts, verdict=verdict, reason=f"not independent: {name}")
    low, high = SPECTRUM_LIMITS
    if facts.spectrum is not None and not low <= facts.spectrum <= high:
        clearly = not CLEARLY * low <= facts.spectrum <= CLEARLY * high
        verdict = "trained" if clearly else "undecided"
        return replace(facts, verdict=verdict, reason="not independent: largest singular value")
    return facts
