"""`wtool manifest`: digests of a release, for `wtool verify` and for a signature."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import click

from wtool.checkpoint import Checkpoint
from wtool.commands import PATH, as_text, opened_at, refuse_report, report_command
from wtool.commands.selection import choose, each
from wtool.errors import UsageError, counted
from wtool.kernels.digest import ALGORITHMS
from wtool.report import Column, Report, human_bytes

_COLUMNS = (
    Column("model"),
    Column("tensors", "tensors"),
    Column("count", "elements"),
    Column("nbytes", "bytes"),
    Column("files", "files"),
    Column("changes", "tensors"),
    Column("root"),
    Column("structure", hidden=True),
)


def manifest(
    models: Checkpoint | str | os.PathLike[str] | Sequence[Checkpoint | str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    tag: str | None = None,
    previous: str | os.PathLike[str] | None = None,
    digest: str = "sha256",
    force: bool = False,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the release manifest of one or more models: digests of every file and tensor.

    A tensor's digest depends on type, shape and values alone, so that the manifest verifies the
    same model in another container, sharding or order. The root digest binds names to content. The
    same models give the same manifest, byte for byte; it holds no time and no path.

    \b
    Example:
      wtool manifest fixtures/digits-cnn.pth -o weights.manifest.json --tag v1.0
      wtool verify fixtures/digits-cnn.safetensors weights.manifest.json
    """
    from wtool.manifests import document
    from wtool.manifests.release import (
        ReleaseManifest,
        compare_releases,
        model_name,
        record_model,
    )

    if output is None:
        raise UsageError("no output for the manifest", hint="-o weights.manifest.json")
    output, previous = as_text(output), as_text(previous)
    given = [models] if isinstance(models, str | os.PathLike | Checkpoint) else list(models)
    refuse_output(output, force)
    old = None if previous is None else document.load(previous)
    if old is not None and not isinstance(old, ReleaseManifest):
        raise UsageError("--previous takes a release manifest", found=previous)
    opened = [opened_at(m, root) for m in given]
    names = [model_name(checkpoint.path) for checkpoint in opened]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two models are called '{twice}'", hint="a manifest for each")
    records = [
        record_model(
            choose(checkpoint, select, exclude),
            digest,
            select=each(select),
            exclude=each(exclude),
            jobs=jobs,
            progress=progress,
        )
        for checkpoint in opened
    ]
    made = ReleaseManifest(digest, tuple(records), tag)
    if old is not None:
        made = compare_releases(old, made)
    write_manifest(output, document.dump(made))
    changes = {model.name: model for model in made.previous or ()}
    rows = [
        {
            "model": record.name,
            **{key: record.totals[key] for key in ("tensors", "count", "nbytes")},
            "files": len(record.files),
            "changes": len(changes[record.name].changes) if record.name in changes else None,
            "root": record.root,
            "structure": record.structure,
        }
        for record in records
    ]
    size = sum(file.nbytes for record in records for file in record.files)
    count = sum(len(record.files) for record in records)
    return Report(
        command="manifest",
        columns=[
            replace(column, hidden=True) if column.name == "changes" and old is None else column
            for column in _COLUMNS
        ],
        rows=rows,
        totals={"models": len(records), "files": count, "nbytes": size},
        notes=[note for checkpoint in opened for note in checkpoint.notes],
        sources=[checkpoint.path for checkpoint in opened],
        footer=[f"wrote {output}: {counted(count, 'file')}, {human_bytes(size)}, {digest}"],
    )


def refuse_output(path: str, force: bool) -> None:
    """Raise where `path` cannot be written, before a byte of a model is read."""
    refuse_report(path, force=force)


def write_manifest(path: str, pieces: Iterable[bytes]) -> None:
    """Write the bytes of a manifest to `path`, whole or not at all."""
    from wtool.writers.outputs import OutputSet

    with OutputSet() as outputs:
        file = outputs.create(path)
        for piece in pieces:
            file.write(piece)


COMMAND = report_command(
    manifest,
    click.Argument(["models"], nargs=-1, required=True, metavar="MODEL...", type=PATH),
    click.Option(["--tag"], metavar="NAME", help="A name of the release to keep in the manifest."),
    click.Option(
        ["--previous"],
        metavar="MANIFEST",
        type=PATH,
        help="An older manifest; architectural changes since are listed in the new one.",
    ),
    click.Option(
        ["--digest"],
        type=click.Choice(ALGORITHMS),
        default="sha256",
        show_default=True,
        help="blake3 is faster and needs the package blake3.",
    ),
    models="none",
)
