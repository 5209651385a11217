"""`wtool init`: what was never trained, and how it was initialised."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import opened, report_command
from wtool.layers.judgement import Judgement
from wtool.layers.survey import judge_all
from wtool.report import Column, Report

# Names of fresh tensors that the closing line spells out.
FOOTER_NAMES = 8

_COLUMNS = (
    Column("name"),
    Column("kind"),
    Column("shape"),
    Column("fan_in"),
    Column("fan_out"),
    Column("std"),
    Column("abs_max"),
    Column("verdict"),
    Column("nearest", hidden=True),
    Column("expected_std"),
    Column("distance"),
    Column("limit"),
    Column("structure", "standard errors"),
    Column("spectrum", "Tracy-Widom units"),
    Column("reason", hidden=True),
    Column("sampled", "elements", hidden=True),
    Column("role", hidden=True),
)


def init(
    checkpoint: Checkpoint | str | os.PathLike[str],
    *,
    fresh: bool = False,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Say which weights still look as an initialiser left them, and which initialiser.

    For every weight and bias: fan-in and fan-out under the file's layout, standard deviation and
    largest magnitude, and a verdict. "fresh: SCHEME": scale, distribution and independence are
    those of the scheme (schemes that coincide share the line); "trained": they are those of none;
    "constant"; "undecided": too few values, or random values at a scale that no scheme has.

    The evidence: distance to the scheme's CDF (Kolmogorov) and the limit that a fresh tensor stays
    under; structure, the largest departure of rows, columns and neighbours from independence
    (limit 3.7); spectrum, how far the largest singular value sticks out (limits -6.0 and 4.2).
    "trained" is said only far beyond the limits. Large tensors are judged by an evenly spaced
    sample of 262,144 values, the same in every run.

    \b
    Example:
      wtool init fixtures/digits-cnn.pth
      wtool init fixtures/digits-cnn.pth --fresh --format json
    """
    checkpoint = opened(checkpoint)
    rows = []
    names = []
    counts = dict.fromkeys(("fresh", "trained", "constant", "undecided"), 0)
    for tensor, judgement in judge_all(checkpoint, jobs=jobs, progress=progress):
        counts[judgement.verdict.partition(":")[0]] += 1
        if judgement.is_fresh:
            names.append(tensor.name)
        if judgement.is_fresh or not fresh:
            rows.append(_row(tensor, judgement))
    return Report(
        command="init",
        columns=_COLUMNS,
        rows=rows,
        totals={"tensors": sum(counts.values()), **counts},
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=_footer(counts, names),
    )


def _row(tensor: Tensor, judgement: Judgement) -> dict[str, object]:
    facts = {
        "name": tensor.name,
        "kind": tensor.kind,
        "shape": list(tensor.shape),
        "fan_in": judgement.fan_in,
        "fan_out": judgement.fan_out,
        "std": judgement.std,
        "abs_max": judgement.bound,
        "verdict": judgement.verdict,
        "nearest": judgement.nearest,
        "expected_std": judgement.expected_std,
        "distance": judgement.distance,
        "limit": judgement.limit,
        "structure": judgement.structure,
        "spectrum": judgement.spectrum,
        "reason": judgement.reason,
        "sampled": judgement.sampled,
        "role": tensor.role,
    }
    return {column: fact for column, fact in facts.items() if fact is not None}


def _footer(counts: dict[str, int], names: list[str]) -> list[str]:
    """What is worth looking at: the layers that cannot be told from fresh ones."""
    total = sum(counts.values())
    if not names:
        return [f"none of {total} weights and biases looks fresh"]
    shown = ", ".join(names[:FOOTER_NAMES])
    more = f" and {len(names) - FOOTER_NAMES} more" if len(names) > FOOTER_NAMES else ""
    return [
        f"{len(names)} of {total} weights and biases cannot be told from fresh ones: {shown}{more}"
    ]


COMMAND = report_command(
    init,
    click.Option(["--fresh"], is_flag=True, help="Only tensors that still look fresh."),
)
