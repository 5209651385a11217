"""The exact sum of floats, whatever their magnitudes; slower than the loops that measure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from wtool.kernels.exact import ZERO, Exact, add

# A float64 has 53 bits; halves of them, times 2^26 values, still add up exactly in a float64.
_HALF_BITS = 26


def sum_exactly(blocks: Iterable[np.ndarray]) -> Exact:
    """The sum of the finite values of float or complex blocks, (n,) of at most 2^26 values each."""
    total = ZERO
    for block in blocks:
        values = block.view(block.real.dtype) if block.dtype.kind == "c" else block
        wide = values[np.isfinite(values)].astype(np.float64)
        if len(wide):
            total = add(total, _sum_block(wide))
    return total


def _sum_block(values: np.ndarray) -> Exact:
    """Values of one exponent are added as whole numbers: no addition rounds."""
    mantissas, exponents = np.frexp(values)
    scaled = np.ldexp(mantissas, _HALF_BITS)
    upper = np.rint(scaled)
    lower = np.ldexp(scaled - upper, _HALF_BITS + 1)
    lowest = int(exponents.min())
    places = exponents - lowest
    total = ZERO
    for terms, bits in ((upper, _HALF_BITS), (lower, 2 * _HALF_BITS + 1)):
        for place, part in enumerate(np.bincount(places, weights=terms)):
            total = add(total, (int(part), lowest + place - bits))
    return total
