"""Casts between floating-point types, rounded as torch rounds, and what each cast damages.

Rounding is to nearest, ties to even. As in torch 2.13, float64 goes to narrow types through
float32 (rounding twice), and NaN keeps the bits that torch keeps. What does not fit becomes
infinite, or with `clamp` the largest finite value; float8_e4m3fn has no infinity, so NaN stands for
it (torch clamps there always, its infinities too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wtool.dtypes import DType
from wtool.kernels.cast_loops import LANES
from wtool.kernels.native import Linked, load

# What becomes of a value that the target cannot hold.
ON_OVERFLOW = ("fail", "clamp", "inf")
# Elements of one block; blocks are counted from a tensor's first element, so sums are the same
# however a tensor is read.
BLOCK = 1 << 17


@dataclass(frozen=True)
class Layout:
    """Bits of a narrow type: of the stored significand, and the exponent's bias.

    overflow: first float32 that is rounded beyond the largest finite value. scale: 1 / smallest
    subnormal; 0 where float32 has the same exponents, and rounding its bits does it all.
    """

    mantissa: int
    bias: int
    overflow: float
    scale: float


LAYOUTS = {
    "float16": Layout(10, 15, 65520.0, 2.0**24),
    "bfloat16": Layout(7, 127, 2.0**128 - 2.0**119, 0.0),
    "float8_e5m2": Layout(2, 15, 61440.0, 2.0**16),
    # 464 lies between 448 and what would be 480; 448 is the even one of the two.
    "float8_e4m3fn": Layout(3, 7, 464.0 + 2.0**-15, 2.0**9),
}
# Types to cast to.
TARGETS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
# Bits of the significand (the hidden one too); all values are below 2**second, multiples of
# 2**third.
_RANGES = {
    "float64": (53, 1024, -1074),
    "float32": (24, 128, -149),
    "float16": (11, 16, -24),
    "bfloat16": (8, 128, -133),
    "float8_e5m2": (3, 16, -16),
    "float8_e4m3fn": (4, 9, -9),
    "float8_e4m3fnuz": (4, 8, -10),
    "float8_e4m3b11fnuz": (4, 5, -13),
    "float8_e5m2fnuz": (3, 16, -17),
    "float8_e8m0fnu": (1, 128, -127),
    "float6_e2m3fn": (4, 3, -3),
    "float6_e3m2fn": (3, 5, -4),
    "float4_e2m1fn": (2, 3, -1),
}


@dataclass(frozen=True, slots=True)
class Damage:
    """What a cast did to the values. Errors are relative to the value before: |new - old| / |old|.

    count: elements. overflowed: finite values that became infinite or NaN, or were clamped, and
    infinities that the target has no code for. flushed: became zero. subnormal: normal before, not
    any more. max_rel, error_sum, measured: largest error, sum and number of those that are finite.
    worst: index of the element with the largest error, before all others the largest that
    overflowed; None where nothing changed. old, new: its values. badness: orders the worst ones.
    """

    count: int = 0
    overflowed: int = 0
    flushed: int = 0
    subnormal: int = 0
    max_rel: float = 0.0
    error_sum: float = 0.0
    measured: int = 0
    worst: int | None = None
    old: float | None = None
    new: float | None = None
    badness: tuple[float, float] = (0.0, 0.0)

    @property
    def mean_rel(self) -> float:
        """Mean relative error of the elements that are finite before and after; zeros count."""
        return self.error_sum / self.measured if self.measured else 0.0


def merge(left: Damage, right: Damage) -> Damage:
    """The damage of `left` followed by `right`; the first of equally bad elements is the worst."""
    worst, before = (left, 0) if left.badness >= right.badness else (right, left.count)
    return Damage(
        left.count + right.count,
        left.overflowed + right.overflowed,
        left.flushed + right.flushed,
        left.subnormal + right.subnormal,
        max(left.max_rel, right.max_rel),
        left.error_sum + right.error_sum,
        left.measured + right.measured,
        None if worst.worst is None else worst.worst + before,
        worst.old,
        worst.new,
        worst.badness,
    )


def is_exact(source: DType, target: DType) -> bool:
    """Whether every value of `source` is one of `target`."""
    bits, high, low = _RANGES[source.name]
    target_bits, target_high, target_low = _RANGES[target.name]
    return bits <= target_bits and high <= target_high and low >= target_low


def rounding(dtype: DType) -> tuple[float, float]:
    """(largest relative, largest absolute error) of rounding to `dtype`: of two halves of a step,
    the one that holds for normal values, and the one for smaller ones."""
    bits, _, low = _RANGES[dtype.name]
    return math.ldexp(1.0, -bits), math.ldexp(0.5, low)


class CastLoops:
    """The compiled loops for casts to one type, linked when they are first asked for.

    elements: how many will be cast with them in all; decides whether they pay.
    """

    def __init__(self, target: DType, elements: int) -> None:
        self.name = f"narrow_to_{target.bits}"
        self._pays = target.name in LAYOUTS
        self._elements = elements
        self._linked: Linked | None = None

    def get(self) -> Linked | None:
        """The loops; None where NumPy is the better choice."""
        if self._pays and self._linked is None:
            self._linked = load((self.name,), self._elements)
            self._pays = self._linked is not None
        return self._linked


class Caster:
    """Casts blocks of one type to another, one after the other; not shared between threads."""

    def __init__(
        self,
        source: DType,
        target: DType,
        on_overflow: str = "inf",
        loops: CastLoops | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.clamp = on_overflow == "clamp"
        self.exact = is_exact(source, target)
        self._linked: Linked | None = None
        if loops is not None and source.name != "float64" and not self.exact:
            self._name = loops.name
            self._linked = loops.get()
        if self._linked is not None:
            self._errors = np.empty(BLOCK)
            self._found = np.empty(3, np.int64)
            self._lanes = np.empty(LANES)

    def cast(self, values: np.ndarray) -> np.ndarray:
        """(n,) of the source's carrier -> (n,) of the target's."""
        return self._round(self._widen(values))[0]

    def measure(self, values: np.ndarray) -> tuple[np.ndarray, Damage]:
        """`cast` of at most BLOCK values, contiguous, and the damage."""
        wide = self._widen(values)
        if self.exact:
            return self._round(wide)[0], Damage(len(values), measured=len(values))
        if self._linked is not None and len(values):
            answer = self._measure_compiled(self._linked, wide)
            if answer is not None:
                return answer
        out, over = self._round(wide)
        return out, self._damage(wide, out, over)

    def _widen(self, values: np.ndarray) -> np.ndarray:
        """The values as float32, exactly and with torch's NaN; float64 stays."""
        name = self.source.name
        if name in ("float64", "float32"):
            return values
        if name == "bfloat16":
            return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        wide = values.astype(np.float32)
        nan = np.isnan(wide)
        if name in LAYOUTS and nan.any():
            codes = values.view(f"u{values.itemsize}")[nan].astype(np.uint32)
            wide.view(np.uint32)[nan] = _widened_nan(codes, self.source)
        return wide

    def _round(self, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the values in the target's type, where they overflowed)."""
        name = self.target.name
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            single = wide if name == "float64" else wide.astype(np.float32, copy=False)
            out = single.astype(self.target.carrier)
        nan = np.isnan(wide)
        if name in LAYOUTS and nan.any():
            codes = out.view(f"u{out.itemsize}")
            codes[nan] = self._narrowed_nan(single.view(np.uint32)[nan])
        if self.exact:
            return out, np.zeros(len(out), bool)
        # ml_dtypes gives NaN where float8_e4m3fn has no infinity.
        over = ~nan & ~np.isfinite(out.astype(np.float32, copy=False))
        if name != "float8_e4m3fn":
            over &= np.isfinite(wide)
        if self.clamp and over.any():
            out[over] = np.copysign(largest(self.target), wide[over]).astype(out.dtype)
        return out, over

    def _narrowed_nan(self, bits: np.ndarray) -> np.ndarray:
        """Codes of NaN, (n,) uint32, from its bits as float32."""
        sign = bits >> np.uint32(31)
        if self.target.name == "float16":
            payload = (bits >> np.uint32(13)) & np.uint32(0x3FF)
            return (sign << np.uint32(15)) | np.uint32(0x7E00) | payload
        if self.target.name == "bfloat16":
            # torch's vector code for wide types on x86 fills all bits; its plain code has one NaN.
            return np.full(len(bits), 0x7FC0 if self.source.bits <= 16 else 0xFFFF)
        return (sign << np.uint32(7)) | np.uint32(0x7F)

    def _measure_compiled(
        self, linked: Linked, wide: np.ndarray
    ) -> tuple[np.ndarray, Damage] | None:
        """`measure` by the compiled loop; None where it refuses the block."""
        layout = LAYOUTS[self.target.name]
        out = np.empty(len(wide), self.target.carrier)
        errors = self._errors[: len(wide)]
        linked[self._name](
            wide.ctypes.data,
            wide.ctypes.data,
            len(wide),
            out.ctypes.data,
            errors.ctypes.data,
            layout.mantissa,
            (127 - layout.bias) << layout.mantissa,
            _bits(_smallest_normal(self.target)) if layout.scale else 0,
            _bits(_smallest_normal(self.source)),
            _bits(layout.overflow),
            self.target.bits - 1,
            layout.scale,
            self._found.ctypes.data,
            self._lanes.ctypes.data,
        )
        if self._found[2]:
            return None
        flushed, subnormal, _ = self._found.tolist()
        return out, _summary(wide, out, errors, self._lanes, None, (flushed, subnormal, len(wide)))

    def _damage(self, wide: np.ndarray, out: np.ndarray, over: np.ndarray) -> Damage:
        # In the type of `wide`, as the compiled loop does: the difference is exact there.
        new = out.astype(wide.dtype)
        usable = np.isfinite(wide) & np.isfinite(new)
        old = np.where(usable, wide, 0)
        size = np.abs(old)
        with np.errstate(under="ignore"):
            lost = np.abs(np.where(usable, new, 0) - old)
            errors = lost.astype(np.float64) / np.where(size == 0, wide.dtype.type(1), size)
        small = np.abs(new) < wide.dtype.type(_smallest_normal(self.target))
        turned = small & (new != 0) & (np.abs(wide) >= _smallest_normal(self.source))
        counts = (
            int(np.count_nonzero((new == 0) & (wide != 0))),
            int(np.count_nonzero(turned)),
            int(np.count_nonzero(usable)),
        )
        whole = len(errors) // LANES * LANES
        lanes = errors[:whole].reshape(-1, LANES).sum(axis=0)
        lanes[: len(errors) - whole] += errors[whole:]
        return _summary(wide, out, errors, lanes, over, counts)


def _summary(
    wide: np.ndarray,
    out: np.ndarray,
    errors: np.ndarray,
    lanes: np.ndarray,
    over: np.ndarray | None,
    counts: tuple[int, int, int],
) -> Damage:
    """Damage from each element's error; over: which ones overflowed, None where none did.

    lanes: sums of errors. counts: flushed, subnormal, measured.
    """
    if not len(wide):
        return Damage()
    index = int(errors.argmax())
    max_rel = float(errors[index])
    badness = (max_rel, 0.0)
    overflowed = 0 if over is None else int(np.count_nonzero(over))
    if over is not None and overflowed:
        sizes = np.where(over, np.abs(wide), 0)
        index = int(sizes.argmax())
        badness = (math.inf, float(sizes[index]))
    flushed, subnormal, measured = counts
    changed = badness[0] > 0
    return Damage(
        len(wide),
        overflowed,
        flushed,
        subnormal,
        max_rel,
        float(lanes.sum()),
        measured,
        index if changed else None,
        float(wide[index]) if changed else None,
        float(out[index]) if changed else None,
        badness,
    )


def largest(dtype: DType) -> float:
    """The largest finite value of a floating-point type."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.carrier).max)


def _smallest_normal(dtype: DType) -> float:
    bits, _, low = _RANGES[dtype.name]
    return math.ldexp(1.0, low + bits - 1)


def _bits(value: float) -> int:
    """Bits of `value`, rounded to float32."""
    return int(np.float32(value).view(np.int32))


def _widened_nan(codes: np.ndarray, dtype: DType) -> np.ndarray:
    """Bits of NaN as float32, quiet, with the payload of its code: (n,) uint32 both."""
    mantissa = LAYOUTS[dtype.name].mantissa
    payload = (codes & np.uint32((1 << mantissa) - 1)) << np.uint32(23 - mantissa)
    sign = codes >> np.uint32(dtype.bits - 1)
    return (sign << np.uint32(31)) | np.uint32(0x7FC00000) | payload
