"""The loops that numba compiles: small ones, each of which vectorises, over one block.

Plain functions on pointers, so that nothing here imports numba; `native` compiles and keeps them.
Every float64 addition has the place that `blocks` gives it, and none is reordered or fused: the
sums have the bits of NumPy's. Four rows of lanes go together to save loads and stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = 512
# Values that several loops go over in turn: 16 KiB of float32 and 24 KiB of lanes fit into a
# first-level cache.
CHUNK = 8 * LANES
# Of a float32's bit pattern: all but the sign; the smallest normal value.
_MAGNITUDE_32 = 0x7FFF_FFFF
_TINY_32 = 0x0080_0000
# Counts that are looked at together: nearly all are zero.
_GROUP = 32
# Words whose codes are counted in one way, and of which one in so many is looked at first.
_STRETCH = 1 << 13
_SAMPLE_STEP = 1 << 7
# Where the other tables of counts begin.
_SECOND, _THIRD, _FOURTH = (np.uint64(place << 16) for place in (1, 2, 3))


def find_extremes(bits: Any, n: int, shift: Any, mask: Any, tiny: Any, found: Any) -> int:
    """Extremes, zeros and subnormals of floats, on their bit patterns.

    bits: (n,) signed integers. shift: width - 1. mask: all but the sign bit. tiny: the pattern of
    the smallest normal value. found: (4,) int64 out: minimum and maximum as integers in the order
    of the values, zeros, zeros and subnormals together. A float `min` loop does not vectorise.
    """
    low = mask
    high = ~mask
    for i in range(n):
        key = bits[i] ^ ((bits[i] >> shift) & mask)
        low = min(low, key)
        high = max(high, key)
    small = mask & (tiny ^ tiny)
    for i in range(n):
        small += (bits[i] & mask) < tiny
    zeros = mask & (tiny ^ tiny)
    if small:
        for i in range(n):
            zeros += (bits[i] & mask) == 0
    found[0] = low
    found[1] = high
    found[2] = zeros
    found[3] = small
    return 0


def measure_values(
    values: Any, bits: Any, n: int, going: int, found: Any, lanes: Any, centre: Any
) -> int:
    """`find_extremes` of (n,) float32, n > 0, and all sums in one pass, a CHUNK after the other.

    bits: the same memory as int32. going: 1 where the values follow those of the last call, whose
    number CHUNK divides; then all that is given out goes on. lanes: (6, LANES) float64 out: sums of
    x, of |x|, and of the 2nd, 3rd and 4th power of x - centre; the last row is scratch. centre:
    (1,) float64 out: mean of the first CHUNK. numba widens integers of 32 bits: each step is
    narrowed again, or half of the values would fit into a register.
    """
    if going == 0:
        found[0] = _MAGNITUDE_32
        found[1] = ~_MAGNITUDE_32
        found[2] = 0
        found[3] = 0
        for j in range(6 * LANES):
            lanes[j] = 0.0
        first = min(n, CHUNK)
        scratch = 5 * LANES
        for r in range(0, first, LANES):
            for j in range(min(LANES, first - r)):
                lanes[scratch + j] += np.float64(values[r + j])
        half = LANES // 2
        while half:
            for j in range(half):
                lanes[scratch + j] += lanes[scratch + j + half]
            half //= 2
        centre[0] = lanes[scratch] / np.float64(first)
    middle = centre[0]
    low = np.int32(found[0])
    high = np.int32(found[1])
    small = np.int32(0)
    for start in range(0, n, CHUNK):
        stop = min(n, start + CHUNK)
        for i in range(start, stop):
            sign = np.int32(bits[i] >> 31)
            key = np.int32(bits[i] ^ np.int32(sign & np.int32(_MAGNITUDE_32)))
            low = min(low, key)
            high = max(high, key)
            magnitude = np.int32(bits[i] & np.int32(_MAGNITUDE_32))
            small = np.int32(small + np.int32(magnitude < np.int32(_TINY_32)))
        fours = (stop - start) // (4 * LANES)
        for four in range(fours):
            r = start + four * 4 * LANES
            for j in range(LANES):
                a = np.float64(values[r + j])
                b = np.float64(values[r + j + LANES])
                c = np.float64(values[r + j + 2 * LANES])
                d = np.float64(values[r + j + 3 * LANES])
                lanes[j] = (((lanes[j] + a) + b) + c) + d
                lanes[LANES + j] = (((lanes[LANES + j] + abs(a)) + abs(b)) + abs(c)) + abs(d)
                a -= middle
                b -= middle
                c -= middle
                d -= middle
                aa = a * a
                bb = b * b
                cc = c * c
                dd = d * d
                q = 2 * LANES + j
                t = 3 * LANES + j
                f = 4 * LANES + j
                lanes[q] = (((lanes[q] + aa) + bb) + cc) + dd
                lanes[t] = (((lanes[t] + aa * a) + bb * b) + cc * c) + dd * d
                lanes[f] = (((lanes[f] + aa * aa) + bb * bb) + cc * cc) + dd * dd
        for r in range(start + fours * 4 * LANES, stop, LANES):
            for j in range(min(LANES, stop - r)):
                a = np.float64(values[r + j])
                lanes[j] += a
                lanes[LANES + j] += abs(a)
                a -= middle
                aa = a * a
                lanes[2 * LANES + j] += aa
                lanes[3 * LANES + j] += aa * a
                lanes[4 * LANES + j] += aa * aa
    zeros = np.int32(0)
    if small:
        for i in range(n):
            magnitude = np.int32(bits[i] & np.int32(_MAGNITUDE_32))
            zeros = np.int32(zeros + np.int32(magnitude == np.int32(0)))
    found[0] = low
    found[1] = high
    found[2] += zeros
    found[3] += small
    return 0


def scale_values(values: Any, n: int, scale: float, split: float, scaled: Any, lanes: Any) -> int:
    """Sums of (n,) float64 * scale: of their upper parts, of what these leave, and of magnitudes.

    scaled: (n,) float64 out, the products. lanes: (3, LANES) float64 out, from zero. Adding and
    taking away `split` gives the upper part.
    """
    for j in range(3 * LANES):
        lanes[j] = 0.0
    for row in range(n // LANES + 1):
        r = row * LANES
        for j in range(min(LANES, n - r)):
            a = values[r + j] * scale
            scaled[r + j] = a
            upper = (a + split) - split
            lanes[j] += upper
            lanes[LANES + j] += a - upper
            lanes[2 * LANES + j] += abs(a)
    return 0


def add_powers(values: Any, n: int, centre: float, lanes: Any) -> int:
    """Sums of the 2nd, 3rd and 4th power of (n,) values - centre: (3, LANES) float64 out."""
    for j in range(3 * LANES):
        lanes[j] = 0.0
    rows = n // LANES
    fours = rows // 4
    for four in range(fours):
        r = four * 4 * LANES
        for j in range(LANES):
            a = np.float64(values[r + j]) - centre
            b = np.float64(values[r + j + LANES]) - centre
            c = np.float64(values[r + j + 2 * LANES]) - centre
            d = np.float64(values[r + j + 3 * LANES]) - centre
            aa = a * a
            bb = b * b
            cc = c * c
            dd = d * d
            q = LANES + j
            f = 2 * LANES + j
            lanes[j] = (((lanes[j] + aa) + bb) + cc) + dd
            lanes[q] = (((lanes[q] + aa * a) + bb * b) + cc * c) + dd * d
            lanes[f] = (((lanes[f] + aa * aa) + bb * bb) + cc * cc) + dd * dd
    for row in range(fours * 4, rows + 1):
        r = row * LANES
        for j in range(min(LANES, n - r)):
            a = np.float64(values[r + j]) - centre
            aa = a * a
            lanes[j] += aa
            lanes[LANES + j] += aa * a
            lanes[2 * LANES + j] += aa * aa
    return 0


def fold_lanes(lanes: Any, rows: int, sums: Any) -> int:
    """Each of (rows, LANES) float64 folded in halves; destroys `lanes`.

    sums: (rows, 2) float64 out: the sum, and of the first row what its additions rounded away
    (Knuth's two-sum). There must be one more row of room behind `lanes`.
    """
    errors = rows * LANES
    for j in range(LANES):
        lanes[errors + j] = 0.0
    half = LANES // 2
    while half:
        for j in range(half):
            a = lanes[j]
            b = lanes[j + half]
            both = a + b
            part = both - a
            lost = (a - (both - part)) + (b - part)
            lanes[errors + j] = (lanes[errors + j] + lanes[errors + j + half]) + lost
            lanes[j] = both
        half //= 2
    sums[0] = lanes[0]
    sums[1] = lanes[errors]
    for row in range(1, rows):
        r = row * LANES
        half = LANES // 2
        while half:
            for j in range(half):
                lanes[r + j] += lanes[r + j + half]
            half //= 2
        sums[2 * row] = lanes[r]
        sums[2 * row + 1] = 0.0
    return 0


def count_halves(words: Any, n: int, table: Any) -> int:
    """Counts of the four 16-bit codes in each of (n,) uint64; adds to `table`, (4, 65536) uint32.

    Codes that stand next to their equals, as zeros do in sparse weights, go to four tables, or each
    would wait for the one before. Others go to one table: more of it fits into the cache. A sample
    of each _STRETCH says which.
    """
    for start in range(0, n, _STRETCH):
        stop = min(n, start + _STRETCH)
        equal = 0
        for i in range(start, stop, _SAMPLE_STEP):
            equal += ((words[i] ^ (words[i] >> np.uint64(16))) & np.uint64(0xFFFF)) == np.uint64(0)
        if equal * _SAMPLE_STEP * 8 > stop - start:
            for i in range(start, stop):
                word = words[i]
                table[word & np.uint64(0xFFFF)] += np.uint32(1)
                table[_SECOND + ((word >> np.uint64(16)) & np.uint64(0xFFFF))] += np.uint32(1)
                table[_THIRD + ((word >> np.uint64(32)) & np.uint64(0xFFFF))] += np.uint32(1)
                table[_FOURTH + (word >> np.uint64(48))] += np.uint32(1)
        else:
            for i in range(start, stop):
                word = words[i]
                table[word & np.uint64(0xFFFF)] += np.uint32(1)
                table[(word >> np.uint64(16)) & np.uint64(0xFFFF)] += np.uint32(1)
                table[(word >> np.uint64(32)) & np.uint64(0xFFFF)] += np.uint32(1)
                table[word >> np.uint64(48)] += np.uint32(1)
    return 0


def count_upper_halves(words: Any, n: int, table: Any) -> int:
    """Counts of the upper 16 bits of both float32 in each of (n,) uint64; adds to `table` as above.

    Their codes are few, and four tables of them fit into the cache.
    """
    for pair in range(n // 2):
        first = words[2 * pair]
        second = words[2 * pair + 1]
        table[(first >> np.uint64(16)) & np.uint64(0xFFFF)] += np.uint32(1)
        table[_SECOND + (first >> np.uint64(48))] += np.uint32(1)
        table[_THIRD + ((second >> np.uint64(16)) & np.uint64(0xFFFF))] += np.uint32(1)
        table[_FOURTH + (second >> np.uint64(48))] += np.uint32(1)
    if n % 2:
        last = words[n - 1]
        table[(last >> np.uint64(16)) & np.uint64(0xFFFF)] += np.uint32(1)
        table[_SECOND + (last >> np.uint64(48))] += np.uint32(1)
    return 0


def take_table(table: Any, codes: Any, counts: Any, found: Any) -> int:
    """The codes that `table`, (4, 65536) uint32, has counted, rising, and how often; empties it.

    codes, counts: (65536,) int64 out, as many as are found. found: (1,) int64 out: that number.
    """
    places: Any = 0
    for start in range(0, 65536, _GROUP):
        any_count: Any = np.uint32(0)
        for i in range(start, start + _GROUP):
            any_count |= table[i] | table[65536 + i] | table[131072 + i] | table[196608 + i]
        if any_count:
            for i in range(start, start + _GROUP):
                count: Any = np.int64(0)
                for place in range(i, 262144, 65536):
                    count += np.int64(table[place])
                    table[place] = np.uint32(0)
                codes[places] = i
                counts[places] = count
                places += count > 0
    found[0] = places
    return 0
