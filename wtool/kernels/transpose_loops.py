"""The loop that transposes a matrix; see `transpose`.

Plain functions on pointers, as in `loops`: `native` compiles one for each size of element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Columns of the source that are worked on at once: best of 32 to 256, with LINES of 1 to 8.
PANEL = 112
# Bits of a line of the cache, and lines that are written behind each other: a line alone would
# cost a page each.
LINE_BITS = 512
LINES = 6
# Bytes of scratch that any of the loops needs.
SCRATCH_BYTES = 54 << 10


def make_loop(bits: int) -> Callable[..., int]:
    """The loop for elements of so many bits; how many fit a line is a constant to the compiler."""
    line = LINE_BITS // bits
    group = LINES * line
    # Rows of a matrix are often a power of two apart, and then share a few places of the cache:
    # in scratch they do not, each begins one line later.
    width = PANEL + line

    def transpose_matrix(
        source: Any,
        out: Any,
        rows: int,
        columns: int,
        source_step: int,
        out_step: int,
        scratch: Any,
    ) -> int:
        """out[c * out_step + r] = source[r * source_step + c] for every row r and column c.

        source, out: pointers to unsigned integers; steps in elements. scratch: SCRATCH_BYTES of
        them. Returns 0.
        """
        for first in range(0, columns, PANEL):
            panel = min(PANEL, columns - first)
            for row in range(0, rows, group):
                height = min(group, rows - row)
                for step in range(height):
                    origin = (row + step) * source_step + first
                    for column in range(panel):
                        scratch[step * width + column] = source[origin + column]
                for column in range(panel):
                    target = (first + column) * out_step + row
                    if height == group:
                        for step in range(group):
                            out[target + step] = scratch[step * width + column]
                    else:
                        for step in range(height):
                            out[target + step] = scratch[step * width + column]
        return 0

    return transpose_matrix


TRANSPOSE = {bits: make_loop(bits) for bits in (16, 32, 64)}
