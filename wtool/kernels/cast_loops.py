"""The loop that rounds float32 to a narrow type and measures the damage on the way; see `cast`.

A plain function on pointers, as in `loops`: each of its inner loops vectorises. A block in which
a value overflows, is infinite or is no number is refused: such blocks are few, and NumPy does them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = 1024
# Values that the inner loops go over in turn: 32 KiB of float64.
CHUNK = 4 * LANES
# Adding and taking away 2^23 rounds a float32 below it to an integer, ties to even.
ROUNDER = 8388608.0


def narrow_floats(
    values: Any,
    bits: Any,
    n: int,
    codes: Any,
    errors: Any,
    mantissa: Any,
    rebias: Any,
    tiny: Any,
    born: Any,
    limit: Any,
    top: Any,
    scale: float,
    found: Any,
    lanes: Any,
) -> int:
    """Codes of (n,) float32, rounded to nearest, ties to even, and each one's relative error.

    bits: the same memory as int32. codes: (n,) uint8 or uint16 out. errors: (n,) float64 out: the
    quotient of two exact numbers.
    mantissa: stored bits of the target's significand. rebias: the difference of the exponents'
    biases, at the exponent's place in a code. tiny: bits of the target's smallest normal value, 0
    where its exponents are float32's; born: of the smallest that was normal before. limit: bits of
    the first value that overflows. top: the sign's place in a code. scale: what makes the target's
    smallest subnormal value 1. found: (3,) int64 out: values flushed to zero, turned subnormal,
    and 1 where a value is not below `limit`: the rest is of no use then. lanes: (LANES,) float64
    out, sums of the errors.
    """
    magnitude = np.int32(0x7FFFFFFF)
    normal = np.int32(0x00800000)
    fraction = np.int32(0x007FFFFF)
    zero = np.int32(0)
    one = np.int32(1)
    shift = np.int32(np.int32(23) - mantissa)
    half = np.int32((one << (shift - one)) - one)
    least_normal = np.int32(one << mantissa)
    rounder = np.float32(ROUNDER)
    factor = np.float32(scale)
    least = np.float32(1e-45)
    high = zero
    for i in range(n):
        high = max(high, np.int32(bits[i] & magnitude))
    found[2] = high >= limit
    if high >= limit:
        return 0
    for j in range(LANES):
        lanes[j] = 0.0
    flushed = zero
    subnormal = zero
    for start in range(0, n, CHUNK):
        stop = min(n, start + CHUNK)
        for i in range(start, stop):
            u = np.int32(bits[i] & magnitude)
            odd = np.int32(np.int32(u >> shift) & one)
            whole = np.int32(np.int32(np.int32(u + half) + odd) >> shift)
            scaled = np.float32(abs(values[i]) * factor)
            rounded = np.float32(np.float32(scaled + rounder) - rounder)
            m = np.int32(u & fraction)
            m = np.int32(m | normal) if u >= normal else m
            lost = np.int32(abs(np.int32(np.int32(whole << shift) - u)))
            small = u < tiny
            code = np.int32(rounded) if small else np.int32(whole - rebias)
            error = np.float32(abs(rounded - scaled)) if small else np.float32(lost)
            size = scaled if small else np.float32(m)
            errors[i] = np.float64(error) / np.float64(max(size, least))
            sign = np.int32(np.int32(bits[i] >> np.int32(31)) & one)
            codes[i] = np.int32(code | np.int32(sign << top))
            flushed += np.int32((code == zero) & (u != zero))
            subnormal += np.int32((code != zero) & (code < least_normal) & (u >= born))
        for r in range(start, stop, LANES):
            for j in range(min(LANES, stop - r)):
                lanes[j] += errors[r + j]
    found[0] = flushed
    found[1] = subnormal
    return 0
