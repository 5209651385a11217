"""`wtool stats --units`: the output units of every weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from wtool.checkpoint import Checkpoint, Tensor
from wtool.errors import counted
from wtool.layers import output_axes
from wtool.report import Column

COLUMNS = (
    Column("name"),
    Column("kind"),
    Column("shape"),
    Column("axis"),
    Column("units", "units"),
    Column("dead", "units"),
    Column("duplicate", "units"),
    Column("norm_min"),
    Column("norm_median"),
    Column("norm_max"),
    Column("ratio"),
    Column("constant"),
)
SORTABLE = tuple(column.name for column in COLUMNS if column.name not in ("shape", "axis"))


def unit_rows(
    checkpoint: Checkpoint,
    jobs: int | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """One row for every weight of two or more axes whose output axis is known, ties once."""
    chosen = list(_weights(checkpoint))
    total = sum(tensor.nbytes for tensor, _ in chosen)
    done = 0
    rows = []
    pool = executor or ThreadPoolExecutor(jobs or os.cpu_count())
    try:
        answers = pool.map(lambda pair: _row(*pair), chosen)
        for (tensor, _), row in zip(chosen, answers, strict=True):
            rows.append(row)
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)
    finally:
        if executor is None:
            pool.shutdown(wait=True, cancel_futures=True)
    return rows


def unit_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the rows add up to, then what deserves a look."""
    lines = [
        f"{counted(len(rows), 'weight')}, {counted(sum(row['units'] for row in rows), 'unit')}"
    ]
    for column, what in (("dead", "dead (all zero)"), ("duplicate", "equal to another unit")):
        found = [row for row in rows if row[column]]
        if found:
            units = sum(row[column] for row in found)
            lines.append(f"{counted(units, 'unit')} {what} in {_names(found)}")
    constant = [row for row in rows if row["constant"]]
    if constant:
        lines.append(f"constant: {_names(constant)}")
    return lines


def _weights(checkpoint: Checkpoint) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    for tensor in checkpoint:
        numbers = tensor.dtype.kind in ("float", "int", "uint", "bool")
        if tensor.role != "weight" or len(tensor.shape) < 2 or not tensor.count or not numbers:
            continue
        if (
            tensor.name in checkpoint.aliases
            or not tensor.extent.stored_nbytes
            or tensor.is_expanded
        ):
            continue
        axes = output_axes(tensor, checkpoint)
        if axes is not None:
            yield tensor, axes


def _row(tensor: Tensor, axes: tuple[int, ...]) -> dict[str, Any]:
    import numpy as np

    from wtool.layers.units import measure_units

    units = measure_units(tensor, axes)
    middle = float(np.median(units.norms))
    largest = float(units.norms.max())
    return {
        "name": tensor.name,
        "kind": tensor.kind or "unknown",
        "shape": list(tensor.shape),
        "axis": axes[0] if len(axes) == 1 else list(axes),
        "units": len(units.norms),
        "dead": units.dead,
        "duplicate": units.duplicate,
        "norm_min": float(units.norms.min()),
        "norm_median": middle,
        "norm_max": largest,
        "ratio": largest / middle if middle else None,
        "constant": units.constant,
    }


def _names(rows: Sequence[dict[str, Any]]) -> str:
    rest = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
    return ", ".join(row["name"] for row in rows[:3]) + rest
