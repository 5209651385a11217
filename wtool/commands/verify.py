"""`wtool verify`: whether a model is what a manifest says."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint
from wtool.commands import PATH, as_text, open_model, opened_at, report_command, weight_file_kind
from wtool.commands.selection import keep_names
from wtool.commands.verify_frozen import verify_frozen
from wtool.errors import InputError, MalformedInput, UsageError, counted
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.manifests.document import Manifest
    from wtool.manifests.release import ModelRecord, ReleaseManifest
    from wtool.manifests.verification import Finding

_COLUMNS = (
    Column("status"),
    Column("name"),
    Column("expected"),
    Column("found"),
    Column("expected_digest", hidden=True),
    Column("found_digest", hidden=True),
)


def verify(
    model: Checkpoint | str | os.PathLike[str],
    manifest: str | os.PathLike[str],
    *,
    files: bool = False,
    tensors: bool = False,
    structure: bool = False,
    name: str | None = None,
    tolerance: float | None = None,
    original: str | os.PathLike[str] | None = None,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a model against a manifest that `wtool manifest` or `wtool freeze` wrote.

    Release manifest: every tensor must have its name, type, shape and values, in whatever
    container, sharding or order. --files checks the files instead, byte by byte and without parsing
    them; --structure checks names, types and shapes and reads no values; --tensors is the default.

    Freezing manifest: frozen tensors and buffers must be bit-identical, or within --tolerance of
    the --original model; trained ones may change their values, and their shape only where the
    manifest marks them replaceable. Trained tensors that did not change are told.

    Exit code 0: verified; 1: not; 3: the model or the manifest cannot be read.

    \b
    Example:
      wtool verify fixtures/digits-cnn.safetensors fixtures/manifests/release-1.json
      wtool verify fixtures/digits-cnn.pth fixtures/manifests/release-1.json --files
    """
    from wtool.manifests.release import ReleaseManifest

    model, manifest = as_text(model), as_text(manifest)
    loaded = _load(manifest)
    if isinstance(loaded, ReleaseManifest):
        if tolerance is not None or original is not None:
            raise UsageError("--tolerance and --original go with a freezing manifest")
        parts = _Parts(files, tensors or not (files or structure), structure)
        options = {"jobs": jobs, "progress": progress}
        return _verify_release(model, loaded, parts, name, (select, exclude), root, options)
    if files or tensors or structure or name is not None:
        raise UsageError("--files, --tensors, --structure and --name go with a release manifest")
    return verify_frozen(
        opened_at(model, root),
        loaded,
        folder=os.path.dirname(manifest),
        tolerance=tolerance,
        original=as_text(original),
        keep=keep_names(select, exclude),
        jobs=jobs,
        progress=progress,
    )


def _load(path: str) -> Manifest:
    """The manifest at `path`; a model in its place is told as what it is."""
    from wtool.manifests.document import load

    try:
        return load(path)
    except InputError as error:
        kind = weight_file_kind(path)
        if kind is None:
            raise
        raise MalformedInput(
            f"not a manifest but a weight file ({kind})",
            path=path,
            hint="verify takes MODEL, then MANIFEST; `wtool manifest MODEL -o MANIFEST` writes one",
        ) from error


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Which parts of a release manifest are checked."""

    files: bool
    tensors: bool
    structure: bool


def _verify_release(
    model: Checkpoint | str,
    manifest: ReleaseManifest,
    parts: _Parts,
    name: str | None,
    patterns: tuple[Sequence[str], Sequence[str]],
    root: str | None,
    options: Mapping[str, Any],
) -> Report:
    """The Report on one model of a release: findings of its files, then of its tensors."""
    from wtool.manifests.verification import check_files

    path = model if isinstance(model, str) else model.path
    checkpoint = None if isinstance(model, str) else opened_at(model, root)
    if checkpoint is None and (parts.tensors or parts.structure):
        checkpoint = open_model(path, root=root)
    record = _find_record(manifest, path, checkpoint, name)
    findings: list[Finding] = []
    totals: dict[str, int] = {}
    footer = []
    if parts.files:
        jobs = options["jobs"] or os.cpu_count() or 1
        findings += check_files(path, record.files, manifest.algorithm, jobs)
        totals |= {"files": len(record.files), "files_failed": len(findings)}
        footer.append(_summary(len(record.files), len(findings), "file"))
    if checkpoint is not None and (parts.tensors or parts.structure):
        found, checked = _check_tensors(
            checkpoint, record, manifest.algorithm, parts.tensors, patterns, options
        )
        findings += found
        totals |= {"tensors": checked, "tensors_failed": len(found)}
        footer.append(_summary(checked, len(found), "tensor"))
        if not parts.tensors:
            footer[-1] += " (names, types and shapes)"
    tag = "" if manifest.tag is None else f" of {manifest.tag}"
    return Report(
        command="verify",
        columns=_COLUMNS,
        rows=[dataclasses.asdict(finding) for finding in findings],
        totals=totals,
        ok=not findings,
        notes=() if checkpoint is None else checkpoint.notes,
        sources=[path],
        footer=[f"{record.name}{tag}: {'; '.join(footer)}"],
    )


def _find_record(
    manifest: ReleaseManifest, path: str, checkpoint: Checkpoint | None, name: str | None
) -> ModelRecord:
    """The record of the model: as named, the only one, of its file name, or of its structure."""
    from wtool.manifests.entries import entries_of, structure_digest
    from wtool.manifests.release import model_name

    models = manifest.models
    if name is None and len(models) == 1:
        return models[0]
    wanted = model_name(path) if name is None else name
    found = [record for record in models if record.name == wanted]
    if not found and name is None and checkpoint is not None:
        digest = structure_digest(entries_of(checkpoint), manifest.algorithm)
        found = [record for record in models if record.structure == digest]
    if len(found) != 1:
        raise UsageError(
            "the manifest does not say which of its models this is",
            expected=", ".join(record.name for record in models),
            found=wanted,
            hint="--name NAME chooses one",
        )
    return found[0]


def _check_tensors(
    checkpoint: Checkpoint,
    record: ModelRecord,
    algorithm: str,
    values: bool,
    patterns: tuple[Sequence[str], Sequence[str]],
    options: Mapping[str, Any],
) -> tuple[list[Finding], int]:
    """(findings, tensors checked) for the tensors that the patterns leave."""
    from wtool.manifests.digests import digest_model
    from wtool.manifests.entries import entries_of
    from wtool.manifests.verification import check_release

    # A manifest of a part of a model speaks of no more than that part.
    spoken = keep_names(record.select, record.exclude, strict=False)(checkpoint.tensors)
    names = {*record.tensors, *spoken}
    kept = keep_names(*patterns)(names)
    promised = {n: entry for n, entry in record.tensors.items() if n in kept}
    mine = {n: t for n, t in checkpoint.tensors.items() if n in kept}
    part = dataclasses.replace(checkpoint, tensors=mine)
    digests = digest_model(part, algorithm, files=False, **options).tensors if values else None
    found = check_release(promised, entries_of(part, digests), values=values)
    return found, len({*promised, *mine})


def _summary(checked: int, failed: int, what: str) -> str:
    if failed:
        return f"{failed} of {counted(checked, what)} {'does' if failed == 1 else 'do'} NOT verify"
    return counted(checked, f"{what} verifies", f"{what}s verify")


COMMAND = report_command(
    verify,
    click.Argument(["model"], type=PATH),
    click.Argument(["manifest"], type=PATH),
    click.Option(["--files"], is_flag=True, help="Check sizes and digests of the files."),
    click.Option(["--tensors"], is_flag=True, help="Check every tensor (default)."),
    click.Option(["--structure"], is_flag=True, help="Check names, types and shapes only."),
    click.Option(["--name"], metavar="NAME", help="Which model of a manifest of several."),
    click.Option(
        ["--tolerance"],
        type=float,
        metavar="X",
        help="Accept frozen values within X of those of --original.",
    ),
    click.Option(
        ["--original"],
        metavar="MODEL",
        type=PATH,
        help="The model that was frozen (default: of that name, beside the manifest).",
    ),
    models="none",
)
