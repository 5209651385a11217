"""`wtool check`: is this weight file fit to release?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from wtool.checkpoint import Checkpoint
from wtool.checks import SEVERITIES, Rule, rules
from wtool.checks.policy import Policy, read_policy
from wtool.checks.runner import Outcome, choose_rules, fails, find_rule, run, unused
from wtool.checks.subject import Subject
from wtool.commands import PATH, as_text, open_model, opened_at, report_command
from wtool.commands.selection import choose, each
from wtool.errors import UsageError, counted
from wtool.report import Column, Index, Report

FORMATS = ("table", "json", "csv", "markdown", "html", "sarif", "junit", "github")
_COLUMNS = (
    Column("file"),
    Column("severity"),
    Column("rule"),
    Column("name"),
    Column("tensor"),
    Column("index"),
    Column("value"),
    Column("message"),
    Column("suppressed"),
)


def check(
    models: Checkpoint
    | str
    | os.PathLike[str]
    | Sequence[Checkpoint | str | os.PathLike[str]] = (),
    *,
    policy: Policy | str | os.PathLike[str] | None = None,
    only: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str | None = None,
    explain: str | None = None,
    list_rules: bool = False,
    select: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Say whether weight files are fit to release: values, structure, the file, your policy.

    Every finding names file, tensor, index and value, and says what to do next. Exit code 0: clean;
    1: findings of severity warning or error (--fail-on error: of error only); 3: unreadable. Notes
    never fail. A policy (TOML) sets severities, suppressions with their reasons, allowed containers
    and types, limits, required metadata and tensors. All rules share one reading of the values.

    MODEL is a file, a TensorFlow prefix, an index file or a directory. --format sarif, junit and
    github are for CI.

    \b
    Example:
      wtool check fixtures/digits-cnn.pth
      wtool check --explain WT003
      wtool check fixtures/digits-cnn.pth --format sarif
    """
    if explain is not None:
        return _explained([find_rule(explain)], whole=True)
    if list_rules:
        return _explained(rules(), whole=False)
    asked = [models] if isinstance(models, str | os.PathLike | Checkpoint) else list(models)
    if not asked:
        raise UsageError("nothing to check", hint="name a model; --list-rules shows the rules")
    law = (
        policy
        if isinstance(policy, Policy)
        else Policy()
        if policy is None
        else read_policy(as_text(policy))
    )
    chosen = choose_rules([*each(only)] or law.only, [*each(ignore), *law.ignore])
    choose_rules([*law.severity, *(entry.rule for entry in law.suppress)])
    limit = fail_on or law.fail_on or "warning"
    if limit not in SEVERITIES[1:]:
        raise UsageError("bad --fail-on", expected=" or ".join(SEVERITIES[1:]), found=limit)
    outcomes: list[tuple[str, Outcome]] = []
    sources: list[str] = []
    notes: list[str] = []
    for one in asked:
        opened = opened_at(one, root)
        names = choose(opened, select, exclude).tensors if select or exclude else None
        subject = _subject(opened, law, names, jobs, progress)
        found = sorted(run(subject, chosen), key=lambda o: -SEVERITIES.index(o.severity))
        outcomes.extend((opened.path, outcome) for outcome in found)
        sources.append(opened.path)
        notes.extend(note for note in opened.notes if note not in notes)
    if not (select or exclude):
        notes.extend(_unused(law, [outcome for _, outcome in outcomes], chosen))
    counted = [outcome for _, outcome in outcomes if outcome.suppressed is None]
    counts = {f"{level}s": sum(o.severity == level for o in counted) for level in SEVERITIES[::-1]}
    totals = {
        **counts,
        "suppressed": len(outcomes) - len(counted),
        "rules": len(chosen),
        "models": len(asked),
    }
    return Report(
        command="check",
        columns=_COLUMNS,
        rows=[_row(path, outcome) for path, outcome in outcomes],
        totals=totals,
        ok=not fails(counted, limit),
        notes=notes,
        sources=sources,
        footer=[_summary(totals)],
        attachments={"rules": [_facts(rule) for rule in chosen]},
    )


def _unused(law: Policy, outcomes: Sequence[Outcome], chosen: Sequence[Rule]) -> Iterator[str]:
    """A note on each suppression of a chosen rule that nothing needed: it would hide the next."""
    codes = {rule.code for rule in chosen}
    for entry in unused(law, outcomes):
        if entry.rule in codes:
            of = "" if entry.tensor is None else f" of '{entry.tensor}'"
            yield f"the policy accepts {entry.rule}{of}, but there is nothing to accept"


def _subject(
    checkpoint: Checkpoint,
    policy: Policy,
    names: Iterable[str] | None,
    jobs: int | None,
    progress: Callable[[int, int], None] | None,
) -> Subject:
    return Subject(
        checkpoint,
        policy,
        open_model=open_model,
        verify=_verify,
        config=read_configuration(checkpoint),
        selected=None if names is None else frozenset(names),
        jobs=jobs,
        progress=progress,
    )


def _verify(checkpoint: Checkpoint, manifest: str) -> list[tuple[str | None, str]]:
    """(tensor, what is wrong) of all that a manifest finds in the model."""
    from wtool.commands.verify import verify

    lines: list[tuple[str | None, str]] = []
    for row in verify(checkpoint, manifest).rows:
        facts = [f"{key} {row[key]}" for key in ("expected", "found") if row.get(key)]
        lines.append((row.get("name"), f"{row['status']}: {', '.join(facts)}".rstrip(": ")))
    return lines


def read_configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """The `config.json` of the model's folder, where it has one that can be read."""
    from wtool.formats.model_directory import read_config

    folder = checkpoint.path
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, "config.json")
    found = read_config(path) if os.path.isfile(path) else None
    return {key.removeprefix("config."): value for key, value in (found or {}).items()}


def _row(path: str, outcome: Outcome) -> dict[str, Any]:
    finding = outcome.finding
    facts = {
        "file": finding.file or path,
        "severity": outcome.severity,
        "rule": outcome.rule.code,
        "name": outcome.rule.name,
        "tensor": finding.tensor,
        "index": None if finding.index is None else Index(finding.index),
        "value": finding.value,
        "message": outcome.message,
        "suppressed": outcome.suppressed,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _facts(rule: Rule) -> dict[str, str]:
    """What a rendering for machines says of a rule."""
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity,
        "title": rule.title,
        "text": rule.text.strip(),
    }


def _summary(totals: dict[str, int]) -> str:
    ran = counted(totals["rules"], "rule")
    parts = []
    for level in ("error", "warning", "note"):
        number = totals[f"{level}s"]
        if number:
            parts.append(counted(number, level))
    if totals["suppressed"]:
        parts.append(f"{totals['suppressed']:,} suppressed by the policy")
    return f"{ran}: {', '.join(parts)}" if parts else f"{ran}: clean"


def _explained(chosen: Sequence[Rule], *, whole: bool) -> Report:
    """A row for each rule; with `whole`, its documentation below."""
    footer: list[str] = []
    if whole:
        rule = chosen[0]
        footer = [f"{rule.code} {rule.name} ({rule.severity})", "", *rule.text.strip().splitlines()]
    return Report(
        command="check",
        columns=[
            Column("rule", hidden=whole),
            Column("name", hidden=whole),
            Column("severity", hidden=whole),
            Column("title", hidden=whole),
            Column("text", hidden=True),
        ],
        rows=[
            {
                "rule": rule.code,
                "name": rule.name,
                "severity": rule.severity,
                "title": rule.title,
                "text": rule.text.strip(),
            }
            for rule in chosen
        ],
        footer=footer,
    )


COMMAND = report_command(
    check,
    click.Argument(["models"], nargs=-1, metavar="MODEL...", type=PATH),
    click.Option(["--policy"], metavar="FILE", type=PATH, help="The release policy, a TOML file."),
    click.Option(["--only"], multiple=True, metavar="RULE", help="Only this rule; repeat."),
    click.Option(["--ignore"], multiple=True, metavar="RULE", help="Not this rule; repeat."),
    click.Option(
        ["--fail-on"],
        type=click.Choice(SEVERITIES[1:]),
        help="The least severity that gives exit code 1 (default: warning).",
    ),
    click.Option(["--explain"], metavar="RULE", help="Show the documentation of a rule."),
    click.Option(["--list-rules"], is_flag=True, help="Show every rule and its severity."),
    models="none",
    formats=FORMATS,
)
