"""Layer kinds that TensorFlow states beside a checkpoint: in its graph, or in Keras 2's metadata.

`saved_model.pb`, `keras_metadata.pb` and `.meta` are evidence about the weights, not the weights:
one that cannot be read leaves a note and the kinds unsaid.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL, Tensor
from wtool.encodings.protobuf import LENGTH, expect, fields, text
from wtool.errors import InputError
from wtool.sources import FileSource, read_bytes

if TYPE_CHECKING:
    from wtool.dialects.tf_graph import Graph

# A larger graph (it holds constants, or a sea of operations) is left unread.
MAX_GRAPH_BYTES = 64 << 20

_CLASSES = {
    "Dense": "dense",
    "Conv1D": "conv",
    "Conv2D": "conv",
    "Conv3D": "conv",
    "DepthwiseConv1D": "depthwise",
    "DepthwiseConv2D": "depthwise",
    "Conv1DTranspose": "transposed_conv",
    "Conv2DTranspose": "transposed_conv",
    "Conv3DTranspose": "transposed_conv",
    "SeparableConv1D": "separable",
    "SeparableConv2D": "separable",
    "Embedding": "embedding",
    "BatchNormalization": "norm",
    "SyncBatchNormalization": "norm",
    "LayerNormalization": "norm",
    "GroupNormalization": "norm",
    "MultiHeadAttention": "attention",
    "Attention": "attention",
    "AdditiveAttention": "attention",
    "SimpleRNN": "recurrent",
    "LSTM": "recurrent",
    "GRU": "recurrent",
    "SimpleRNNCell": "recurrent",
    "LSTMCell": "recurrent",
    "GRUCell": "recurrent",
    "ConvLSTM1D": "recurrent",
    "ConvLSTM2D": "recurrent",
    "ConvLSTM3D": "recurrent",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What files beside a checkpoint say of it: notes for a user, and texts as its metadata."""

    notes: tuple[str, ...]
    metadata: dict[str, str]


def state_kinds(
    tensors: Sequence[Tensor], own_names: Sequence[str], *, prefix: str, directory: str | None
) -> Evidence:
    """Fill `kind` of `tensors` where a file beside them states it; returns what else it says.

    own_names: the variables' own names, as graphs have them, parallel to `tensors`; "" for none.
    directory: of the SavedModel; None for a checkpoint, which may have `prefix`.meta beside it.
    """
    notes: list[str] = []
    kinds: dict[str, str] = {}
    if directory is None:
        data = _read(prefix + ".meta", notes)
        graph = None if data is None else _parse(prefix + ".meta", data, notes)
    else:
        path = os.path.join(directory, "saved_model.pb")
        data = _read(path, notes)
        graph = None if data is None else _parse(path, data, notes)
        path = os.path.join(directory, "keras_metadata.pb")
        data = _read(path, notes)
        if data is not None:
            try:
                _apply_classes(tensors, _classes(data))
            except InputError as error:
                notes.append(f"{os.path.basename(path)} not used: {error}")
    if graph is not None:
        from wtool.dialects.tf_kinds import spread_to_siblings, variable_kinds

        ranks: dict[str, set[int]] = {}
        for tensor, name in zip(tensors, own_names, strict=True):
            if name and tensor.role not in BESIDE_MODEL:
                ranks.setdefault(name, set()).add(len(tensor.shape))
        # Variables that share a name are told apart by nothing that the graph has.
        single = {name: next(iter(found)) for name, found in ranks.items() if len(found) == 1}
        kinds = spread_to_siblings(variable_kinds(graph, single), single)
    for tensor, name in zip(tensors, own_names, strict=True):
        if tensor.kind is None and tensor.role not in BESIDE_MODEL:
            tensor.kind = kinds.get(name)
    version = "" if graph is None else graph.tensorflow_version
    return Evidence(tuple(notes), {"tensorflow_version": version} if version else {})


def may_have_variables(path: str) -> bool:
    """Whether the graph in `path` may have variables: only one that was read can have none."""
    data = _read(path, [])
    graph = None if data is None else _parse(path, data, [])
    if graph is None or any(filter(None, itertools.chain.from_iterable(graph.captured.values()))):
        return True
    scopes = graph.scopes.values()
    return any(operation.variable for scope in scopes for operation in scope.operations)


def _read(path: str, notes: list[str]) -> bytes | None:
    """The bytes of a file beside the checkpoint; None where there is none or it is too large."""
    if not os.path.isfile(path):
        return None
    try:
        source = FileSource(path)
        if source.size > MAX_GRAPH_BYTES:
            notes.append(
                f"{os.path.basename(path)} ({source.size} bytes) not used: more than "
                f"{MAX_GRAPH_BYTES} bytes"
            )
            return None
        return bytes(read_bytes(source, 0, source.size))
    except InputError as error:
        notes.append(f"{os.path.basename(path)} not used: {error}")
        return None


def _parse(path: str, data: bytes, notes: list[str]) -> Graph | None:
    from wtool.dialects.tf_graph import read_meta_graph, read_saved_model

    try:
        return read_meta_graph(data) if path.endswith(".meta") else read_saved_model(data)
    except InputError as error:
        notes.append(f"{os.path.basename(path)} not used: {error}")
        return None


def _classes(data: bytes) -> dict[tuple[str, ...], str]:
    """Kind by path in the object graph, from a SavedMetadata: nodes with 3 path and 5 JSON."""
    from wtool.encodings import strict_json

    classes: dict[tuple[str, ...], str] = {}
    for item in fields(data):
        if item[0] != 1:
            continue
        expect(item, LENGTH, "node of the metadata")
        path, metadata = "", b""
        for part in fields(data, item[2], item[3]):
            if part[0] in (3, 5):
                expect(part, LENGTH, "part of a node of the metadata")
                if part[0] == 3:
                    path = text(data, part[2], part[3])
                else:
                    metadata = data[part[2] : part[3]]
        if not metadata:
            continue
        value = strict_json.loads(metadata)
        name = value.get("class_name") if isinstance(value, dict) else None
        kind = _CLASSES.get(name) if isinstance(name, str) else None
        if kind is not None:
            classes[tuple(path.split(".")[1:])] = kind
    return classes


def _apply_classes(tensors: Iterable[Tensor], classes: dict[tuple[str, ...], str]) -> None:
    """The kind of the deepest layer on a variable's path that has one."""
    for tensor in tensors:
        if tensor.role in BESIDE_MODEL:
            continue
        for depth in range(len(tensor.path) - 1, 0, -1):
            kind = classes.get(tensor.path[:depth])
            if kind == "separable":
                kind = {"depthwise_kernel": "depthwise", "pointwise_kernel": "conv"}.get(
                    tensor.path[-1]
                )
            if kind is not None:
                tensor.kind = kind
                break
