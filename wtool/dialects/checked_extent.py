"""An extent whose values must keep a rule (indices within bounds), proven before the first read.

Opening a file reads no tensor byte, so a rule on values cannot be proven there. It is proven, block
by block, when the values are first asked for: nobody gets an index that points outside its tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wtool.extents import Extent, Strided
from wtool.sources import Source

if TYPE_CHECKING:
    import numpy as np


class Checked(Strided):
    """`extent` as it is, with `prove` called once before its bytes are first read.

    prove: reads what it needs from the plain extents and raises MalformedInput where the rule is
    broken. It may run more than once where several threads ask at the same time.
    """

    def __init__(self, extent: Strided, prove: Callable[[], None]) -> None:
        # The geometry of `extent` is proven already; only the reads are guarded.
        self.__dict__.update(extent.__dict__)
        self._prove: Callable[[], None] | None = prove

    def raw_span(self) -> tuple[Source, int, int] | None:
        """See Extent.raw_span; the values are proven first."""
        self._prove_once()
        return super().raw_span()

    def _fill_run(self, first: int, out: np.ndarray) -> None:
        self._prove_once()
        super()._fill_run(first, out)

    def _prove_once(self) -> None:
        if self._prove is not None:
            self._prove()
            self._prove = None


def checked(extent: Extent, prove: Callable[[], None]) -> Extent:
    """`extent`, proven before it is read; an extent without stored bytes is returned as it is."""
    return Checked(extent, prove) if isinstance(extent, Strided) else extent
