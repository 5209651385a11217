"""Measuring tensors: the work is cut into jobs over blocks, and the parts are put together exactly.

A tensor's blocks are counted from its first element and have BLOCK elements each. What a block
gives does not depend on who measures it, and merging is exact: the result is the same for any
executor, number of jobs and order of completion. Memory is one block and one histogram a
thread, and one histogram a tensor that is cut.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wtool.dtypes import DType
from wtool.kernels.blocks import BINS, BLOCK, Loops, measure_integers
from wtool.kernels.codes import count_each, is_coded
from wtool.kernels.moments import EMPTY, Moments, merge
from wtool.kernels.native import Linked, load
from wtool.kernels.parts import Measured, Part, Sum, Values, block_bytes, finish
from wtool.kernels.selection import SORT_UP_TO

# One job: small enough that all cores finish together, large enough that handing it out costs
# nothing.
JOB_BYTES = 16 << 20
# Values of a block that are read at once, and measured while they are in the second-level cache: of
# a wide type, over which several loops go, and of codes.
PIECE = 1 << 18
CODES_PIECE = 1 << 19
# Bits of the bins of float32 that hold infinities and NaN.
INFINITY_BIN = 0x7F80
# Parts are finished together, at the end or when they hold so many numbers (8 MB): small steps in
# NumPy that run beside threads which measure take six times as long, each waits for the lock.
MAX_WAITING = 1 << 20
# What a tensor costs beside its values, as so many elements: most of it is Python's.
WORTH = 1 << 13
# Jobs handed out ahead of the one that is waited for.
AHEAD = 4
# (tensor number, element that the block starts with, block): looks at values while they are near.
Watch = Callable[[int, int, np.ndarray], None]
# (source, offset, nbytes): see Extent.raw_span.
Span = tuple[Any, int, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Blocks [first, last) of tensor number `index`; `whole` where these are all."""

    index: int
    first: int
    last: int
    whole: bool


_Results = list[tuple[_Piece, Part]]


def can_measure(dtype: DType) -> bool:
    """Whether the type holds numbers."""
    return dtype.kind in ("float", "complex", "int", "uint", "bool") and dtype.bits > 0


def measure(
    tensors: Sequence[Values],
    *,
    quantiles: bool = True,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> Iterator[tuple[int, Measured]]:
    """(index, measure) of every tensor, in any order; all must pass `can_measure`.

    quantiles: whether values are counted too. jobs: threads, default one a core; executor: used
    instead, of threads that share this process. progress: called with the number of stored bytes
    just measured. watch: called in the thread that measures with each block, which is reused
    afterwards; blocks of one tensor may come in any order. Complex numbers are measured as two real
    values each. Raises what reading raises.
    """
    elements = sum(tensor.count for tensor in tensors)
    linked = load(_names(tensors), elements + WORTH * len(tensors))
    worker = _Worker(tensors, quantiles, linked, watch)
    # Small tensors are mostly Python's work: two threads would only wait for each other.
    jobs = jobs or (os.cpu_count() or 1 if elements > WORTH * len(tensors) else 1)
    sums: dict[int, Sum] = {}
    left: dict[int, int] = {}
    waiting: list[tuple[int, Part]] = []
    room = MAX_WAITING
    for results in _run(worker.run, _plan(tensors, left), jobs, executor):
        for piece, part in results:
            if progress is not None:
                progress(_stored_bytes(tensors[piece.index], piece))
            if not piece.whole:
                sums.setdefault(piece.index, Sum()).add(part)
                left[piece.index] -= 1
                if left[piece.index]:
                    continue
                del left[piece.index]
                part = sums.pop(piece.index).total()
            waiting.append((piece.index, part))
            room -= part.numbers
        if room <= 0:
            for index, part in waiting:
                yield index, finish(tensors[index], part, quantiles)
            waiting, room = [], MAX_WAITING
    for index, part in waiting:
        yield index, finish(tensors[index], part, quantiles)


def _run(
    work: Callable[[list[_Piece]], _Results],
    plan: Iterable[list[_Piece]],
    jobs: int,
    executor: Executor | None,
) -> Iterator[_Results]:
    """What each job of the plan gives, in any order; a single thread is the caller's own."""
    if executor is None and jobs == 1:
        yield from map(work, plan)
        return
    pool = executor or ThreadPoolExecutor(jobs)
    pending: set[Future[_Results]] = set()
    try:
        for job in plan:
            pending.add(pool.submit(work, job))
            if len(pending) == AHEAD * jobs:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for future in pending:
            future.cancel()
        if executor is None:
            pool.shutdown(wait=True, cancel_futures=True)


def _plan(tensors: Sequence[Values], left: dict[int, int]) -> Iterator[list[_Piece]]:
    """Jobs of about JOB_BYTES, in the tensors' order; `left` gets the pieces of a cut tensor."""
    job: list[_Piece] = []
    room = JOB_BYTES
    for index, tensor in enumerate(tensors):
        width = block_bytes(tensor)
        total = -(-tensor.count // BLOCK)
        step = max(1, JOB_BYTES // width)
        if total <= step or _raw_span(tensor) is None:
            job.append(_Piece(index, 0, total, True))
            room -= tensor.nbytes + 4096  # a tensor costs something even where it is empty
        else:
            left[index] = -(-total // step)
            for first in range(0, total, step):
                yield [_Piece(index, first, min(total, first + step), False)]
        if room <= 0:
            yield job
            job, room = [], JOB_BYTES
    if job:
        yield job


class _Worker:
    """Runs jobs in any thread; keeps one block a thread."""

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

    def run(self, job: list[_Piece]) -> _Results:
        """The pieces, each with what it gave."""
        return [(piece, self._measure(self._tensors[piece.index], piece)) for piece in job]

    def _measure(self, tensor: Values, piece: _Piece) -> Part:
        dtype = tensor.dtype
        if tensor.count * dtype.components <= SORT_UP_TO:
            return self._measure_few(tensor, piece)
        coded = is_coded(dtype)
        counting = coded or self._quantiles
        loops = self._loops()
        span = _raw_span(tensor) if coded or dtype.carrier == np.float32 else None
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

    def _measure_few(self, tensor: Values, piece: _Piece) -> Part:
        """A tensor of one block, or of none; sorting it is cheaper than a count for every code."""
        for block in self._watched(tensor, piece):
            if is_coded(tensor.dtype):
                codes = np.sort(block.view(f"u{block.itemsize}"))
                return Part(EMPTY, *count_each(codes, np.ones(len(codes), np.int64)))
            moments, finite = _measure_wide(self._loops(), block, tensor.dtype)
            return Part(moments, ordered=np.sort(finite) if self._quantiles else None)
        return Part(EMPTY)

    def _measure_long(
        self, loops: Loops, tensor: Values, span: Span, piece: _Piece, counting: bool
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
                nbytes = loops.scan_codes(file, offset, (stop - start) * width)
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

    def _watched(self, tensor: Values, piece: _Piece) -> Iterator[np.ndarray]:
        """The blocks of a piece, each of which was shown to who watches."""
        start = piece.first * BLOCK
        for block in self._blocks(tensor, piece):
            if self._watch is not None:
                self._watch(piece.index, start, block)
            start += len(block)
            yield block

    def _blocks(self, tensor: Values, piece: _Piece) -> Iterable[np.ndarray]:
        span = _raw_span(tensor)
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


def _names(tensors: Sequence[Values]) -> tuple[str, ...]:
    """The compiled loops that these tensors need."""
    from wtool.kernels import compiled

    names: set[str] = set()
    for dtype in {tensor.dtype for tensor in tensors}:
        if is_coded(dtype):
            names.update(compiled.NAMES_CODES)
        elif dtype.kind in ("float", "complex"):
            narrow = dtype.bits // dtype.components <= 32
            names.update(compiled.NAMES_32 if narrow else compiled.NAMES_64)
    return tuple(sorted(names))


def _raw_span(tensor: Values) -> Span | None:
    """(source, offset, nbytes) where the stored bytes are an array of the carrier; else None."""
    whole_items = tensor.dtype.bits == 8 * tensor.dtype.carrier.itemsize
    span: Span | None = tensor.extent.raw_span() if whole_items else None
    return span


def _stored_bytes(tensor: Values, piece: _Piece) -> int:
    if piece.whole:
        return tensor.nbytes
    width = BLOCK * tensor.dtype.bits // 8
    return min(tensor.nbytes, piece.last * width) - piece.first * width
