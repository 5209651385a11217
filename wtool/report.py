"""Report: what a command found, as rows of raw numbers. Renderers give it a face; it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column: its name (also the JSON key) and the unit of its numbers ("bytes", "elements", "").

    hidden: left out of tables for people, kept in JSON and CSV.
    """

    name: str
    unit: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Report:
    """The answer of one command.

    rows: one mapping per row, keyed by column name; a missing key is an empty cell.
    totals: numbers over all rows. ok: False where the answer is "no" (differs, findings): exit code 1.
    notes: sentences for people. sources: the files it speaks of.
    title: one line that a table opens with. footer: lines that close a table.
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
