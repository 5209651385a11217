"""How two arrays of values differ, block by block; partial results merge in block order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Difference:
    """What comparing two sequences of values gave. Numbers are float64; NaN equals NaN.

    count: elements compared. changed: elements that are not equal. broken: of those, elements where
    one side is NaN or infinite; they are left out of what follows.
    max_abs: largest |b - a|. max_rel: largest |b - a| / |a|, infinite where a is 0 and b is not.
    worst: index of the element of max_abs, counted from the first; None where nothing changed.
    square: sum of (b - a)^2. square_a, square_b, dot: sums of a^2, b^2 and a * b.
    """

    count: int = 0
    changed: int = 0
    broken: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    worst: int | None = None
    square: float = 0.0
    square_a: float = 0.0
    square_b: float = 0.0
    dot: float = 0.0

    @property
    def relative_l2(self) -> float:
        """||b - a|| / ||a||; 0 where both are zero, infinite where only a is."""
        if self.square == 0:
            return 0.0
        return math.sqrt(self.square / self.square_a) if self.square_a else math.inf

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between a and b; None where one of them is zero."""
        norms = math.sqrt(self.square_a) * math.sqrt(self.square_b)
        return max(-1.0, min(1.0, self.dot / norms)) if norms else None


def merge(left: Difference, right: Difference) -> Difference:
    """The difference over `left` followed by `right`."""
    worst = left.worst
    if right.worst is not None and (worst is None or right.max_abs > left.max_abs):
        worst = left.count + right.worst
    return Difference(
        left.count + right.count,
        left.changed + right.changed,
        left.broken + right.broken,
        max(left.max_abs, right.max_abs),
        max(left.max_rel, right.max_rel),
        worst,
        left.square + right.square,
        left.square_a + right.square_a,
        left.square_b + right.square_b,
        left.dot + right.dot,
    )


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """The difference of two blocks, (n,) each, of any numeric carrier types.

    Values are compared exactly, whatever their types: 64-bit integers are not rounded on the way.
    """
    if a.dtype == object or b.dtype == object:
        changed = sum(x != y for x, y in zip(a, b, strict=True))
        return Difference(count=len(a), changed=changed, broken=changed)
    if a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8)):
        # One pass over equal bytes; the norms are still wanted.
        wide = _finite(_widen(a))
        square = float(np.dot(wide, wide))
        return Difference(count=len(a), square_a=square, square_b=square, dot=square)
    wide_a, wide_b = _widen(a), _widen(b)
    parts = len(wide_a) // max(len(a), 1)
    exact_a, exact_b = _exact(a, wide_a), _exact(b, wide_b)
    differs = (exact_a != exact_b) & ~(np.isnan(wide_a) & np.isnan(wide_b))
    finite = np.isfinite(wide_a) & np.isfinite(wide_b)
    usable = differs & finite
    step = np.zeros(len(wide_a))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        step[usable] = np.abs((exact_b[usable] - exact_a[usable]).astype(np.float64))
        relative = step[usable] / np.abs(wide_a[usable])
    changed = differs.reshape(-1, parts).any(axis=1) if parts else differs
    broken = (differs & ~finite).reshape(-1, parts).any(axis=1) if parts else differs
    wide_a, wide_b = np.where(finite, wide_a, 0), np.where(finite, wide_b, 0)
    worst = None
    if changed.any():
        worst = int(step.argmax()) // parts if usable.any() else int(changed.argmax())
    return Difference(
        len(a),
        int(changed.sum()),
        int(broken.sum()),
        float(step.max(initial=0.0)),
        float(relative.max(initial=0.0)),
        worst,
        float(np.dot(step, step)),
        float(np.dot(wide_a, wide_a)),
        float(np.dot(wide_b, wide_b)),
        float(np.dot(wide_a, wide_b)),
    )


def _widen(values: np.ndarray) -> np.ndarray:
    """Real components as float64: (n,), or (2n,) for complex numbers."""
    if values.dtype.kind == "c":
        return values.view(values.real.dtype).astype(np.float64)
    return values.astype(np.float64)


def _exact(values: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """`wide`, or for 64-bit integers a type that holds each of them exactly."""
    if values.dtype in (np.dtype(np.int64), np.dtype(np.uint64)):
        # 64 bits of significand on x86; elsewhere longdouble is at least as wide as float64.
        return values.astype(np.longdouble)
    return wide


def _finite(wide: np.ndarray) -> np.ndarray:
    return wide if np.isfinite(wide).all() else np.where(np.isfinite(wide), wide, 0)
