"""`wtool stats`: what the values of a model are, in one pass over the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import opened, report_command, stats_units
from wtool.commands.grouping import CHOICES, group_of
from wtool.commands.stats_exact import make_exact
from wtool.commands.stats_rows import (
    QUANTILE_NAMES,
    STATISTICS,
    Group,
    columns,
    findings,
    footer,
    statistics,
    totals,
)
from wtool.errors import UsageError
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.kernels.measure import Measured


def stats(
    checkpoint: Checkpoint | str | os.PathLike[str],
    *,
    by: str = "tensor",
    units: bool = False,
    quantiles: bool = True,
    exact: bool = False,
    sort: str | None = None,
    top: int | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure the values: mean, std, extremes, norms, zeros, NaN, quantiles, a histogram.

    All is over the finite values and accumulated in float64; std is that of the population, and
    kurtosis is 3 for a normal distribution. Quantiles are exact for types up to 16 bits and up to
    16,384 values; else within 2^-8 of the value, or exact with --exact, which reads the file again.
    A histogram has 16 equal bins from min to max; where quantiles are not exact, a value may stand
    in the next bin.
    Complex numbers count as two real values each. Tied tensors count once in a group. The last
    lines name what deserves a look.

    With --units a row is a weight and says of its output units: their norms, how many are dead (all
    zero) or duplicate (equal to another), and the largest norm over the median.

    \b
    Example:
      wtool stats fixtures/digits-cnn.pth
      wtool stats fixtures/digits-cnn.pth --by kind --format json
    """
    checkpoint = opened(checkpoint)
    if units:
        return _report_units(checkpoint, by, sort, top, jobs, executor, progress)
    group = None if by == "tensor" else group_of(by)
    if group is not None and sort == "name":
        sort = "group"
    labels = ("name", "dtype", "role", "alias") if group is None else ("group", "tensors")
    _check_column(sort, (*labels, "count", *STATISTICS))
    quantiles = quantiles or exact
    if sort in QUANTILE_NAMES and not quantiles:
        raise UsageError("--no-quantiles leaves no such column to sort by", found=sort)
    aliases = checkpoint.aliases
    tensors = [t for t in checkpoint if group is None or t.name not in aliases]
    whole = Group()
    groups: dict[str, Group] = {}
    rows: dict[str, dict[str, Any]] = {}
    seen: dict[str, tuple[int, ...]] = {}
    settled: set[str] = set()
    if group is not None:
        groups = {group(tensor): Group() for tensor in tensors}
    for tensor, measured in measure_tensors(tensors, quantiles, jobs, executor, progress):
        if tensor.name not in aliases:
            whole.add(tensor, measured, counted=False)
        if measured is not None:
            seen[tensor.name] = tuple(findings(tensor, measured.moments))
        if group is not None:
            groups[group(tensor)].add(tensor, measured)
        else:
            rows[tensor.name] = _tensor_row(tensor, measured, aliases)
            if measured is not None and measured.ordered is not None:
                settled.add(tensor.name)
    nbytes = sum(tensor.nbytes for tensor in tensors if tensor.name not in aliases)
    from wtool.kernels.selection import SORT_UP_TO

    if group is None:
        answer = [rows[tensor.name] for tensor in tensors]
        members = [[] if tensor.name in settled else [tensor] for tensor in tensors]
        hidden = (Column(name, hidden=name != sort) for name in ("shape", "role", "alias"))
        leading = [Column("name"), Column("dtype"), *hidden]
    else:
        answer = [_group_row(name, one) for name, one in groups.items()]
        members = [[t for t in one.tensors if t.name in seen] for one in groups.values()]
        leading = [Column("group"), Column("tensors", "tensors")]
    if quantiles:
        make_exact(answer, members, None if exact else SORT_UP_TO, jobs, executor, progress)
    return Report(
        command="stats",
        columns=columns(answer, *leading, sort=sort),
        rows=_arrange(answer, sort, top),
        totals=totals(whole, nbytes),
        notes=[*checkpoint.notes, *_skipped(tensors)],
        sources=[checkpoint.path],
        footer=footer(
            whole,
            nbytes,
            len(checkpoint),
            [(t.name, seen[t.name]) for t in tensors if t.name in seen],
        ),
    )


def _report_units(
    checkpoint: Checkpoint,
    by: str,
    sort: str | None,
    top: int | None,
    jobs: int | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> Report:
    if by != "tensor":
        raise UsageError("--units has a row for each tensor", expected="--by tensor", found=by)
    _check_column(sort, stats_units.SORTABLE)
    rows = stats_units.unit_rows(checkpoint, jobs, executor, progress)
    return Report(
        command="stats",
        columns=stats_units.COLUMNS,
        rows=_arrange(rows, sort, top),
        totals={name: sum(row[name] for row in rows) for name in ("units", "dead", "duplicate")},
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=stats_units.unit_lines(rows),
    )


def measure_tensors(
    tensors: Sequence[Tensor],
    quantiles: bool,
    jobs: int | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Tensor, Measured | None]]:
    """Every tensor with what it measures, as they are done; None where it holds no numbers.

    Tensors on exactly the same stored bytes are read once.
    """
    from wtool.kernels.measure import can_measure, measure

    twins: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if can_measure(tensor.dtype) and not _unread(tensor):
            twins.setdefault(_place(tensor), []).append(tensor)
        else:
            yield tensor, None
    work = [same[0] for same in twins.values()]
    total = sum(tensor.nbytes for tensor in work)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    same_place = list(twins.values())
    for index, measured in measure(
        work, quantiles=quantiles, jobs=jobs, executor=executor, progress=advance
    ):
        for tensor in same_place[index]:
            yield tensor, measured


def _place(tensor: Tensor) -> Any:
    """Equal for tensors of one type on the same stored bytes in plain order."""
    span = tensor.extent.raw_span()
    return id(tensor) if span is None else (id(span[0]), *span[1:], tensor.dtype.name)


def _unread(tensor: Tensor) -> bool:
    """Whether a tensor has no values to read: none are stored, or a few over and over."""
    return (tensor.count > 0 and tensor.extent.stored_nbytes == 0) or tensor.is_expanded


def _tensor_row(
    tensor: Tensor, measured: Measured | None, aliases: Mapping[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "role": tensor.role or "unknown",
        "alias": aliases.get(tensor.name),
        "count": tensor.count,
    }
    if measured is not None:
        row.update(statistics(measured.moments, measured.counted, measured.ordered))
    return row


def _group_row(name: str, group: Group) -> dict[str, Any]:
    row = {"group": name, "tensors": len(group.tensors), "count": group.count}
    return row | statistics(group.moments, group.values)


def _check_column(sort: str | None, known: Sequence[str]) -> None:
    known = [name for name in known if name != "histogram"]
    if sort is not None and sort not in known:
        raise UsageError("cannot sort by this column", expected=", ".join(known), found=sort)


def _arrange(rows: list[dict[str, Any]], sort: str | None, top: int | None) -> list[dict[str, Any]]:
    """The first rows by a column, largest first (words from a to z), empty cells last."""
    if top is not None and top < 0:
        raise UsageError("bad number of rows", expected="--top 0 or more", found=top)
    if sort is not None:
        filled = [row for row in rows if row.get(sort) is not None]
        empty = [row for row in rows if row.get(sort) is None]
        words = any(isinstance(row[sort], str) for row in filled)
        rows = sorted(filled, key=lambda row: row[sort], reverse=not words) + empty
    return rows if top is None else rows[:top]


def _skipped(tensors: Sequence[Tensor]) -> list[str]:
    """A line for each reason why tensors are not measured."""
    from wtool.kernels.measure import can_measure

    skipped: dict[str, list[str]] = {}
    for tensor in tensors:
        if not can_measure(tensor.dtype) or _unread(tensor):
            reason = "few stored bytes repeated without end" if tensor.is_expanded else "no numbers"
            skipped.setdefault(reason, []).append(tensor.name)
    return [
        f"not measured, {reason}: {', '.join(names[:3])}"
        + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        for reason, names in skipped.items()
    ]


COMMAND = report_command(
    stats,
    click.Option(
        ["--by"],
        default="tensor",
        metavar="|".join(CHOICES),
        show_default=True,
        help="What a row stands for.",
    ),
    click.Option(
        ["--quantiles/--no-quantiles"],
        default=True,
        help="Whether to count values for quantiles and the histogram (default: yes).",
    ),
    click.Option(
        ["--exact"], is_flag=True, help="Exact quantiles of types wider than 16 bits: more passes."
    ),
    click.Option(["--units"], is_flag=True, help="The output units of every weight instead."),
    click.Option(
        ["--sort"],
        metavar="COLUMN",
        help="Rows by this column, the largest first; words from a to z.",
    ),
    click.Option(["--top"], type=click.IntRange(0), metavar="N", help="Only the first N rows."),
)
