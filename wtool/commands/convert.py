"""`wtool convert`: the same tensors in another container."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from wtool.checkpoint import Checkpoint
from wtool.commands import PATH, as_text, report_command
from wtool.commands.framework import (
    Framework,
    check_sidecar,
    converted,
    framework_options,
    plan_framework,
    plan_sidecar,
    sidecar_notes,
    template_for,
    with_coverage,
)
from wtool.commands.saving import (
    Prepared,
    Target,
    container_of,
    open_source,
    prepare,
    prove_written,
    shape,
    write,
)
from wtool.commands.saving_options import saving_options, shaping_options
from wtool.commands.saving_report import (
    FILE_COLUMNS,
    file_rows,
    loss_notes,
    refusal_notes,
    summary,
    with_proof,
)
from wtool.commands.selection import each
from wtool.report import Column, Report

_PLAN_COLUMNS = (
    Column("name"),
    Column("dtype"),
    Column("shape"),
    Column("nbytes", "bytes"),
    Column("file"),
    Column("note"),
)


def convert(
    source: Checkpoint | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    container: str | None = None,
    strip_prefix: Sequence[str] = (),
    rename: Sequence[str] = (),
    model_only: bool = False,
    ema: bool = False,
    to: str | None = None,
    map: str | os.PathLike[str] | None = None,
    like: str | os.PathLike[str] | None = None,
    set: Sequence[str] = (),
    assume: Sequence[str] = (),
    sidecar: str | os.PathLike[str] | None = None,
    explain: bool = False,
    max_shard_size: str | int | None = None,
    shards: int | None = None,
    template: str | os.PathLike[str] | None = None,
    state: bool = False,
    untie: bool = False,
    drop_extras: bool = False,
    allow: Sequence[str] = (),
    dry_run: bool = False,
    prove: bool = False,
    force: bool = False,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the tensors of IN into another container: names, layouts and values stay the same.

    The ending of OUT says which: .safetensors, .pth .pt .bin, .npz, .h5 (on a template), none for a
    TensorFlow prefix. What OUT cannot hold (a type, a tie, an extra) is listed, and nothing is
    written unless an option allows its loss. OUT appears whole or not at all; IN may be OUT
    (--force). Memory stays flat. Shards are merged, or split anew (--max-shard-size, --shards).

    --to or --map converts names and layouts to another framework. Every tensor of both sides must
    be accounted for by a mapping file, a preset or the same module paths; ties and fills are
    verified by value, and the way back must be bit-equal but for what is declared lossy. Otherwise
    nothing is written, exit code 4, and what is open is listed. Nothing is guessed from shapes.

    \b
    Example:
      wtool convert fixtures/digits-cnn.pth model.safetensors
      wtool convert fixtures/digits-cnn-training.pth model.safetensors --model-only
      wtool convert fixtures/digits-cnn-bin-shards model.pth --rename '*=encoder.*'
      wtool convert fixtures/topics-rnn.pth model.weights.h5 --to keras --like \\
        fixtures/topics-rnn.weights.h5
    """
    target, template, sidecar = as_text(target), as_text(template), as_text(sidecar)
    asked = Framework(to, as_text(map), as_text(like), each(set), sidecar, each(assume))
    opened, chosen = open_source(source, select, exclude, root)
    shaped = shape(chosen, strip_prefix=strip_prefix, rename=rename, model_only=model_only, ema=ema)
    outcome = None
    if asked.is_asked:
        outcome = plan_framework(shaped, asked)
        if explain or (dry_run and outcome.open):
            return outcome.report()
        kind = container_of(target, container)
        shaped = converted(outcome, kind)
        template = template_for(asked, kind, template)
        check_sidecar(outcome, sidecar, force=force)
    wanted = Target(
        target,
        container=container,
        max_shard_size=max_shard_size,
        shards=shards,
        template=template,
        state=state,
        untie=untie,
        drop_extras=drop_extras,
        allow=allow,
        force=force,
    )
    prepared = prepare(shaped, wanted, source=opened)
    aside = None
    if outcome is not None:
        written = [file.path for file in prepared.plan.files]
        aside = plan_sidecar(outcome, sidecar, [opened.path, *written])
    if dry_run:
        planned = _plan_report(shaped, prepared, wanted, opened)
        return planned if outcome is None else with_coverage(planned, outcome, [])
    write(prepared, wanted, prove=prove, progress=progress, beside=aside)
    report = Report(
        command="convert",
        columns=FILE_COLUMNS,
        rows=file_rows(prepared.plan),
        totals={"tensors": len(shaped), "files": len(prepared.plan.files)},
        notes=[*opened.notes, *loss_notes(prepared)],
        sources=[opened.path],
        footer=[summary(prepared.plan, "wrote")],
    )
    if outcome is not None:
        report = with_coverage(report, outcome, sidecar_notes(aside))
    return with_proof(report, prove_written(prepared, shaped, root=root)) if prove else report


def _plan_report(
    shaped: Checkpoint, prepared: Prepared, target: Target, opened: Checkpoint
) -> Report:
    """What would be written and lost, tensor by tensor."""
    files = {
        name: os.path.basename(file.path) for file in prepared.plan.files for name in file.tensors
    }
    aliases = shaped.aliases
    rows: list[dict[str, Any]] = []
    for tensor in shaped:
        note = f"tied to {aliases[tensor.name]}" if tensor.name in aliases else None
        rows.append(
            {
                "name": tensor.name,
                "dtype": tensor.dtype.name,
                "shape": list(tensor.shape),
                "nbytes": tensor.nbytes,
                "file": files.get(tensor.name),
                "note": note,
            }
        )
    rows += [
        {"name": loss.name, "note": f"lost ({loss.kind}): {loss.reason}"}
        for loss in prepared.plan.losses
    ]
    refusals = refusal_notes(prepared, target)
    return Report(
        command="convert",
        columns=_PLAN_COLUMNS,
        rows=rows,
        totals={
            "tensors": len(shaped),
            "files": len(prepared.plan.files),
            "nbytes": prepared.plan.nbytes,
            "losses": len(prepared.plan.losses),
        },
        ok=not refusals,
        notes=[*opened.notes, *refusals],
        sources=[opened.path],
        footer=[summary(prepared.plan, "would write")],
    )


COMMAND = report_command(
    convert,
    click.Argument(["source"], metavar="IN", type=PATH),
    click.Argument(["target"], metavar="OUT", type=PATH),
    *shaping_options(),
    *framework_options(),
    *saving_options(),
    models="none",
)
