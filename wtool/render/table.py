"""A Report as a table for a terminal, in the look of tabulate's "simple".

tabulate itself is asked only where a cell may be wider or narrower than its number of characters:
to import it takes longer than to list a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat

from wtool.errors import escape_controls
from wtool.render.cells import SPARKS, columns_of_text, lines, visible
from wtool.report import Report

# Beyond this many rows tabulate takes seconds; each character is then taken for one place.
STREAM_ROWS = 2_000
# tabulate's own: a column is at least this much wider than its header.
HEADER_PADDING = 2
# Characters that take one place in every terminal.
_ONE_PLACE = frozenset((*map(chr, range(32, 127)), *SPARKS))


def render(report: Report) -> Iterator[str]:
    """The title, the rows under their column names, the footer."""
    if report.title:
        yield escape_controls(report.title) + "\n"
    columns = visible(report)
    if report.row_count and columns:
        headers = [c.name for c in columns]
        texts, numeric = map(list, zip(*columns_of_text(report, columns), strict=True))
        is_long = report.row_count > STREAM_ROWS
        if not is_long:
            texts = [[text.strip() for text in column] for column in texts]  # as tabulate does
        if is_long or all(map(_is_plain, [headers, *texts])):
            yield from _stream(headers, texts, numeric)
        else:
            yield _tabulated(headers, texts, numeric)
        if report.footer:
            yield "\n"
    for line in lines(report):
        yield line + "\n"


def _is_plain(cells: list[str]) -> bool:
    """Whether each cell is as wide as it has characters."""
    return _ONE_PLACE.issuperset("".join(cells))


def _stream(headers: list[str], texts: list[list[str]], numeric: list[bool]) -> Iterator[str]:
    """The same bytes as `_tabulated`, in pieces, where all cells are plain."""
    first, *rest = texts
    rows = list(zip(*rest, strict=True))
    # Beside its name a tensor shows what many others show: that is laid out once.
    distinct = list(set(rows))
    columns = map(_laid_out, headers, [first, *map(list, zip(*distinct, strict=True))], numeric)
    lines: Iterator[str] = next(columns)
    if rest:
        head, line, *ends = map("  ".join, zip(*columns, strict=True))
        end_of = dict(zip(distinct, ends, strict=True))
        every_end = chain((head, line), map(end_of.__getitem__, rows))
        lines = map("  ".join, zip(lines, every_end, strict=True))
    lines = map(str.rstrip, lines)
    while chunk := list(islice(lines, STREAM_ROWS)):
        yield "\n".join(chunk) + "\n"


def _laid_out(header: str, cells: list[str], is_numeric: bool) -> Iterator[str]:
    """A column from its header down, each cell as wide as the widest."""
    width = max(len(header) + HEADER_PADDING, max(map(len, cells)))
    pad = str.rjust if is_numeric else str.ljust
    return map(pad, (header, "-" * width, *cells), repeat(width))


def _tabulated(headers: list[str], texts: list[list[str]], numeric: list[bool]) -> str:
    from tabulate import tabulate

    text: str = tabulate(
        list(zip(*texts, strict=True)),
        headers=headers,
        tablefmt="simple",
        colalign=["right" if right else "left" for right in numeric],
        disable_numparse=True,
    )
    return text + "\n"
