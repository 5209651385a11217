"""Report: what a command found, as rows of raw numbers. Renderers give it a face; it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column: its name (also the JSON key) and the unit of its numbers ("bytes", "elements").

    hidden: left out of tables for people, kept in JSON and CSV.
    """

    name: str
    unit: str = ""
    hidden: bool = False


class Bins(tuple[int, ...]):
    """Counts of a histogram, from low to high: a sparkline for people, numbers in JSON."""


class Index(tuple[int, ...]):
    """Where a value stands in its tensor: [3, 0], never to be read as a shape of 3x0."""


@dataclass(frozen=True)
class Report:
    """The answer of one command.

    rows: one mapping per row, keyed by column name; a missing key is an empty cell.
    totals: numbers over all rows. ok: False where the answer is "no" (differs, findings): exit
    code 1.
    notes: sentences for people. sources: the files it speaks of.
    title: one line that a table opens with. footer: lines that close a table.
    attachments: what one rendering alone needs (SARIF: the texts of the rules).
    """

    command: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    totals: Mapping[str, Any] = field(default_factory=dict)
    ok: bool = True
    notes: Sequence[str] = ()
    sources: Sequence[str] = ()
    title: str = ""
    footer: Sequence[str] = ()
    attachments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def cells(self, column: str) -> Sequence[Any]:
        """The values of a column, top to bottom; None for an empty cell."""
        return [row.get(column) for row in self.rows]

    def __str__(self) -> str:
        """The table that the command line prints."""
        from wtool.render import render

        return "".join(render(self)).rstrip("\n")

    def __repr__(self) -> str:
        """A line: a report may have 100,000 rows."""
        return f"<Report of {self.command}: {self.row_count:,} rows, ok={self.ok}>"


class ColumnReport(Report):
    """A Report whose values are at hand by column; its rows are made where they are asked for.

    values: one list per column, by its name, all of one length.
    """

    values: Mapping[str, Sequence[Any]]

    def __init__(self, *, values: Mapping[str, Sequence[Any]], **facts: Any) -> None:
        super().__init__(rows=(), **facts)
        object.__setattr__(self, "values", values)
        object.__delattr__(self, "rows")

    @property
    def row_count(self) -> int:
        """See Report.row_count."""
        return max(map(len, self.values.values()), default=0)

    def cells(self, column: str) -> Sequence[Any]:
        """See Report.cells."""
        return self.values[column]

    def __getattr__(self, name: str) -> Any:
        """`rows` when it is asked for first: a list of dictionaries, kept."""
        if name != "rows":
            raise AttributeError(name)
        names = list(self.values)
        columns = zip(*self.values.values(), strict=True)
        rows = [dict(zip(names, row, strict=True)) for row in columns]
        object.__setattr__(self, "rows", rows)
        return rows


def combine(reports: Sequence[Report], names: Sequence[str]) -> Report:
    """One Report from those of several models: rows gain a first column `model`, totals add up.

    `names` tells the models apart, one per report. A single report is returned as it is.
    """
    if len(reports) == 1:
        return reports[0]
    columns = {column.name: column for report in reports for column in report.columns}
    totals: dict[str, Any] = {}
    for report in reports:
        for key, value in report.totals.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                totals[key] = totals.get(key, 0) + value
    return Report(
        command=reports[0].command,
        columns=[Column("model"), *columns.values()],
        rows=[
            {"model": name, **row}
            for name, report in zip(names, reports, strict=True)
            for row in report.rows
        ],
        totals=totals,
        ok=all(report.ok for report in reports),
        notes=[
            f"{name}: {note}"
            for name, report in zip(names, reports, strict=True)
            for note in report.notes
        ],
        sources=[source for report in reports for source in report.sources],
        footer=[
            f"{name}: {line}"
            for name, report in zip(names, reports, strict=True)
            for line in report.footer
        ],
    )


def human_bytes(nbytes: int) -> str:
    """`nbytes` for people, in powers of 1000: "97.8 MB"; exact below 1000."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95 or unit == "PB":
            break
    return f"{size:.1f} {unit}"
