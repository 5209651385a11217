"""Whether a model is what a manifest says: one finding for each tensor or file that is not.

Nothing is decided by a container: names, types, shapes and digests of values are compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wtool.errors import MissingInput, UnsafeInput
from wtool.manifests.changes import Change, compare_entries
from wtool.manifests.digests import FileDigest, digest_file, model_folder
from wtool.manifests.entries import Entry
from wtool.manifests.freezing import FreezingManifest, FrozenTensor

# Hexadecimal digits of a digest that people see.
SHORT = 16
# What a change is called where one side is the promise and the other what was found.
_STATUS = {"removed": "missing", "added": "extra", "changed": "different"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One tensor or file that is worth a line; `fails` where it breaks what the manifest says.

    status: for tensors missing, extra, renamed, reshaped, retyped or different; after fine-tuning
    also replaced, unchanged and added; for files missing or different.
    expected, found: for people; of a digest the first SHORT digits.
    """

    status: str
    name: str
    fails: bool
    expected: str | None = None
    found: str | None = None
    role: str | None = None
    expected_digest: str | None = None
    found_digest: str | None = None


def check_release(
    promised: Mapping[str, Entry], actual: Mapping[str, Entry], *, values: bool = True
) -> list[Finding]:
    """Findings where `actual` is not what a release manifest promised; `values`: digests count."""
    return [_from_change(change) for change in compare_entries(promised, actual, values=values)]


def check_tuned(
    manifest: FreezingManifest, actual: Mapping[str, Entry], added: Mapping[str, Entry]
) -> list[Finding]:
    """Findings where a fine-tuned model breaks its freezing manifest, and what else to know.

    actual: entries under names of the manifest. added: tensors of the model under other names.
    A trained tensor that did not change is told, and fails nothing: it may have had no gradient.
    """
    promised = manifest.entries
    found = []
    for change in compare_entries(promised, {**actual, **added}):
        tensor = manifest.tensors.get(change.name)
        finding = _from_change(change, "" if tensor is None else tensor.role)
        if tensor is None:
            found.append(Finding("added", change.name, False, None, finding.found))
        elif tensor.is_frozen:
            found.append(finding)
        elif change.change != "changed":
            found += _judge_trained(tensor, finding, change)
    found += [
        Finding("unchanged", name, False, None, None, tensor.role)
        for name, tensor in manifest.tensors.items()
        if not tensor.is_frozen
        and tensor.role != "buffer"
        and tensor.entry.digest is not None
        and actual.get(name) == tensor.entry
    ]
    return sorted(found, key=lambda finding: not finding.fails)


def check_files(
    path: str, promised: tuple[FileDigest, ...], algorithm: str, jobs: int
) -> Iterator[Finding]:
    """Findings for files that are missing or differ from a release manifest, in its order.

    Names are relative to the folder of the model at `path`; a model of one file is `path` itself,
    whatever it is called now. Nothing is parsed: a damaged file is as good an input as any.
    UnsafeInput for a name that leads out of the folder.
    """
    folder = model_folder(path)
    alone = len(promised) == 1 and not os.path.isdir(path)
    for file in promised if not alone else ():
        if file.name.startswith("/") or {"", ".", ".."} & {*file.name.split("/")}:
            raise UnsafeInput(
                "the manifest names a file outside of the model's folder", found=repr(file.name)
            )

    def check(file: FileDigest) -> Finding | None:
        place = path if alone else os.path.join(folder, *file.name.split("/"))
        try:
            nbytes, digest = digest_file(place, algorithm)
        except MissingInput:
            return Finding("missing", file.name, True, f"{file.nbytes} bytes")
        if nbytes != file.nbytes:
            sizes = (f"{file.nbytes} bytes", f"{nbytes} bytes")
            return Finding("different", file.name, True, *sizes)
        if digest != file.digest:
            short = (file.digest[:SHORT], digest[:SHORT])
            return Finding("different", file.name, True, *short, None, file.digest, digest)
        return None

    with ThreadPoolExecutor(jobs) as pool:
        yield from (finding for finding in pool.map(check, promised) if finding is not None)


def _judge_trained(tensor: FrozenTensor, finding: Finding, change: Change) -> Iterator[Finding]:
    """A trained tensor may be replaced only where the manifest says so."""
    if not tensor.replaceable:
        yield finding
        return
    yield Finding("replaced", change.name, False, finding.expected, finding.found, tensor.role)
    if change.new_name is not None:
        yield Finding("added", change.new_name, False, None, finding.found)


def _from_change(change: Change, role: str | None = None) -> Finding:
    expected = None if change.old is None else change.old.describe()
    found = None if change.new is None else change.new.describe()
    if change.change == "renamed":
        expected, found = change.name, change.new_name
    elif change.change == "changed" and change.old is not None and change.new is not None:
        expected, found = _short(change.old), _short(change.new)
        if change.twin is not None:
            found = f"the content of '{change.twin}'"
    digests = [None if entry is None else entry.digest for entry in (change.old, change.new)]
    status = _STATUS.get(change.change, change.change)
    return Finding(status, change.name, True, expected, found, role, *digests)


def _short(entry: Entry) -> str:
    return "no values" if entry.digest is None else entry.digest[:SHORT]
