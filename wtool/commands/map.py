"""`wtool map`: which tensor of one model is which of another framework's."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint
from wtool.commands import PATH, as_text, encoded, open_model, refuse_report, report_command
from wtool.errors import UnsupportedError, counted
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.conversion.drafts import Proposal

_GRADES = ("certain", "ordered", "ambiguous")


def map(
    source: Checkpoint | str | os.PathLike[str],
    target: Checkpoint | str | os.PathLike[str],
    *,
    save: str | os.PathLike[str] | None = None,
    accept_ordered: bool = False,
    no_presets: bool = False,
    no_values: bool = False,
    force: bool = False,
    root: str | None = None,
) -> Report:
    """Match the tensors of a PyTorch model and a Keras or TensorFlow one, and say how surely.

    TARGET is a checkpoint of the other framework's model, trained or fresh. Presets, equal values,
    what the files state, names, shapes and numbering make a match `certain`; order among equals
    makes it `ordered`; what nothing decides is `ambiguous` and left to you. --save writes a mapping
    file for `wtool convert --map`, to be edited. Exit code 0: all certain; 1: something is open.

    \b
    Example:
      wtool map fixtures/topics-rnn.pth fixtures/topics-rnn.weights.h5
      wtool map fixtures/digits-cnn.pth fixtures/digits-cnn.weights.h5 --format json
    """
    from wtool.conversion.drafts import draft, propose, rows
    from wtool.conversion.presets import find_preset, found_text, preset_rows
    from wtool.conversion.units import is_torch

    first = source if isinstance(source, Checkpoint) else open_model(source, root=root)
    second = target if isinstance(target, Checkpoint) else open_model(target)
    if is_torch(first) == is_torch(second):
        side = "PyTorch" if is_torch(first) else "Keras or TensorFlow"
        raise UnsupportedError(
            f"both models have the names of {side}",
            path=second.path,
            hint="map pairs the two frameworks; within one, names are changed by convert --rename",
        )
    a, b = (first, second) if is_torch(first) else (second, first)
    preset = None if no_presets else find_preset(a, b)
    if preset is not None:
        found = preset_rows(preset, a, b)
        text = found_text(preset, a, b)
        notes = [f"preset {preset.name} covers both models", *preset.notes]
    else:
        proposal = propose(
            a, b, values=not no_values, accept_ordered=accept_ordered, a_is_source=first is a
        )
        found = rows(proposal)
        text = draft(proposal, " -> ".join(os.path.basename(c.path) for c in (first, second)))
        notes = _notes(proposal)
    if save is not None:
        _save(text, as_text(save), force=force)
        notes.append(f"wrote {save}")
    swapped = first is b
    return _report(found, notes, [first.path, second.path], swapped=swapped)


def _notes(proposal: Proposal) -> list[str]:
    notes = [*proposal.a.notes, *proposal.b.notes]
    ordered = sum(match.grade == "ordered" for match in proposal.pairing.matches)
    layers = counted(ordered, "layer is", "layers are")
    if ordered and proposal.accept_ordered:
        notes.append(f"{layers} matched by their order alone, as you allowed")
    elif ordered:
        notes.append(f"{layers} matched by their order alone; --accept-ordered makes rules of them")
    return notes


def _save(text: str, path: str, *, force: bool) -> None:
    from wtool.writers.outputs import OutputSet

    refuse_report(path, force=force)
    with OutputSet() as outputs:
        outputs.create(path).write(encoded(text))


def _report(
    found: list[dict[str, Any]], notes: list[str], sources: list[str], *, swapped: bool
) -> Report:
    names = ("b", "a") if swapped else ("a", "b")
    rows = [
        {
            "source": row.get(names[0]),
            "target": row.get(names[1]),
            "kind": row.get("kind"),
            "grade": row["grade"],
            "evidence": row["evidence"],
        }
        for row in found
    ]
    counts = Counter(row["grade"] for row in rows)
    totals = {grade: counts[grade] for grade in _GRADES}
    return Report(
        command="map",
        columns=[Column(n) for n in ("source", "target", "kind", "grade", "evidence")],
        rows=rows,
        totals=totals,
        ok=counts["certain"] == len(rows),
        notes=notes,
        sources=sources,
        footer=[", ".join(f"{number} {grade}" for grade, number in totals.items())],
    )


COMMAND = report_command(
    map,
    click.Argument(["source"], type=PATH),
    click.Argument(["target"], type=PATH),
    click.Option(
        ["--save"],
        metavar="FILE",
        type=PATH,
        help="Write the mapping to this TOML file, to be edited.",
    ),
    click.Option(
        ["--accept-ordered"],
        is_flag=True,
        help="Make rules of matches that rest on order alone; the mapping says so.",
    ),
    click.Option(["--no-presets"], is_flag=True, help="Do not look for a built-in mapping."),
    click.Option(["--no-values"], is_flag=True, help="Do not read and compare values."),
    models="none",
)
