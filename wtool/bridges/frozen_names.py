"""The names of a live model held against those of a freezing manifest: every one must match."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence

from wtool.errors import UsageError, shorten
from wtool.manifests.document import load
from wtool.manifests.freezing import FreezingManifest

# So many names an error spells out.
_SHOWN = 3


def open_manifest(manifest: FreezingManifest | str | os.PathLike[str]) -> FreezingManifest:
    """The manifest, read where a path is given; UsageError for a release manifest."""
    loaded = manifest if isinstance(manifest, FreezingManifest) else load(os.fspath(manifest))
    if not isinstance(loaded, FreezingManifest):
        raise UsageError("this is no freezing manifest", found="a release manifest")
    return loaded


def match_names(
    manifest: FreezingManifest, shapes: Mapping[str, Sequence[int]], added: Sequence[str]
) -> set[str]:
    """The names of the model that the manifest does not hold, all matched by a glob of `added`.

    shapes: of every parameter and buffer of the live model, by name. UsageError where a name of
    the manifest is not in the model, unless it is replaceable; where a name of the model is neither
    in the manifest nor matched by `added`; where a shape differs and is not replaceable.
    """
    lost = [
        name for name, t in manifest.tensors.items() if name not in shapes and not t.replaceable
    ]
    if lost:
        raise UsageError(
            f"the model has no {_listed(lost)}, which the manifest of {manifest.model} names"
        )
    new = {name for name in shapes if name not in manifest.tensors}
    unknown = [n for n in shapes if n in new and not any(fnmatch.fnmatchcase(n, a) for a in added)]
    if unknown:
        raise UsageError(
            f"the manifest of {manifest.model} does not name {_listed(unknown)}",
            hint="added=['PATTERN'] names the new tensors",
        )
    for name, tensor in manifest.tensors.items():
        shape = tuple(shapes.get(name, tensor.entry.shape))
        if shape != tensor.entry.shape and not tensor.replaceable:
            raise UsageError(
                "the model has another shape, and the manifest does not let it be replaced",
                tensor=name,
                expected=tensor.entry.shape,
                found=shape,
            )
    return new


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{shorten(name)}'" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
