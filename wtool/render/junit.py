"""The findings of a check as JUnit XML: a suite for each model, a case for each rule and finding.

Source: the schemas of Apache Ant (Windy Road) and of Jenkins (junit-4, junit-10). The first wants a
time and a host, which are fixed, so that the same findings give the same bytes; the second wants a
property where there are properties. Errors and warnings fail, notes are output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from wtool.errors import escape_controls
from wtool.report import Report

_FIXED = 'timestamp="1970-01-01T00:00:00" hostname="localhost" time="0"'


def render(report: Report) -> Iterator[str]:
    """One `testsuites` document."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n'
    codes = [(facts["code"], facts["name"]) for facts in report.attachments.get("rules", ())]
    files = list(dict.fromkeys([*report.sources, *(row["file"] for row in report.rows)]))
    for number, file in enumerate(files):
        rows = [row for row in report.rows if row["file"] == file]
        yield from _suite(number, file, rows, codes)
    yield "</testsuites>\n"


def _suite(
    number: int, file: str, rows: Sequence[Mapping[str, Any]], codes: Sequence[tuple[str, str]]
) -> Iterator[str]:
    failing = [row for row in rows if row["severity"] != "note" and "suppressed" not in row]
    skipped = [row for row in rows if "suppressed" in row]
    notes = [row for row in rows if row not in failing and row not in skipped]
    found = {row["rule"] for row in (*failing, *skipped)}
    clean = [(code, name) for code, name in codes if code not in found]
    tests = len(failing) + len(skipped) + len(clean)
    name = _attribute(file)
    yield (
        f'  <testsuite name={name} package="wtool" id="{number}" tests="{tests}" '
        f'failures="{len(failing)}" errors="0" skipped="{len(skipped)}" {_FIXED}>\n'
        '    <properties><property name="tool" value="wtool"/></properties>\n'
    )
    for row in failing:
        kind, message = _attribute(row["severity"]), _attribute(row["message"])
        yield _open(row["rule"], row["name"], row.get("tensor"), file)
        yield f"\n      <failure type={kind} message={message}>{_place(row)}</failure>"
        yield "\n    </testcase>\n"
    for row in skipped:
        yield _open(row["rule"], row["name"], row.get("tensor"), file)
        yield "\n      <skipped/>\n    </testcase>\n"
    for code, rule in clean:
        yield _open(code, rule, None, file) + "</testcase>\n"
    talk = "".join(f"{row['rule']} {_place(row)}: {_text(row['message'])}\n" for row in notes)
    yield f"    <system-out>{talk}</system-out>\n    <system-err></system-err>\n  </testsuite>\n"


def _open(code: str, rule: str, tensor: str | None, file: str) -> str:
    name = f"{code} {rule}" if tensor is None else f"{code} {rule} {tensor}"
    return f'    <testcase name={_attribute(name)} classname={_attribute(file)} time="0">'


def _place(row: Mapping[str, Any]) -> str:
    """Where a finding is: "conv.weight[3, 1] = 0.5"."""
    text = row.get("tensor") or row["file"]
    if row.get("index"):
        text += str(list(row["index"]))
    if "value" in row:
        text += f" = {row['value']}"
    return _text(text)


def _text(text: str) -> str:
    """XML text; control characters, which XML cannot hold, are shown as escapes."""
    return escape(escape_controls(text))


def _attribute(text: str) -> str:
    return quoteattr(escape_controls(text))
