"""Freezing manifests: which tensors fine-tuning may change, and digests that prove it. Schema 1.

The file is JSON with these fields, in this order:

    kind "wtool freezing manifest", schema 1, digest, method, model, format, structure, root,
    default "frozen" or "trained", rules: [{rule, value?}], totals,
    tensors: {name: {state, role, kind, layer, replaceable?, dtype, shape, digest}}

`state` is "frozen" or "trained"; a "trained" buffer is one that may change. Roles are "weight",
"bias", "buffer" and "unknown"; optimizer state and EMA copies are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wtool.checkpoint import ROLES, Checkpoint
from wtool.errors import MalformedInput
from wtool.kernels.digest import METHOD
from wtool.manifests.entries import Entry, root_digest, structure_digest
from wtool.manifests.fields import Fields
from wtool.manifests.release import check_digests, model_name
from wtool.manifests.rules import RULES, STATES, Rule

KIND = "wtool freezing manifest"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class FrozenTensor:
    """One tensor: what it is, and whether it may change. replaceable: another shape, or its
    absence, is accepted."""

    entry: Entry
    state: str
    role: str
    kind: str
    layer: str
    replaceable: bool = False

    @property
    def is_frozen(self) -> bool:
        """Whether it must stay bit-identical."""
        return self.state == "frozen"


@dataclass(frozen=True, slots=True)
class FreezingManifest:
    """Which tensors of a model are frozen. `rules` in the order given; `default` for the rest."""

    algorithm: str
    model: str
    format: str
    structure: str
    root: str
    default: str
    rules: tuple[Rule, ...]
    totals: Mapping[str, int]
    tensors: Mapping[str, FrozenTensor]

    @property
    def entries(self) -> dict[str, Entry]:
        """Type, shape and digest of every tensor by name."""
        return {name: tensor.entry for name, tensor in self.tensors.items()}


def make_manifest(
    checkpoint: Checkpoint,
    entries: Mapping[str, Entry],
    states: Mapping[str, str],
    replaceable: frozenset[str],
    *,
    algorithm: str,
    default: str,
    rules: Sequence[Rule],
    totals: Mapping[str, int],
) -> FreezingManifest:
    """The manifest of the tensors in `states`, with their digests in `entries`."""
    chosen = {name: entries[name] for name in sorted(states)}
    tensors = {}
    for name, entry in chosen.items():
        tensor = checkpoint[name]
        tensors[name] = FrozenTensor(
            entry,
            states[name],
            tensor.role or "unknown",
            tensor.kind or "unknown",
            tensor.layer or "",
            name in replaceable,
        )
    return FreezingManifest(
        algorithm,
        model_name(checkpoint.path),
        checkpoint.format,
        structure_digest(chosen, algorithm),
        root_digest(chosen, algorithm),
        default,
        tuple(rules),
        totals,
        tensors,
    )


def to_json(manifest: FreezingManifest) -> dict[str, Any]:
    """The manifest as JSON values, in the order of the file."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "digest": manifest.algorithm,
        "method": METHOD,
        "model": manifest.model,
        "format": manifest.format,
        "structure": manifest.structure,
        "root": manifest.root,
        "default": manifest.default,
        "rules": [
            {"rule": rule.name} | ({} if rule.value is None else {"value": rule.value})
            for rule in manifest.rules
        ],
        "totals": dict(manifest.totals),
        "tensors": {
            name: {
                "state": tensor.state,
                "role": tensor.role,
                "kind": tensor.kind,
                "layer": tensor.layer,
                **({"replaceable": True} if tensor.replaceable else {}),
                "dtype": tensor.entry.dtype,
                "shape": list(tensor.entry.shape),
                "digest": tensor.entry.digest,
            }
            for name, tensor in manifest.tensors.items()
        },
    }


def from_fields(fields: Fields) -> FreezingManifest:
    """The manifest of a JSON object whose kind and schema were read; see release.from_fields."""
    algorithm = fields.algorithm("digest")
    fields.text("method", (METHOD,))
    rules = []
    for inner in fields.objects("rules"):
        rules.append(Rule(inner.text("rule", tuple(RULES)), inner.optional_text("value")))
        inner.close()
    tensors = {}
    for name, inner in sorted(fields.members("tensors").items()):
        tensors[name] = FrozenTensor(
            Entry(inner.dtype("dtype"), inner.shape("shape"), inner.optional_digest("digest")),
            inner.text("state", STATES),
            inner.text("role", ROLES),
            inner.text("kind"),
            inner.text("layer"),
            inner.flag("replaceable"),
        )
        inner.close()
        if tensors[name].replaceable and tensors[name].is_frozen:
            raise MalformedInput("a frozen tensor cannot be replaceable", tensor=name)
    manifest = FreezingManifest(
        algorithm,
        fields.text("model"),
        fields.text("format"),
        fields.digest("structure"),
        fields.digest("root"),
        fields.text("default", STATES),
        tuple(rules),
        fields.numbers("totals"),
        tensors,
    )
    fields.close()
    check_digests("manifest", manifest.structure, manifest.root, manifest.entries, algorithm)
    return manifest
