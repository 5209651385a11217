"""Release manifests: what each model of a release holds, as digests. Schema 1.

The file is JSON with these fields, in this order; README says how each digest is made.

    kind "wtool release manifest", schema 1, digest "sha256" or "blake3", method "wtool tensor 1",
    tag?, previous? {tag?, models: [{name, root, changes: [...], changed}]},
    models: [{name, format, select?, exclude?, structure, root, totals, written_by, classes,
              files: [{name, nbytes, digest}], tensors: {name: {dtype, shape, digest}}}]

Law: the same models give the same bytes, whenever and wherever the manifest is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.errors import MalformedInput, UsageError
from wtool.kernels.digest import METHOD
from wtool.manifests.changes import ARCHITECTURAL, Change, compare_entries
from wtool.manifests.digests import FileDigest, Progress, digest_model
from wtool.manifests.entries import Entry, entries_of, root_digest, structure_digest
from wtool.manifests.evidence import classes_of, writers_of
from wtool.manifests.fields import Fields

KIND = "wtool release manifest"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of a release.

    name: last component of its path. select, exclude: patterns that chose its tensors.
    structure, root: digests over all tensors. totals: tensors, count, nbytes, parameters; tied
    tensors count once. written_by, classes: what the file says of its origin and of the code that
    it needs. files: named relative to the model's folder. tensors: by name, sorted.
    """

    name: str
    format: str
    structure: str
    root: str
    totals: Mapping[str, int]
    written_by: Mapping[str, str]
    classes: tuple[str, ...]
    files: tuple[FileDigest, ...]
    tensors: Mapping[str, Entry]
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreviousModel:
    """What became of one model since an older release.

    changes: architectural ones, as JSON objects. changed: tensors of which only values changed.
    """

    name: str
    root: str
    changes: tuple[Mapping[str, str], ...]
    changed: int


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """A release: its digest algorithm, its models, its tag, and what changed since another."""

    algorithm: str
    models: tuple[ModelRecord, ...]
    tag: str | None = None
    previous_tag: str | None = None
    previous: tuple[PreviousModel, ...] | None = None


def record_model(
    checkpoint: Checkpoint,
    algorithm: str = "sha256",
    *,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ModelRecord:
    """The record of one model; reads every byte of its files once."""
    digests = digest_model(checkpoint, algorithm, jobs=jobs, progress=progress)
    tensors = entries_of(checkpoint, digests.tensors)
    own = [tensor for tensor in checkpoint if tensor.name not in checkpoint.aliases]
    totals = {
        "tensors": len(tensors),
        "count": sum(tensor.count for tensor in own),
        "nbytes": sum(tensor.nbytes for tensor in own),
        "parameters": sum(t.count for t in own if t.role in ("weight", "bias")),
    }
    return ModelRecord(
        model_name(checkpoint.path),
        checkpoint.format,
        structure_digest(tensors, algorithm),
        root_digest(tensors, algorithm),
        totals,
        writers_of(checkpoint),
        classes_of(checkpoint),
        digests.files,
        tensors,
        tuple(select),
        tuple(exclude),
    )


def model_name(path: str) -> str:
    """What a manifest calls the model at `path`: the last component, nothing above it."""
    return os.path.basename(os.path.abspath(path))


def compare_releases(old: ReleaseManifest, new: ReleaseManifest) -> ReleaseManifest:
    """`new` with the list of what changed since `old`; models are paired by name.

    Two single models are paired whatever they are called. UsageError where the digests were made
    by different algorithms, or where no model of `new` is in `old`.
    """
    if old.algorithm != new.algorithm:
        raise UsageError(
            "the previous manifest has another digest",
            expected=f"--digest {old.algorithm}",
            found=new.algorithm,
        )
    alone = len(old.models) == len(new.models) == 1
    pairs = [(a, b) for b in new.models for a in old.models if alone or a.name == b.name]
    if not pairs:
        raise UsageError(
            "the previous manifest holds none of the models",
            expected=", ".join(model.name for model in new.models),
            found=", ".join(model.name for model in old.models),
        )
    previous = []
    for before, after in pairs:
        changes = compare_entries(before.tensors, after.tensors)
        listed = tuple(describe(c) for c in changes if c.change in ARCHITECTURAL)
        previous.append(PreviousModel(after.name, before.root, listed, len(changes) - len(listed)))
    return ReleaseManifest(new.algorithm, new.models, new.tag, old.tag, tuple(previous))


def describe(change: Change) -> dict[str, str]:
    """A change as strings: change, tensor, and what it was and is."""
    text = {"change": change.change, "tensor": change.name}
    if change.change == "renamed":
        return text | {"new": change.new_name or ""}
    if change.old is not None:
        text["old"] = change.old.describe()
    if change.new is not None:
        text["new"] = change.new.describe()
    return text


def to_json(manifest: ReleaseManifest) -> dict[str, Any]:
    """The manifest as JSON values, in the order of the file."""
    value: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "digest": manifest.algorithm,
        "method": METHOD,
    }
    if manifest.tag is not None:
        value["tag"] = manifest.tag
    if manifest.previous is not None:
        tag = {} if manifest.previous_tag is None else {"tag": manifest.previous_tag}
        value["previous"] = {
            **tag,
            "models": [
                {"name": m.name, "root": m.root, "changed": m.changed, "changes": list(m.changes)}
                for m in manifest.previous
            ],
        }
    value["models"] = [_model_to_json(model) for model in manifest.models]
    return value


def from_fields(fields: Fields) -> ReleaseManifest:
    """The manifest of a JSON object whose kind and schema were read; MalformedInput where it breaks
    a rule, or where its structure and root digests are not those of its tensors."""
    algorithm = fields.algorithm("digest")
    fields.text("method", (METHOD,))
    tag = fields.optional_text("tag")
    previous_tag, previous = None, None
    if "previous" in fields:
        before = fields.object("previous")
        previous_tag = before.optional_text("tag")
        previous = tuple(_previous_from_fields(model) for model in before.objects("models"))
        before.close()
    models = tuple(_model_from_fields(model, algorithm) for model in fields.objects("models"))
    fields.close()
    names = [model.name for model in models]
    if not names or len(set(names)) != len(names):
        raise MalformedInput("models of the manifest have no names of their own", found=names)
    return ReleaseManifest(algorithm, models, tag, previous_tag, previous)


def _model_to_json(model: ModelRecord) -> dict[str, Any]:
    chosen = {"select": list(model.select), "exclude": list(model.exclude)}
    return {
        "name": model.name,
        "format": model.format,
        **{key: value for key, value in chosen.items() if value},
        "structure": model.structure,
        "root": model.root,
        "totals": dict(model.totals),
        "written_by": dict(model.written_by),
        "classes": list(model.classes),
        "files": [{"name": f.name, "nbytes": f.nbytes, "digest": f.digest} for f in model.files],
        "tensors": {
            name: {"dtype": entry.dtype, "shape": list(entry.shape), "digest": entry.digest}
            for name, entry in model.tensors.items()
        },
    }


def _model_from_fields(fields: Fields, algorithm: str) -> ModelRecord:
    tensors = {}
    name, container = fields.text("name"), fields.text("format")
    for tensor, inner in sorted(fields.members("tensors").items()):
        tensors[tensor] = Entry(
            inner.dtype("dtype"), inner.shape("shape"), inner.optional_digest("digest")
        )
        inner.close()
    files = []
    for inner in fields.objects("files"):
        files.append(FileDigest(inner.text("name"), inner.number("nbytes"), inner.digest("digest")))
        inner.close()
    model = ModelRecord(
        name,
        container,
        fields.digest("structure"),
        fields.digest("root"),
        fields.numbers("totals"),
        fields.text_members("written_by"),
        fields.texts("classes"),
        tuple(files),
        tensors,
        fields.texts("select"),
        fields.texts("exclude"),
    )
    fields.close()
    check_digests(fields.place, model.structure, model.root, tensors, algorithm)
    return model


def check_digests(
    place: str, structure: str, root: str, tensors: Mapping[str, Entry], algorithm: str
) -> None:
    """MalformedInput where the digests over all tensors are not those of the tensors listed."""
    for what, stated, digest in (
        ("structure", structure, structure_digest(tensors, algorithm)),
        ("root", root, root_digest(tensors, algorithm)),
    ):
        if stated != digest:
            raise MalformedInput(
                f"{place}: the {what} digest is not that of the tensors listed: the manifest was "
                "changed after it was made",
                expected=digest,
                found=stated,
            )


def _previous_from_fields(fields: Fields) -> PreviousModel:
    changes = []
    for inner in fields.objects("changes"):
        change = {"change": inner.text("change", ARCHITECTURAL), "tensor": inner.text("tensor")}
        change |= {key: inner.text(key) for key in ("old", "new") if key in inner}
        inner.close()
        changes.append(change)
    found = PreviousModel(
        fields.text("name"), fields.digest("root"), tuple(changes), fields.number("changed")
    )
    fields.close()
    return found
