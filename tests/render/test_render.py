"""Every rendering of one Report, on the whole text."""

import csv
import io
import json
import random
import subprocess
import sys

from tabulate import tabulate

from wtool.render import RENDERINGS, render
from wtool.render.cells import cell, is_numeric, visible
from wtool.report import Bins, Column, ColumnReport, Report, combine, human_bytes

NAN, INF = float("nan"), float("inf")


def report(**changes) -> Report:
    facts = {
        "command": "stats",
        "columns": [
            Column("name"),
            Column("shape"),
            Column("mean", "1"),
            Column("tag", hidden=True),
        ],
        "rows": [
            {"name": "a.weight", "shape": [3, 4], "mean": 0.123456789, "tag": "x"},
            {"name": "evil|\x1b[31m", "shape": [], "mean": NAN, "tag": None},
            {"name": "big", "shape": [0], "mean": -INF, "tag": "y"},
        ],
        "totals": {"count": 1234567},
        "notes": ["a prefix was dropped"],
        "sources": ["m.pth"],
        "footer": ["3 tensors"],
    }
    return Report(**{**facts, **changes})


def text(rendering: str, of: Report | None = None) -> str:
    return "".join(render(of or report(), rendering))


def test_json_is_the_documented_schema_with_raw_numbers_and_named_non_finite_values():
    assert json.loads(text("json")) == {
        "schema": 1,
        "command": "stats",
        "ok": True,
        "sources": ["m.pth"],
        "columns": [
            {"name": "name", "unit": ""},
            {"name": "shape", "unit": ""},
            {"name": "mean", "unit": "1"},
            {"name": "tag", "unit": ""},
        ],
        "rows": [
            {"name": "a.weight", "shape": [3, 4], "mean": 0.123456789, "tag": "x"},
            {"name": "evil|\x1b[31m", "shape": [], "mean": "NaN", "tag": None},
            {"name": "big", "shape": [0], "mean": "-Infinity", "tag": "y"},
        ],
        "totals": {"count": 1234567},
        "notes": ["a prefix was dropped"],
    }


def test_json_of_an_empty_report_is_json():
    assert json.loads(text("json", report(rows=[])))["rows"] == []


def test_table_for_people_hides_hidden_columns_and_escapes_control_characters():
    assert text("table") == (
        "name           shape        mean\n"
        "-------------  -------  --------\n"
        "a.weight       3x4      0.123457\n"
        "evil|\\x1b[31m  scalar        nan\n"
        "big            0            -inf\n"
        "\n"
        "3 tensors\n"
    )


def test_titles_footers_and_notes_for_people_hold_no_control_characters():
    """`verify` names tensors in its footer: "never trained: ..."; a file chooses their names."""
    evil = "a\x1b[31m\nb\u202e"
    of = report(title=evil, footer=[evil], notes=[evil], sources=[evil])
    for rendering in ("table", "markdown", "html"):
        for said in (text(rendering, of), text(rendering, report(sources=[evil]))):
            assert not {"\x1b", "\u202e"} & set(said)
        shown = text(rendering, of).replace("\\", "").replace("[", "")
        assert shown.count("ax1b31mnbu202e") == {"table": 2, "markdown": 3, "html": 4}[rendering]


def test_a_long_table_looks_as_a_short_one():
    rows = [{"name": f"t{i}", "shape": [i], "mean": float(i), "tag": "x"} for i in range(3000)]
    long = text("table", report(rows=rows)).splitlines()
    short = text("table", report(rows=rows[:1000])).splitlines()
    assert long[:1002] == short[:1002]
    assert len(long) == 3004


def tabulated(of: Report) -> list[str]:
    """The rows of a table as tabulate sets them, which is the look that all tables have."""
    columns = visible(of)
    return tabulate(
        [[cell(row.get(c.name)) for c in columns] for row in of.rows],
        headers=[c.name for c in columns],
        tablefmt="simple",
        colalign=["right" if is_numeric(of, c) else "left" for c in columns],
        disable_numparse=True,
    ).splitlines()


def test_a_long_table_repeats_what_tensors_have_in_common():
    """Rows beside their names alike or not, one column or many: as tabulate sets them."""
    choose = random.Random(3)
    for columns in (["name"], ["name", "dtype"], ["name", "dtype", "count", "role"]):
        for few in (2, 5000):
            rows = [
                {
                    "name": f"t{i}",
                    "dtype": choose.choice(["float32", "f16", ""]),
                    "count": choose.randrange(few),
                    "role": choose.choice(["weight", "", "é"]),
                }
                for i in range(2500)
            ]
            of = report(columns=[Column(name) for name in columns], rows=rows, footer=[])
            assert text("table", of).splitlines() == tabulated(of)


def test_a_table_is_the_one_that_tabulate_makes():
    choose = random.Random(7)
    words = ["", "a", "conv1.weight", " left", "right ", " ", "x" * 40, "é", "日本語", "▁█ ▂"]
    values = [None, True, 0, -1, 1234567, 0.5, -0.0, NAN, INF, [], [3, 4], Bins((1, 0, 5)), *words]
    for _ in range(300):
        kinds = [choose.choice((values, words, [7, 12345, None], [0.25, 3.0])) for _ in range(4)]
        names = choose.sample(["n", "name", "a_longer_name", "größe", "p50"], 4)
        rows = [
            {name: choose.choice(kind) for name, kind in zip(names, kinds, strict=True)}
            for _ in range(choose.randint(1, 6))
        ]
        of = report(columns=[Column(name) for name in names], rows=rows, footer=[])
        if visible(of):
            assert text("table", of).splitlines() == tabulated(of)


def test_tabulate_is_imported_only_where_a_cell_needs_it():
    plain = "from wtool.render import render; from wtool.report import Column, Report; import sys;"
    plain += "print(*render(Report('ls', [Column('name')], [{'name': %r}]), 'table'));"
    plain += "print('tabulate' in sys.modules)"
    for name, needed in (("conv1.weight", "False"), ("重み", "True")):
        done = subprocess.run(
            [sys.executable, "-c", plain % name], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == needed


def test_csv_has_raw_numbers():
    rows = list(csv.reader(io.StringIO(text("csv"))))
    assert rows[0] == ["name", "shape", "mean", "tag"]
    assert rows[1] == ["a.weight", "3x4", "0.123456789", "x"]
    assert rows[2][2:] == ["NaN", ""]
    assert rows[3][2] == "-Infinity"


def test_markdown_cells_cannot_break_the_table():
    lines = text("markdown").splitlines()
    assert lines[0] == "| name | shape | mean |"
    assert lines[1] == "| --- | --- | ---: |"
    assert lines[3] == "| evil\\|\\\\x1b\\[31m | scalar | nan |"


def test_html_escapes_names_and_loads_nothing():
    page = text("html", report(rows=[{"name": "<script>alert(1)</script>"}]))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_every_rendering_ends_with_a_newline():
    for rendering in RENDERINGS:
        assert text(rendering).endswith("\n")


def test_reports_of_several_models_become_one_with_a_model_column():
    both = combine([report(), report(ok=False)], ["one", "two"])
    assert both.columns[0].name == "model"
    assert [row["model"] for row in both.rows] == ["one"] * 3 + ["two"] * 3
    assert both.totals == {"count": 2 * 1234567}
    assert not both.ok
    assert both.notes == ["one: a prefix was dropped", "two: a prefix was dropped"]


def by_column(of: Report) -> ColumnReport:
    """The same report, from its columns."""
    values = {column.name: [row[column.name] for row in of.rows] for column in of.columns}
    rest = {name: getattr(of, name) for name in ("command", "totals", "notes", "sources", "footer")}
    return ColumnReport(columns=of.columns, values=values, **rest)


def test_a_report_by_column_is_the_same_report():
    for rows in (report().rows, []):
        expected = report(rows=rows)
        for rendering in RENDERINGS:
            assert text(rendering, by_column(expected)) == text(rendering, expected)
        found = by_column(expected)
        assert repr(found) == repr(expected)
        assert found.row_count == len(rows)
        assert type(found.rows) is list
        assert found.rows == rows
        assert found.rows is found.rows
        both = combine([found, found], ["one", "two"])
        assert both.rows == combine([expected, expected], ["one", "two"]).rows
        assert [found.cells(c.name) for c in found.columns] == [
            expected.cells(c.name) for c in expected.columns
        ]
        assert by_column(expected) == found
        assert not hasattr(found, "nothing")


def test_a_table_makes_no_rows_where_columns_are_at_hand():
    of = by_column(report(rows=[{"name": "a", "shape": [2], "mean": 0.5, "tag": ""}]))
    assert text("table", of).splitlines()[-3].split() == ["a", "2", "0.5"]
    assert "rows" not in vars(of)


def test_bytes_for_people():
    assert [human_bytes(n) for n in (0, 999, 1000, 999_949, 999_950, 10**9, 10**18)] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "1000.0 PB",
    ]  # fmt: skip
