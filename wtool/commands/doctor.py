"""`wtool doctor`: why a file does not load, and what mends it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

import click

from wtool.checkpoint import Checkpoint
from wtool.checks.diagnosis import (
    MOST,
    Symptom,
    compare,
    examine,
    expected_of,
    read_expected,
)
from wtool.checks.runner import choose_rules, run
from wtool.checks.subject import Subject
from wtool.commands import PATH, as_text, open_model, report_command
from wtool.errors import InputError, MissingInput, TruncatedInput, UnknownFormat, UnsafeInput
from wtool.report import Column, Report

# What these rules find can keep a loader from loading; none of them reads values.
_RULES = (
    "WT022",
    "WT023",
    "WT024",
    "WT028",
    "WT029",
    "WT030",
    "WT031",
    "WT040",
    "WT041",
    "WT046",
    "WT047",
    "WT050",
    "WT051",
)
_COLUMNS = (
    Column("problem"),
    Column("where"),
    Column("found"),
    Column("expected"),
    Column("mend"),
)
_KINDS = {
    TruncatedInput: ("cut short", "fetch the file again, and compare its size and SHA-256"),
    UnsafeInput: ("unsafe", "do not load it; ask its author for a safetensors file"),
    UnknownFormat: ("not a weight file", "fetch the weight file itself"),
    MissingInput: ("missing file", "fetch the missing file into the same folder"),
    InputError: ("malformed", "fetch the file again, or write it again from its source"),
}


def doctor(
    model: Checkpoint | str | os.PathLike[str],
    *,
    against: Checkpoint | str | os.PathLike[str] | None = None,
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Say on one screen why a file does not load, and the command that mends it.

    Looks for: a file that is cut (where, in which tensor), damaged or no weight file; globals that
    weights_only refuses; a model nested in a branch; prefixes that training left; lost tensors.
    With --against (another model, or a text file of names with shapes and types, one a line): the
    prefix, keys, shapes, types and ties in which the file differs from what the loader expects.

    Exit code 0: nothing stands in the way; 1: something does.

    \b
    Example:
      wtool doctor fixtures/digits-cnn-module.pth
      wtool doctor fixtures/digits-cnn-training.pth --against fixtures/digits-cnn.pth
      wtool doctor fixtures/broken/cut.pth
    """
    model, against = as_text(model), as_text(against)
    try:
        opened = model if isinstance(model, Checkpoint) else open_model(model, root=root)
        symptoms = list(_diagnose(opened, against, root, jobs, progress))
    except InputError as error:
        path = model.path if isinstance(model, Checkpoint) else model
        if error.path is not None and error.path == _name_of(against):
            raise
        if isinstance(error, MissingInput) and error.path == path and error.__cause__ is None:
            raise
        return _report(path, [_unreadable(path, error)], ())
    return _report(opened.path, symptoms, opened.notes)


def _diagnose(
    checkpoint: Checkpoint,
    against: Checkpoint | str | None,
    root: str | None,
    jobs: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Symptom]:
    from wtool.commands.check import read_configuration

    subject = Subject(
        checkpoint,
        open_model=open_model,
        config=read_configuration(checkpoint),
        jobs=jobs,
        progress=progress,
    )
    yield from examine(checkpoint)
    shown: dict[str, int] = {}
    for outcome in run(subject, choose_rules(_RULES)):
        finding, rule = outcome.finding, outcome.rule
        shown[rule.code] = shown.get(rule.code, 0) + 1
        if shown[rule.code] <= MOST:
            where = finding.tensor or finding.file or checkpoint.path
            name = rule.name.replace("-", " ")
            yield Symptom(name, where, finding.message, "", rule.mend)
    for code, number in shown.items():
        if number > MOST:
            more = f"{number - MOST:,} more like it"
            yield Symptom(code, "...", more, "", f"wtool check --only {code} shows all")
    if against is None:
        return
    if isinstance(against, str) and against.endswith(".txt"):
        expected = read_expected(against)
    else:
        reference = against if isinstance(against, Checkpoint) else open_model(against, root=root)
        expected = expected_of(reference)
    yield from compare(checkpoint, expected)


def _unreadable(path: str, error: InputError) -> Symptom:
    """The symptom of a file that cannot be read; a zip file that was cut is looked into."""
    from wtool.dialects.cut_zip import find_cut
    from wtool.sources import FileSource

    problem, mend = next(_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS)
    found = str(error).removeprefix(f"{path}: ")
    if isinstance(error, TruncatedInput) and error.path == path:
        # A folder or a prefix cannot be looked into; the error says what is known.
        with contextlib.suppress(InputError):
            cut = find_cut(FileSource(path))
            found = cut.text if cut else found
    return Symptom(problem, error.tensor or path, found, "", mend)


def _name_of(model: Checkpoint | str | None) -> str | None:
    return model.path if isinstance(model, Checkpoint) else model


def _report(path: str, symptoms: list[Symptom], notes: Iterable[str]) -> Report:
    rows = [
        {
            "problem": symptom.problem,
            "where": symptom.where,
            "found": symptom.found,
            "expected": symptom.expected,
            "mend": symptom.mend,
        }
        for symptom in symptoms
    ]
    line = f"{len(rows)} reasons why it may not load" if len(rows) > 1 else "one reason"
    return Report(
        command="doctor",
        columns=_COLUMNS,
        rows=rows,
        totals={"problems": len(rows)},
        ok=not rows,
        notes=tuple(notes),
        sources=[path],
        footer=[f"{path}: {line if rows else 'nothing stands in the way'}"],
    )


COMMAND = report_command(
    doctor,
    click.Argument(["model"], type=PATH),
    click.Option(
        ["--against"],
        metavar="REFERENCE",
        type=PATH,
        help="A model that loads, or a .txt list of expected names.",
    ),
    models="none",
)
