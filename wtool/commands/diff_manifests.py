"""`wtool diff` where one side or both are manifests: structure and digests, without values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Checkpoint
from wtool.commands import open_model
from wtool.errors import UsageError, counted
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.manifests.changes import Change
    from wtool.manifests.document import Manifest
    from wtool.manifests.entries import Entry

_COLUMNS = (
    Column("name"),
    Column("change"),
    Column("old"),
    Column("new"),
    Column("old_digest", hidden=True),
    Column("new_digest", hidden=True),
)
# Of a digest, people see so many hexadecimal digits.
SHORT = 16


def diff_manifests(
    a: Checkpoint | str,
    b: Checkpoint | str,
    *,
    keep: Callable[[Iterable[str]], set[str]],
    ignore_dtype: bool = False,
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """The Report of `diff` for two sides of which one at least is a manifest.

    keep: the names that are compared. ignore_dtype: tensors of another type are left out, as their
    digests cannot be equal. UsageError where a manifest holds several models, or the two were made
    with different digests.
    """
    from wtool.manifests.changes import CHANGES, compare_entries
    from wtool.manifests.document import is_manifest, load

    loaded = [
        load(side) if isinstance(side, str) and is_manifest(side) else None for side in (a, b)
    ]
    algorithms = {manifest.algorithm for manifest in loaded if manifest is not None}
    if len(algorithms) > 1:
        raise UsageError(
            "the manifests were made with different digests", found=" and ".join(sorted(algorithms))
        )
    (algorithm,) = algorithms
    sides = [
        _entries_of(side, manifest, algorithm, root, jobs, progress)
        for side, manifest in zip((a, b), loaded, strict=True)
    ]
    kept = keep({*sides[0], *sides[1]})
    old, new = ({n: e for n, e in side.items() if n in kept} for side in sides)
    changes = [
        change
        for change in compare_entries(old, new)
        if not (ignore_dtype and change.change == "retyped")
    ]
    counts = {kind: sum(change.change == kind for change in changes) for kind in CHANGES}
    gone = {change.name for change in changes}
    same = sum(name in new and name not in gone for name in old)
    parts = [f"{number} {kind}" for kind, number in counts.items() if number]
    are = "is" if same == 1 else "are"
    told = f"{same} of {counted(len(old) + counts['added'], 'tensor')} {are} the same, by digest"
    return Report(
        command="diff",
        columns=_COLUMNS,
        rows=[_row(change) for change in changes],
        totals={**counts, "same": same, "tensors": len(old) + counts["added"]},
        ok=not changes,
        sources=[side if isinstance(side, str) else side.path for side in (a, b)],
        footer=[f"{', '.join(parts)}; {told}" if parts else f"{told}: no difference"],
    )


def _entries_of(
    side: Checkpoint | str,
    manifest: Manifest | None,
    algorithm: str,
    root: str | None,
    jobs: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Entry]:
    """What one side says of each tensor: as listed, or taken from the model."""
    from wtool.manifests.digests import digest_model
    from wtool.manifests.entries import entries_of
    from wtool.manifests.freezing import FreezingManifest

    if isinstance(manifest, FreezingManifest):
        return manifest.entries
    if manifest is not None:
        if len(manifest.models) > 1:
            raise UsageError(
                "a manifest of several models cannot be compared",
                found=", ".join(model.name for model in manifest.models),
            )
        return dict(manifest.models[0].tensors)
    model = side if isinstance(side, Checkpoint) else open_model(side, root=root)
    digests = digest_model(model, algorithm, files=False, jobs=jobs, progress=progress)
    return entries_of(model, digests.tensors)


def _row(change: Change) -> dict[str, Any]:
    old, new = change.old, change.new
    row: dict[str, Any] = {
        "name": change.new_name or change.name,
        "change": change.change,
        "old_digest": None if old is None else old.digest,
        "new_digest": None if new is None else new.digest,
    }
    if change.change == "renamed":
        return row | {"old": change.name, "new": change.new_name}
    if change.change == "changed":
        return row | {
            "old": (old.digest or "")[:SHORT] if old else None,
            "new": (new.digest or "")[:SHORT] if new else None,
        }
    return row | {
        "old": None if old is None else old.describe(),
        "new": None if new is None else new.describe(),
    }
