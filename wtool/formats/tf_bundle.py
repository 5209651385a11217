"""TensorFlow V2 checkpoints: a prefix, an index, a data file, a directory, a SavedModel.

What is shown for an object-based checkpoint: the variable's own name where it is unique in the
file, else its path in the object graph; `Tensor.key` is always the stored key.
"""

from __future__ import annotations

import os

from wtool.checkpoint import Checkpoint, build
from wtool.dialects.tf_bundle import DATA_NAME, read_bundle
from wtool.dialects.tf_evidence import may_have_variables, state_kinds
from wtool.dialects.tf_objects import name_tensors
from wtool.dialects.tf_paths import Target, find_target, siblings
from wtool.errors import MissingInput
from wtool.formats import Format, Probe, refuse_root


def claims(probe: Probe) -> bool:
    """Whether the path leads to a V2 bundle or a SavedModel."""
    target = find_target(probe.path)
    return target is not None and target.kind != "v1"


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The checkpoint; reads the index and the object graph, no other tensor."""
    refuse_root(root, "a TensorFlow checkpoint")
    target = find_target(probe.path)
    if target is None:
        raise MissingInput("no TensorFlow checkpoint", path=probe.path)
    if not os.path.exists(target.prefix + ".index"):
        return _without_index(probe, target)
    bundle = read_bundle(target.prefix)
    named = name_tensors(bundle.tensors)
    evidence = state_kinds(
        named.tensors, named.own_names, prefix=target.prefix, directory=target.directory
    )
    return build(
        probe.path,
        FORMAT.name,
        named.tensors,
        extras=named.extras,
        metadata={**evidence.metadata, **dict(bundle.header.facts)},
        notes=(*target.notes, *bundle.notes, *named.notes, *evidence.notes),
        files=bundle.files,
    )


def _without_index(probe: Probe, target: Target) -> Checkpoint:
    """An empty checkpoint for a SavedModel whose graph has no variables; else MissingInput."""
    index = target.prefix + ".index"
    data = siblings(target.prefix, DATA_NAME)
    if data:
        raise MissingInput(
            "the checkpoint's index is missing",
            path=index,
            hint=f"{os.path.basename(data[0])} holds values without names or shapes",
        )
    if target.directory is None:
        raise MissingInput(
            "no such checkpoint", path=target.prefix, expected=f"a file {os.path.basename(index)}"
        )
    graph = os.path.join(target.directory, "saved_model.pb")
    if not os.path.isfile(graph) or may_have_variables(graph):
        raise MissingInput("the SavedModel's variables are missing", path=index)
    note = "the model has no variables; constants inside its graph are not weights to wtool"
    return build(probe.path, FORMAT.name, (), notes=(note,), files=(graph,))


FORMAT = Format("tensorflow", "TensorFlow checkpoint", (".index",), claims, open_file)
