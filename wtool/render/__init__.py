"""One file a way of showing a Report; each yields text in pieces, so that long reports stream."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from wtool.errors import UsageError
from wtool.report import Report

RENDERINGS = ("table", "json", "csv", "markdown", "html")
# Of the findings of a check only.
FOR_CI = ("sarif", "junit", "github")


def render(report: Report, format: str = "table") -> Iterator[str]:
    """`report` as text in one of RENDERINGS or FOR_CI; the pieces joined end with a newline.

    UsageError where one of FOR_CI is asked of anything but the findings of a check.
    """
    if format in FOR_CI and "rules" not in report.attachments:
        raise UsageError(
            f"{format} shows the findings of a check", expected=", ".join(RENDERINGS), found=format
        )
    pieces: Iterator[str] = import_module(f"wtool.render.{format}").render(report)
    return pieces
