"""What the reports of `convert` and `cast` say of a file: its size, what was lost, the proof."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from wtool.commands.saving import Prepared, Target
from wtool.errors import LossError, counted
from wtool.report import Column, Report, human_bytes

if TYPE_CHECKING:
    from wtool.bridges.proving import Proof
    from wtool.writers.plans import Plan

FILE_COLUMNS = (Column("file"), Column("tensors", "tensors"), Column("nbytes", "bytes"))


def file_rows(plan: Plan) -> list[dict[str, Any]]:
    """One row per file, with its size on the disk."""
    return [
        {"file": file.path, "tensors": len(file.tensors), "nbytes": os.path.getsize(file.path)}
        for file in plan.files
    ]


def loss_notes(prepared: Prepared) -> list[str]:
    """What was given up, kind by kind."""
    from wtool.writers.plans import names_of

    notes = []
    for kind in sorted({loss.kind for loss in prepared.accepted}):
        names = [loss.name for loss in prepared.accepted if loss.kind == kind]
        notes.append(f"not kept, as allowed: {kind} {names_of(names)}")
    return notes


def refusal_notes(prepared: Prepared, target: Target) -> list[str]:
    """Why writing would be refused, for a plan that is only shown."""
    notes = []
    try:
        prepared.refuse()
    except LossError as error:
        notes.append(f"would be refused: {error}")
    taken = [file.path for file in prepared.plan.files if os.path.lexists(file.path)]
    if taken and not target.force:
        notes.append(f"would be refused: {taken[0]} exists (--force replaces it)")
    return notes


def summary(plan: Plan, verb: str) -> str:
    """One line: what was written, how large; as planned where it is not written."""
    files = f"{len(plan.files)} files" if len(plan.files) > 1 else plan.files[0].path
    written = verb == "wrote"
    nbytes = sum(row["nbytes"] for row in file_rows(plan)) if written else plan.nbytes
    return f"{verb} {files}: {plan.container}, {human_bytes(nbytes)}"


def with_proof(report: Report, proof: Proof, *, within: bool = False) -> Report:
    """The report with what was proven; not ok where the proof failed."""
    how = "within the stated error" if within else "bit by bit"
    found = f"{proof.library} read {counted(proof.tensors, 'tensor')}, {human_bytes(proof.nbytes)}"
    verdict = f"proved: {found}: equal {how}"
    if proof.faults:
        verdict = f"NOT PROVED: {found}: {counted(len(proof.faults), 'fault')}"
    totals = {
        "proved_by": proof.library,
        "proved_tensors": proof.tensors,
        "proved_bytes": proof.nbytes,
        "faults": len(proof.faults),
    }
    return dataclasses.replace(
        report,
        ok=report.ok and not proof.faults,
        totals={**report.totals, **totals},
        notes=[*report.notes, *proof.faults],
        footer=[*report.footer, verdict],
    )
