"""Measuring a piece of a tensor: its blocks are read into one buffer a thread and measured there.

What a block gives does not depend on the piece that it is in, nor on who reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wtool.dtypes import DType
from wtool.kernels.blocks import BINS, BLOCK, Loops, measure_integers
from wtool.kernels.codes import count_each, is_coded
from wtool.kernels.moments import EMPTY, Moments, merge
from wtool.kernels.native import Linked
from wtool.kernels.parts import Part, Values, block_bytes
from wtool.kernels.selection import SORT_UP_TO

# Values of a block that are read at once, and measured while they are in the second-level cache: of
# a wide type, over which several loops go, and of codes.
PIECE = 1 << 18
CODES_PIECE = 1 << 19
# Bits of the bins of float32 that hold infinities and NaN.
INFINITY_BIN = 0x7F80
# (tensor number, element that the block starts with, block): looks at values while they are near.
Watch = Callable[[int, int, np.ndarray], None]
# (source, offset, nbytes): see Extent.raw_span.
Span = tuple[Any, int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """Blocks [first, last) of tensor number `index`; `whole` where these are all."""

    index: int
    first: int
    last: int
    whole: bool


# What each piece of a job gave.
Results = list[tuple[Piece, Part]]


class Worker:
    """Measures pieces in any thread; keeps one block a thread.

    linked: the compiled loops, None for NumPy's. quantiles, watch: see `measure`.
    """

    def __init__(
        self,
        tensors: Sequence[Values],
        quantiles: bool,
        linked: Linked | None,
        watch: Watch | None,
    ) -> None:
        self._tensors = tensors
        self._quantiles = quantiles
        self._linked = linked
        self._watch = watch
        self._local = threading.local()

    def run(self, job: list[Piece]) -> Results:
        """The pieces of a job, each with what it gave."""
        return [(piece, self._measure(self._tensors[piece.index], piece)) for piece in job]

    def _measure(self, tensor: Values, piece: Piece) -> Part:
        dtype = tensor.dtype
        if tensor.count * dtype.components <= SORT_UP_TO:
            return self._measure_few(tensor, piece)
        coded = is_coded(dtype)
        counting = coded or self._quantiles
        loops = self._loops()
        span = raw_span(tensor) if coded or dtype.carrier == np.float32 else None
        moments = EMPTY
        if span is not None:
            moments = self._measure_long(loops, tensor, span, piece, counting)
        else:
            for block in self._watched(tensor, piece):
                if coded:
                    loops.count_codes(block.view(f"u{block.itemsize}"))
                    continue
                found, finite = _measure_wide(loops, block, dtype)
                moments = merge(moments, found)
                if counting:
                    loops.count_upper(finite)
        if not counting:
            return Part(moments)
        codes, counts = loops.take_counts(1 << (8 * dtype.carrier.itemsize) if coded else BINS)
        if span is not None and not coded:
            finite_bins = codes & INFINITY_BIN != INFINITY_BIN
            codes, counts = codes[finite_bins], counts[finite_bins]
        return Part(moments, codes, counts)

    def _measure_few(self, tensor: Values, piece: Piece) -> Part:
        """A tensor of one block, or of none; sorting it is cheaper than a count for every code."""
        for block in self._watched(tensor, piece):
            if is_coded(tensor.dtype):
                codes = np.sort(block.view(f"u{block.itemsize}"))
                return Part(EMPTY, *count_each(codes, np.ones(len(codes), np.int64)))
            moments, finite = _measure_wide(self._loops(), block, tensor.dtype)
            return Part(moments, ordered=np.sort(finite) if self._quantiles else None)
        return Part(EMPTY)

    def _measure_long(
        self, loops: Loops, tensor: Values, span: Span, piece: Piece, counting: bool
    ) -> Moments:
        """A stretch of codes or float32, read in pieces that are still near when they are measured.

        Values are counted too; those that are not finite fall into bins of their own.
        """
        coded = is_coded(tensor.dtype)
        step = CODES_PIECE if coded else PIECE
        at, stop = piece.first * BLOCK, min(piece.last * BLOCK, tensor.count)
        moments = EMPTY
        if self._watch is None:
            at, moments = self._scan(loops, tensor, span, at, stop, counting)
        while at < stop:
            first = at - at % BLOCK
            last = min(first + BLOCK, stop)
            for start in range(at, last, step):
                values = self._read(tensor, span, start, min(start + step, last))
                if self._watch is not None:
                    self._watch(piece.index, start, values)
                if coded:
                    loops.count_codes(values.view(f"u{values.itemsize}"))
                    continue
                loops.add_piece(values)
                if counting:
                    loops.count_upper(values)
            if not coded:
                again = partial(self._read, tensor, span, first, last)
                moments = merge(moments, loops.end_block(again))
            at = last
        return moments

    def _scan(
        self, loops: Loops, tensor: Values, span: Span, start: int, stop: int, counting: bool
    ) -> tuple[int, Moments]:
        """(end, moments) of the values from `start` to `end`, as far as loops read them alone."""
        place = tensor.extent.file_span()
        if place is None:
            return start, EMPTY
        source, offset = place
        width = tensor.dtype.carrier.itemsize
        offset += start * width
        with source.descriptor() as file:
            if is_coded(tensor.dtype):
                nbytes = loops.scan_codes(file, offset, (stop - start) * width, 1 << (8 * width))
                return start + nbytes // width, EMPTY

            def again(first: int, last: int) -> np.ndarray:
                return self._read(tensor, span, start + first, start + last)

            done, moments = loops.scan_floats(file, offset, stop - start, counting, again)
            return start + done, moments

    def _loops(self) -> Loops:
        """The loops of this thread."""
        loops: Loops | None = getattr(self._local, "loops", None)
        if loops is None:
            if self._linked is None:
                loops = Loops()
            else:
                from wtool.kernels import compiled

                loops = compiled.Loops(self._linked)
            self._local.loops = loops
        return loops

    def _watched(self, tensor: Values, piece: Piece) -> Iterator[np.ndarray]:
        """The blocks of a piece, each of which was shown to who watches."""
        start = piece.first * BLOCK
        for block in self._blocks(tensor, piece):
            if self._watch is not None:
                self._watch(piece.index, start, block)
            start += len(block)
            yield block

    def _blocks(self, tensor: Values, piece: Piece) -> Iterable[np.ndarray]:
        span = raw_span(tensor)
        if span is None:
            yield from tensor.blocks(block_bytes(tensor))
            return
        for first in range(piece.first * BLOCK, min(piece.last * BLOCK, tensor.count), BLOCK):
            yield self._read(tensor, span, first, min(first + BLOCK, tensor.count))

    def _read(self, tensor: Values, span: Span, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of a tensor with that raw span, at most a block, in one buffer."""
        source, offset, _ = span
        carrier = tensor.dtype.carrier
        nbytes = (stop - start) * carrier.itemsize
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < nbytes:
            room = max(nbytes, min(tensor.nbytes, block_bytes(tensor)))
            buffer = self._local.buffer = np.empty(room, np.uint8)
        view = buffer[:nbytes]
        source.read_into(offset + start * carrier.itemsize, view.data)
        return view.view(carrier)


def _measure_wide(loops: Loops, block: np.ndarray, dtype: DType) -> tuple[Moments, np.ndarray]:
    """Moments of a block of a type wider than 16 bits, and its values as they are to be counted."""
    if dtype.kind not in ("float", "complex"):
        return measure_integers(block), block
    if dtype.kind == "complex":
        block = block.view(block.real.dtype)
    # Complex blocks are twice as long: each half keeps the fixed size of a block.
    moments = merge(loops.measure_floats(block[:BLOCK]), loops.measure_floats(block[BLOCK:]))
    if moments.nan or moments.inf:
        block = block[np.isfinite(block)]
    return moments, block


def raw_span(tensor: Values) -> Span | None:
    """(source, offset, nbytes) where the stored bytes are an array of the carrier; else None."""
    whole_items = tensor.dtype.bits == 8 * tensor.dtype.carrier.itemsize
    span: Span | None = tensor.extent.raw_span() if whole_items else None
    return span
