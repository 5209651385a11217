"""Measuring tensors: the work is cut into jobs over blocks, and the parts are put together exactly.

A tensor's blocks are counted from its first element and have BLOCK elements each. What a block
gives does not depend on who measures it, and merging is exact: the result is the same for any
executor, number of jobs and order of completion. Memory is one block and one histogram a
thread, and one histogram a tensor that is cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait

from wtool.dtypes import DType
from wtool.kernels.blocks import BLOCK
from wtool.kernels.codes import is_coded
from wtool.kernels.native import load
from wtool.kernels.parts import Measured, Part, Sum, Values, block_bytes, finish
from wtool.kernels.pieces import Piece, Results, Watch, Worker, raw_span

# One job: small enough that all cores finish together, large enough that handing it out costs
# nothing.
JOB_BYTES = 16 << 20
# Parts are finished together, at the end or when they hold so many numbers (8 MB): each small step
# in NumPy may wait for the lock of the threads that measure.
MAX_WAITING = 1 << 20
# What a tensor costs beside its values, as so many elements: most of it is Python's.
WORTH = 1 << 13
# Jobs handed out ahead of the one that is waited for.
AHEAD = 4


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

    quantiles: whether values are counted too. jobs: threads, default one a core, or one alone for
    small tensors; executor: used instead, of threads that share this process. progress: called with
    the number of stored bytes just measured. watch: called in the thread that measures with each
    block, which is reused afterwards; blocks of one tensor may come in any order. Complex numbers
    are measured as two real values each. Raises what reading raises.
    """
    elements = sum(tensor.count for tensor in tensors)
    linked = load(_names(tensors), elements + WORTH * len(tensors))
    worker = Worker(tensors, quantiles, linked, watch)
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
    work: Callable[[list[Piece]], Results],
    plan: Iterable[list[Piece]],
    jobs: int,
    executor: Executor | None,
) -> Iterator[Results]:
    """What each job of the plan gives, in any order; a single thread is the caller's own."""
    if executor is None and jobs == 1:
        yield from map(work, plan)
        return
    pool = executor or ThreadPoolExecutor(jobs)
    pending: set[Future[Results]] = set()
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


def _plan(tensors: Sequence[Values], left: dict[int, int]) -> Iterator[list[Piece]]:
    """Jobs of about JOB_BYTES, in the tensors' order; `left` gets the pieces of a cut tensor."""
    job: list[Piece] = []
    room = JOB_BYTES
    for index, tensor in enumerate(tensors):
        width = block_bytes(tensor)
        total = -(-tensor.count // BLOCK)
        step = max(1, JOB_BYTES // width)
        if total <= step or raw_span(tensor) is None:
            job.append(Piece(index, 0, total, True))
            room -= tensor.nbytes + 4096  # a tensor costs something even where it is empty
        else:
            left[index] = -(-total // step)
            for first in range(0, total, step):
                yield [Piece(index, first, min(total, first + step), False)]
        if room <= 0:
            yield job
            job, room = [], JOB_BYTES
    if job:
        yield job


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


def _stored_bytes(tensor: Values, piece: Piece) -> int:
    if piece.whole:
        return tensor.nbytes
    width = BLOCK * tensor.dtype.bits // 8
    return min(tensor.nbytes, piece.last * width) - piece.first * width
