"""Do values look like independent draws from one distribution? Distances, structure, spectrum.

A trained matrix differs from a fresh one in its distribution, or, where that barely moved, in its
structure: rows and columns of unequal strength, neighbours that agree, a singular value that sticks
out of the Marchenko-Pastur bulk. Every figure is a number of standard errors, or a distance with
its limit; the limits are set so that a fresh tensor exceeds any of them less than once in two
hundred (`tests/bench/score_init.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from wtool.layers.schemes import Scheme

# Kolmogorov's distribution: P(sqrt(n) D > 1.85) = 2e-3.
KOLMOGOROV_LIMIT = 1.85
# Points of the empirical CDF that are compared.
CDF_POINTS = 2048
# Limit in standard errors for means, energies, correlations; a tensor has up to 14 of them.
STRUCTURE_LIMIT = 3.7
# Groups smaller than this have energies too skewed for a normal approximation.
MIN_GROUP = 32
# Largest matrix whose singular values are computed.
SPECTRUM_SIDE = 256
# Steps after which the largest eigenvalue no longer moves by what matters.
LANCZOS_STEPS = 48
# Tracy-Widom (beta 1) units: 99.9 % of fresh matrices stay between -5.5 and 3.3; values that are
# not Gaussian, and sides of ten, need some room.
SPECTRUM_LIMITS = (-6.0, 4.2)


def cdf_distance(ordered: np.ndarray, scheme: Scheme) -> float:
    """Largest distance between the CDF of `scheme` and that of `ordered`, (n,) float64 ascending.

    Taken at up to CDF_POINTS evenly spaced order statistics, below and above the ties of each, so
    that a lump of equal values (pruned zeros) counts in full.
    """
    import numpy as np

    count = len(ordered)
    points = ordered[np.linspace(0, count - 1, min(count, CDF_POINTS)).astype(np.int64)]
    expected = scheme.cdf(points)
    below = expected - np.searchsorted(ordered, points, "left") / count
    above = np.searchsorted(ordered, points, "right") / count - expected
    return float(max(below.max(), above.max()))


def distance_limit(count: int, step: float) -> float:
    """Distance that `count` fresh values rarely exceed; `step` is a value's relative rounding.

    Rounding lumps values together: half a lump is at most half a step of the CDF of a uniform.
    """
    return KOLMOGOROV_LIMIT / math.sqrt(count) + 0.6 * step


def structure(values: np.ndarray, std: float, kurtosis: float) -> tuple[float, str]:
    """(largest departure in standard errors, its name) from independent zero-mean draws.

    values: any shape, float64. For every axis: means and energies of its slices, and the
    correlation of neighbours; "mean" for the whole.
    """
    import numpy as np

    scaled = values / std
    found = [(abs(float(scaled.mean())) * math.sqrt(scaled.size), "mean")]
    squares = scaled * scaled
    energy_error = math.sqrt(kurtosis - 1)
    for axis, size in enumerate(scaled.shape):
        group = scaled.size // size
        if size < 2:
            continue
        others = tuple(other for other in range(scaled.ndim) if other != axis)
        if group >= MIN_GROUP:
            means = scaled.mean(axis=others) * math.sqrt(group)
            energies = (squares.mean(axis=others) - 1) * math.sqrt(group) / energy_error
            found.append((_excess(means), f"means along axis {axis}"))
            found.append((_excess(energies), f"energies along axis {axis}"))
        # The neighbours' products are uncorrelated with variance 1 under independence.
        if scaled.size - group >= MIN_GROUP:
            front = np.take(scaled, range(size - 1), axis=axis).ravel()
            back = np.take(scaled, range(1, size), axis=axis).ravel()
            correlation = abs(inner(front, back)) / math.sqrt(len(front))
            found.append((correlation, f"neighbours along axis {axis}"))
    return max(found)


def _excess(scores: np.ndarray) -> float:
    """Departure of standard scores from standard normal ones: the worse of their sum of squares and
    their largest, each brought to the scale of one normal score."""
    count = len(scores)
    # Wilson-Hilferty: the cube root of a chi-square over its mean is close to normal.
    total = inner(scores, scores) / count
    spread = 2 / (9 * count)
    overall = (total ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    # The largest of `count` scores: what exceeds the expected maximum.
    largest = float(abs(scores).max()) - math.sqrt(2 * math.log(count))
    return max(overall, largest, 0.0)


def tails(values: np.ndarray) -> tuple[float, str]:
    """(larger of skewness and excess kurtosis in standard errors, its name) of a normal sample."""
    centred = (values.ravel() - values.mean()) / values.std()
    squares = centred * centred
    count = len(centred)
    skewness = abs(inner(centred, squares)) / math.sqrt(6 * count)
    kurtosis = (inner(squares, squares) - 3 * count) / math.sqrt(24 * count)
    # A small sample's kurtosis is skewed upwards: what counts is damped there.
    kurtosis *= 1 / (1 + 12 / math.sqrt(count)) if kurtosis > 0 else -1
    return max((skewness, "skewness"), (kurtosis, "tails"))


def spectrum(values: np.ndarray, std: float) -> tuple[float, float]:
    """(largest singular value, inner products of rows) against independent draws.

    values: (rows, columns) float64; at most SPECTRUM_SIDE of each are used, evenly spaced. The
    first in Tracy-Widom units around the edge of the bulk (Johnstone 2001), below 0 inside it. The
    second in standard errors: the squared cosines between rows have mean 1 / columns and are
    uncorrelated; common directions raise their sum, left-over orthogonality lowers it.
    """
    import numpy as np

    part = values[np.ix_(_spaced(values.shape[0]), _spaced(values.shape[1]))] / std
    if part.shape[0] > part.shape[1]:
        part = part.T
    count, length = part.shape
    gram = gram_matrix(part)
    top = _largest_eigenvalue(gram)
    root = math.sqrt(length - 1) + math.sqrt(count)
    unit = root * (1 / math.sqrt(length - 1) + 1 / math.sqrt(count)) ** (1 / 3)
    energies = gram.diagonal()
    cosines = gram * gram / np.maximum(np.outer(energies, energies), np.finfo(float).tiny)
    pairs = count * (count - 1) / 2
    total = (float(cosines.sum()) - float(np.trace(cosines))) / 2 * length
    together = (total - pairs) / math.sqrt(2 * pairs * (length - 1) / (length + 2))
    return (top - root * root) / unit, together


def inner(left: np.ndarray, right: np.ndarray) -> float:
    """Sum of products of two (n,) float64 arrays.

    Not through BLAS, here and below: its threads fight with ours, and its sums depend on how many
    there are.
    """
    import numpy as np

    return float(np.einsum("i,i->", left, right))


def gram_matrix(vectors: np.ndarray) -> np.ndarray:
    """(n, n) float64 inner products of the rows of `vectors`, (n, length) float64."""
    import numpy as np

    return np.einsum("ij,kj->ik", vectors, vectors)


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """Largest eigenvalue of a symmetric matrix, from LANCZOS_STEPS steps of Lanczos' method.

    From below and to a fraction of a Tracy-Widom unit; exact for matrices that are not larger.
    """
    import numpy as np

    size = len(gram)
    steps = min(size, LANCZOS_STEPS)
    basis = np.empty((steps, size))
    vector = np.cos(np.arange(size) * 1.7 + 0.3)  # any fixed direction without structure
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        norm = math.sqrt(inner(vector, vector))
        if step and norm <= 1e-12 * beside[0]:
            steps = step
            break
        beside[step] = norm
        basis[step] = vector / norm
        vector = np.einsum("ij,j->i", gram, basis[step])
        diagonal[step] = inner(vector, basis[step])
        for _ in range(2):  # once leaves rounding behind
            overlap = np.einsum("ij,j->i", basis[: step + 1], vector)
            vector = vector - np.einsum("ij,i->j", basis[: step + 1], overlap)
    small = np.diag(diagonal[:steps]) + np.diag(beside[1:steps], 1) + np.diag(beside[1:steps], -1)
    return float(np.linalg.eigvalsh(small)[-1])


def _spaced(size: int) -> np.ndarray:
    import numpy as np

    return np.linspace(0, size - 1, min(size, SPECTRUM_SIDE)).astype(np.int64)
