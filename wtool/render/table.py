"""A Report as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from tabulate import tabulate

from wtool.render.cells import cell, is_numeric, visible
from wtool.report import Report

# Beyond this many rows tabulate takes seconds; rows then stream with widths from plain measuring.
STREAM_ROWS = 2_000


def render(report: Report) -> Iterator[str]:
    """The title, the rows under their column names, the footer."""
    if report.title:
        yield report.title + "\n"
    columns = visible(report)
    if report.rows and columns:
        numeric = [is_numeric(report, c) for c in columns]
        cells = [[cell(row.get(c.name)) for c in columns] for row in report.rows]
        if len(cells) > STREAM_ROWS:
            yield from _stream([c.name for c in columns], cells, numeric)
        else:
            yield tabulate(
                cells,
                headers=[c.name for c in columns],
                tablefmt="simple",
                colalign=["right" if n else "left" for n in numeric],
                disable_numparse=True,
            )
            yield "\n"
        if report.footer:
            yield "\n"
    for line in report.footer:
        yield line + "\n"


def _stream(headers: list[str], cells: list[list[str]], numeric: list[bool]) -> Iterator[str]:
    """The same look as tabulate's "simple", for long tables."""
    widths = [
        max(len(header), max(map(len, column)))
        for header, column in zip(headers, zip(*cells, strict=True), strict=True)
    ]
    line = "  ".join(
        f"%{width}s" if right else f"%-{width}s"
        for width, right in zip(widths, numeric, strict=True)
    )
    yield (line % tuple(headers)).rstrip() + "\n"
    yield "  ".join("-" * width for width in widths) + "\n"
    for start in range(0, len(cells), STREAM_ROWS):
        rows = cells[start : start + STREAM_ROWS]
        yield "".join((line % tuple(row)).rstrip() + "\n" for row in rows)
