"""The loop that transposes a matrix; see `transpose`.

`native` compiles one for each size of element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Rows of the source that are worked on at once, best of 16 to 512, or two lines of the cache. They
# are often a power of two apart, and then share a few places of the cache.
PANEL = 32
# Bytes of a line of the cache.
LINE_BYTES = 64


def _sides(bits: int) -> tuple[int, int]:
    """(elements of a line, rows of a panel) for elements of so many bits."""
    line = 8 * LINE_BYTES // bits
    return line, max(PANEL, 2 * line)


# Bytes of scratch that any of the loops needs: a line of columns by a panel and a line of rows.
SCRATCH_BYTES = max(LINE_BYTES * sum(_sides(bits)) for bits in (16, 32, 64))


def make_loop(bits: int) -> Callable[..., int]:
    """The loop for elements of so many bits. Imports numba."""
    from wtool.kernels.vectors import end_stream, make_stream, make_tile

    transpose_tile, stream_line = make_tile(bits), make_stream(bits)
    stream_tile = make_tile(bits, streamed=True)
    line, panel = _sides(bits)
    width = panel + line

    def transpose_matrix(
        source: Any,
        out: Any,
        rows: int,
        columns: int,
        source_step: int,
        out_step: int,
        offset: int,
        scratch: Any,
    ) -> int:
        """out[c * out_step + r] = source[r * source_step + c] for every row r and column c.

        source, out: pointers to unsigned integers; steps in elements. offset: elements from an
        address that a line divides to `out`. scratch: SCRATCH_BYTES. Returns 0.

        A tile is turned in registers. Where a line divides out_step, lines of `out` begin at the
        same row in every column: tiles are streamed there. Else each column begins its lines at
        another row: the tiles of a panel, and of one more line for the columns that begin last, are
        kept in scratch, and lines streamed from there.
        """
        whole = columns // line * line
        head, more = 0, line
        if out_step % line == 0:
            head, more = min(-offset % line, rows), 0
        for column in range(columns):
            for row in range(head):
                out[column * out_step + row] = source[row * source_step + column]
        for top in range(head, rows, panel):
            height = min(panel + more, rows - top)
            tiled = height // line * line
            for first in range(0, whole, line):
                at = top * source_step + first
                if more == 0 and tiled == height:
                    for row in range(0, tiled, line):
                        here, there = at + row * source_step, first * out_step + top + row
                        stream_tile(source, here, source_step, out, there, out_step)
                    continue
                for row in range(0, tiled, line):
                    transpose_tile(source, at + row * source_step, source_step, scratch, row, width)
                for row in range(tiled, height):
                    for step in range(line):
                        scratch[step * width + row] = source[at + row * source_step + step]
                for step in range(line):
                    kept = step * width
                    target = (first + step) * out_step + top
                    start = -(offset + target) % line
                    stop = min(panel + start, height)
                    if top == 0:
                        for row in range(min(start, height)):
                            out[target + row] = scratch[kept + row]
                    streamed = start + max(0, stop - start) // line * line
                    for row in range(start, streamed, line):
                        stream_line(scratch, kept + row, out, target + row)
                    for row in range(streamed, stop):
                        out[target + row] = scratch[kept + row]
            for row in range(top, min(top + panel, rows)):
                for column in range(whole, columns):
                    out[column * out_step + row] = source[row * source_step + column]
        return end_stream()

    return transpose_matrix
