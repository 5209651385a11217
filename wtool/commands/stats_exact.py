"""Exact quantiles and bins for `wtool stats`: more passes over tensors whose own are bounded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

from wtool.checkpoint import Tensor
from wtool.commands.stats_rows import BINS, is_coarse
from wtool.report import Bins


def make_exact(
    rows: Sequence[dict[str, Any]],
    members: Sequence[Sequence[Tensor]],
    most: int | None,
    jobs: int | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Put exact quantiles and bins into the rows that have bounded ones; reads their tensors again.

    members: the tensors of each row, none where it is exact already. most: rows of more values stay
    as they are, unless `is_coarse` or a quantile is not known; None improves all.
    progress: told of the bytes of these passes alone.
    """
    from wtool.kernels.quantiles import QUANTILES
    from wtool.kernels.selection import (
        bins_from_tensors,
        passes_to_select,
        select_from_tensors,
    )

    done = total = 0
    stopping = False
    counting = Lock()

    def seen(nbytes: int) -> None:
        nonlocal done
        if stopping:
            raise CancelledError
        with counting:
            done += nbytes
            if progress is not None and total:
                progress(done, total)

    def finite(index: int) -> int:
        row = rows[index]
        return _values(members[index]) - row["nan"] - row["inf"]

    def improve_quantiles(index: int) -> None:
        row, tensors = rows[index], members[index]
        answers = select_from_tensors(tensors, finite(index), tuple(QUANTILES.values()), seen)
        row.update(zip(QUANTILES, answers, strict=True))

    def improve_bins(index: int) -> None:
        row, tensors = rows[index], members[index]
        row["histogram"] = Bins(bins_from_tensors(tensors, row["min"], row["max"], BINS, seen))

    few: list[Callable[[], None]] = []
    many: list[Callable[[], None]] = []
    later = 0
    for index, (row, tensors) in enumerate(zip(rows, members, strict=True)):
        if row.get("histogram") is None or all(t.dtype.bits <= 16 for t in tensors):
            continue
        is_small = most is not None and _values(tensors) <= most
        quantiles, bins = is_coarse(row["min"], row["max"])
        quantiles = quantiles or any(row[name] is None for name in QUANTILES)
        passes = 0
        if most is None or is_small or quantiles:
            (few if is_small else many).append(partial(improve_quantiles, index))
            passes += passes_to_select(tensors, finite(index))
        if most is None or is_small or bins:
            (few if is_small else many).append(partial(improve_bins, index))
            passes += 1
        if not is_small:
            later += passes * sum(t.count * t.dtype.carrier.itemsize for t in tensors)
    # So few values are sorted sooner than they are handed to a thread.
    for work in few:
        work()
    if not many:
        return
    done, total = 0, later
    pool = executor or ThreadPoolExecutor(jobs or os.cpu_count())
    try:
        for future in [pool.submit(work) for work in many]:
            future.result()
    finally:
        # Whoever stops us must not wait for passes over many GB.
        stopping = True
        if executor is None:
            pool.shutdown(wait=True, cancel_futures=True)


def _values(tensors: Sequence[Tensor]) -> int:
    """Number of real values: complex numbers are two each."""
    return sum(tensor.count * tensor.dtype.components for tensor in tensors)
