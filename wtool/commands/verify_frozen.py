"""`wtool verify` of a fine-tuned model against its freezing manifest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Checkpoint
from wtool.commands import open_model
from wtool.errors import UsageError, counted
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.manifests.digests import Progress
    from wtool.manifests.freezing import FreezingManifest
    from wtool.manifests.verification import Finding

_COLUMNS = (
    Column("status"),
    Column("name"),
    Column("role"),
    Column("expected"),
    Column("found"),
    Column("max_abs"),
    Column("fails", hidden=True),
    Column("expected_digest", hidden=True),
    Column("found_digest", hidden=True),
)
BLOCK_BYTES = 1 << 20


def verify_frozen(
    tuned: Checkpoint,
    manifest: FreezingManifest,
    *,
    folder: str,
    tolerance: float | None,
    original: str | None,
    keep: Callable[[Iterable[str]], set[str]],
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """The Report on a fine-tuned model; see `verify`.

    folder: where the original is looked for under its own name. keep: the names that are checked.
    """
    from wtool.manifests.digests import digest_model
    from wtool.manifests.entries import entries_of
    from wtool.manifests.rules import model_tensors
    from wtool.manifests.verification import check_tuned

    if tolerance is not None and not tolerance >= 0:
        raise UsageError("bad tolerance", expected="a number from 0 on", found=tolerance)
    own = {n: t for n, t in tuned.tensors.items() if n in manifest.tensors} | model_tensors(tuned)
    kept = keep({*manifest.tensors, *own})
    part = dataclasses.replace(tuned, tensors={n: t for n, t in own.items() if n in kept})
    checked = dataclasses.replace(
        manifest, tensors={n: t for n, t in manifest.tensors.items() if n in kept}
    )
    digests = digest_model(part, manifest.algorithm, files=False, jobs=jobs, progress=progress)
    entries = entries_of(part, digests.tensors)
    findings = check_tuned(
        checked,
        {name: entry for name, entry in entries.items() if name in checked.tensors},
        {name: entry for name, entry in entries.items() if name not in checked.tensors},
    )
    distances: dict[str, float] = {}
    if tolerance is not None or original is not None:
        base = _open_original(manifest, folder, original)
        distances = _distances(base, part, findings, manifest)
        findings = [_judge(finding, distances, tolerance or 0.0) for finding in findings]
    return _report(tuned, checked, findings, distances)


def _open_original(manifest: FreezingManifest, folder: str, original: str | None) -> Checkpoint:
    """The model that was frozen; UsageError where it is not at hand."""
    path = os.path.join(folder, manifest.model) if original is None else original
    if original is None and not os.path.exists(path):
        raise UsageError(
            "--tolerance needs the values of the original model",
            found=f"no {manifest.model} beside the manifest",
            hint="--original MODEL names it",
        )
    return open_model(path)


def _distances(
    base: Checkpoint, tuned: Checkpoint, findings: list[Finding], manifest: FreezingManifest
) -> dict[str, float]:
    """How far each changed frozen tensor is from the original: the largest absolute difference.

    UsageError where the original is not the model that was frozen.
    """
    from wtool.manifests.digests import digest_values

    found = {}
    for finding in findings:
        name = finding.name
        if finding.status != "different" or name not in tuned.tensors:
            continue
        if name not in base.tensors or (
            digest_values(base[name], manifest.algorithm) != manifest.tensors[name].entry.digest
        ):
            raise UsageError(
                f"the original is not the model that was frozen: '{name}' differs", found=base.path
            )
        found[name] = _largest_difference(base, tuned, name)
    return found


def _largest_difference(base: Checkpoint, tuned: Checkpoint, name: str) -> float:
    """Infinite where a value became or ceased to be NaN or infinite."""
    import math

    from wtool.kernels.compare import compare

    x, y = base[name], tuned[name]
    step = max(1, BLOCK_BYTES // max(x.dtype.carrier.itemsize, y.dtype.carrier.itemsize))
    largest = 0.0
    for start in range(0, x.count, step):
        stop = min(x.count, start + step)
        difference = compare(x.read(start, stop), y.read(start, stop))
        largest = max(largest, math.inf if difference.broken else difference.max_abs)
    return largest


def _judge(finding: Finding, distances: dict[str, float], tolerance: float) -> Finding:
    """A frozen tensor within the tolerance is told, and fails nothing."""
    if distances.get(finding.name, float("inf")) > tolerance:
        return finding
    return dataclasses.replace(finding, status="close", fails=False)


def _report(
    tuned: Checkpoint,
    manifest: FreezingManifest,
    findings: list[Finding],
    distances: dict[str, float],
) -> Report:
    failed = [finding for finding in findings if finding.fails]
    frozen = [name for name, tensor in manifest.tensors.items() if tensor.is_frozen]
    trained = [
        name for name, t in manifest.tensors.items() if not t.is_frozen and t.role != "buffer"
    ]
    unchanged = [finding.name for finding in findings if finding.status == "unchanged"]
    broken = sum(finding.name in set(frozen) for finding in failed)
    gone = {f.name for f in findings if f.found is None and f.status in ("missing", "replaced")}
    lost = len(gone.intersection(trained))
    totals: dict[str, Any] = {
        "frozen": len(frozen),
        "frozen_failed": broken,
        "failed": len(failed),
        "trained": len(trained),
        **{
            status: sum(finding.status == status for finding in findings)
            for status in ("unchanged", "replaced", "added")
        },
    }
    answer = "does NOT verify" if failed else "verifies"
    same = len(frozen) - broken
    as_before = "is as it was" if same == 1 else "are as they were"
    footer = [
        f"{answer}: {same} of {counted(len(frozen), 'frozen tensor')} {as_before}, "
        f"{len(trained) - len(unchanged) - lost} of {len(trained)} trained ones changed"
        + (f", {lost:,} {'is' if lost == 1 else 'are'} not there" if lost else "")
    ]
    buffers = [f.name for f in failed if f.role == "buffer" and f.status == "different"]
    if buffers:
        footer.append(
            f"{counted(len(buffers), 'frozen buffer')} changed, first '{buffers[0]}': "
            "running statistics move when a frozen normalisation layer is left in training mode"
        )
    if unchanged:
        footer.append(f"never trained: {', '.join(unchanged[:8])}{_more(len(unchanged) - 8)}")
    return Report(
        command="verify",
        columns=_COLUMNS,
        rows=[
            dataclasses.asdict(finding) | {"max_abs": distances.get(finding.name)}
            for finding in findings
        ],
        totals=totals,
        ok=not failed,
        notes=tuned.notes,
        sources=[tuned.path],
        footer=footer,
    )


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
