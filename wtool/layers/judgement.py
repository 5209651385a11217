"""What `init` says about one tensor, and the limits that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

# Fewer values of a bias cannot even show that it left its start.
MIN_BIAS = 4
# "trained" is said only beyond the limits times this; between is undecided.
CLEARLY = 1.4
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


def rounding(tensor: Tensor) -> float:
    """Relative rounding of a value of the tensor's dtype."""
    return ROUNDING.get(tensor.dtype.name, EXACT)
