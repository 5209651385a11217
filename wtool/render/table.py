"""A Report as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from tabulate import tabulate

from wtool.render.cells import columns_of_text, is_numeric, visible
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
        texts = columns_of_text(report, columns)
        if len(report.rows) > STREAM_ROWS:
            yield from _stream([c.name for c in columns], texts, numeric)
        else:
            yield tabulate(
                list(zip(*texts, strict=True)),
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


def _stream(headers: list[str], texts: list[list[str]], numeric: list[bool]) -> Iterator[str]:
    """The same look as tabulate's "simple", for long tables."""
    widths = [
        max(len(header), max(map(len, column)))
        for header, column in zip(headers, texts, strict=True)
    ]
    line = "  ".join(
        f"%{width}s" if right else f"%-{width}s"
        for width, right in zip(widths, numeric, strict=True)
    )
    yield (line % tuple(headers)).rstrip() + "\n"
    yield "  ".join("-" * width for width in widths) + "\n"
    rows = list(zip(*texts, strict=True))
    for start in range(0, len(rows), STREAM_ROWS):
        yield "".join((line % row).rstrip() + "\n" for row in rows[start : start + STREAM_ROWS])
