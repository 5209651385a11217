"""Which initialisation a tensor still looks like, if any: the verdict and its evidence.

fresh: SCHEME - scale, distribution and structure are those of the scheme; trained - they are far
from those of any; constant - one value that no scheme sets; undecided - too few values, values just
outside what a scheme draws, or values that look random at a scale that no scheme has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wtool.layers.layouts import fans, layout_of
from wtool.layers.names import split_leaf
from wtool.layers.orthogonality import is_orthogonal
from wtool.layers.randomness import (
    SPECTRUM_LIMITS,
    STRUCTURE_LIMIT,
    cdf_distance,
    distance_limit,
    spectrum,
    structure,
    tails,
)
from wtool.layers.samples import is_constant, matrix_shape, read_sample
from wtool.layers.schemes import KURTOSIS, TRUNCATED_AT, TRUNCATED_STD, Scheme, candidates

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Checkpoint, Tensor

# Fewer values cannot tell a scheme from light training.
MIN_VALUES = 512
# Fewer values of a bias cannot even show that it left its start.
MIN_BIAS = 4
# Sides below this have no spectrum worth the name.
MIN_SIDE = 8
# A fitted scale is this many standard errors from a scheme's at most.
SCALE_LIMIT = 3.3
# "trained" is said only beyond the limits times this; between is undecided.
CLEARLY = 1.4
# Log-likelihood by which the best scheme must beat another to be named alone.
DECISIVE = 4.6  # ln 100
# Relative rounding of one stored value, by dtype; wider types round far below any limit.
ROUNDING = {
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
    "float8_e4m3fn": 2.0**-4,
    "float8_e4m3fnuz": 2.0**-4,
    "float8_e5m2": 2.0**-3,
    "float8_e5m2fnuz": 2.0**-3,
}
EXACT = 2.0**-22


@dataclass(frozen=True)
class Judgement:
    """What `init` says about one tensor.

    verdict: "fresh: SCHEME", "trained", "constant" or "undecided". nearest: the candidate whose
    scale is closest. std, bound: of the values looked at; expected_std: of the scheme.
    distance, limit: Kolmogorov distance to the scheme's CDF and what a fresh tensor stays under.
    structure: largest departure from independence in standard errors (limit 3.7); spectrum: of the
    largest singular value in Tracy-Widom units (limits -6.0 and 4.2). reason: what decided.
    sampled: values looked at.
    """

    verdict: str
    reason: str
    fan_in: int | None = None
    fan_out: int | None = None
    std: float | None = None
    bound: float | None = None
    nearest: str | None = None
    expected_std: float | None = None
    distance: float | None = None
    limit: float | None = None
    structure: float | None = None
    spectrum: float | None = None
    sampled: int = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the tensor cannot be told from a fresh one."""
        return self.verdict.startswith("fresh")


def judge(tensor: Tensor, checkpoint: Checkpoint) -> Judgement:
    """The verdict on one tensor from a bounded, deterministic sample of its values.

    A law it keeps: the same values in another file, order of bytes or number of jobs give the
    same verdict. Reads at most some 2^20 values, all of them only where they seem to be constant.
    """
    import numpy as np

    if tensor.dtype.kind != "float" or not tensor.count:
        return Judgement("undecided", "no floating values")
    pair = fans(tensor, checkpoint)
    layout = layout_of(tensor, checkpoint)
    values = read_sample(tensor, layout)
    fan_in, fan_out = pair or (None, None)
    facts = Judgement("undecided", "", fan_in, fan_out, sampled=values.size)
    if not np.isfinite(values).all():
        return replace(facts, reason="values that are not finite")
    facts = replace(facts, std=float(values.std()), bound=float(np.abs(values).max()))
    fixed = _judge_fixed(tensor, values)
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
    return _judge_random(facts, values, schemes, rounding(tensor), keras=keras, is_bias=is_bias)


def rounding(tensor: Tensor) -> float:
    """Relative rounding of a value of the tensor's dtype."""
    return ROUNDING.get(tensor.dtype.name, EXACT)


def _judge_fixed(tensor: Tensor, values: np.ndarray) -> tuple[str, str] | None:
    """(verdict, reason) where no randomness is involved: constants, identity, Keras' LSTM bias."""
    first = float(values.flat[0])
    if (values == first).all() and is_constant(tensor, first):
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


def _is_identity(values: np.ndarray) -> bool:
    rows, columns = values.shape
    return (
        rows == columns
        and bool((values.diagonal() == 1).all())
        and float(abs(values).sum()) == rows
    )


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
    energy = float(ordered @ ordered)
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
    if count < MIN_VALUES and not is_bias:
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
    names = [s.name for ll, s, _ in passing if best - ll < DECISIVE and s.family == scheme.family]
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

    Packed biases of attention start at zero.
    """
    packed = split_leaf(tensor.name)[1] == "in_proj_bias"
    return packed or any("default" in scheme.name for scheme in schemes)


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
