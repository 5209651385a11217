"""The loop that transposes a matrix; see `transpose`.

Plain functions on pointers, as in `loops`: `native` compiles one for each size of element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Columns of the source that are worked on at once, so that the lines read stay in the fastest
# cache until each of their elements is used; measured best of 16 to 1024.
PANEL = 256
# Bits that are written at once: a line of the cache, whole.
LINE_BITS = 512


def make_loop(bits: int) -> Callable[..., int]:
    """The loop for elements of so many bits; how many fit a line is a constant to the compiler."""
    group = LINE_BITS // bits

    def transpose_matrix(
        source: Any, out: Any, rows: int, columns: int, source_step: int, out_step: int
    ) -> int:
        """out[c * out_step + r] = source[r * source_step + c] for every row r and column c.

        source, out: pointers to unsigned integers; steps in elements. Returns 0.
        """
        whole = rows // group * group
        for first in range(0, columns, PANEL):
            last = min(columns, first + PANEL)
            for row in range(0, whole, group):
                for column in range(first, last):
                    target = column * out_step + row
                    origin = row * source_step + column
                    for step in range(group):
                        out[target + step] = source[origin + step * source_step]
            for column in range(first, last):
                for row in range(whole, rows):
                    out[column * out_step + row] = source[row * source_step + column]
        return 0

    return transpose_matrix


TRANSPOSE = {bits: make_loop(bits) for bits in (16, 32, 64)}
