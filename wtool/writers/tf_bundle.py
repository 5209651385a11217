"""Writes TensorFlow V2 checkpoints: PREFIX.data-?????-of-?????, PREFIX.index, and on request the
`checkpoint` file that names the newest one in its folder.

Without a template, each tensor's key is its name: what `tf.train.load_checkpoint` and a v1 `Saver`
ask for. With a template (a checkpoint that the target model saved) the keys and the object graph
are the template's, so that `tf.train.Checkpoint.read` restores it. Facts of a conversion lie in the
index's header: see `tf_entries.FACT_FIELD`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dialects.tf_bundle import data_path, read_bundle
from wtool.dialects.tf_extents import BundleOpaque
from wtool.dialects.tf_objects import GRAPH_KEY, name_tensors
from wtool.dialects.tf_paths import find_target
from wtool.dialects.tf_records import entry_record, header_record, state_text, strings_record
from wtool.encodings.checksums import crc32c, mask
from wtool.encodings.sorted_table_writer import table_bytes
from wtool.errors import MissingInput, UnsupportedError, UsageError
from wtool.writers.outputs import Output
from wtool.writers.plans import (
    Loss,
    Plan,
    PlannedFile,
    extras_losses,
    facts_of,
    metadata_losses,
    refuse_unsupported,
    tie_losses,
)
from wtool.writers.streams import BLOCK_BYTES, copy_values, stored_size
from wtool.writers.templates import fill

CONTAINER = "tensorflow"
STATE_NAME = "checkpoint"
# TensorFlow's own sharded files have five digits.
MAX_SHARDS = 99_999


@dataclass(eq=False)
class _Value:
    """One stored value. keys: those that it is found under. place: filled while it is written."""

    keys: list[bytes]
    tensor: Tensor
    shard: int = 0
    offset: int = 0
    nbytes: int = 0
    masked_crc: int = 0


@dataclass
class _Layout:
    values: list[_Value] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


def plan(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    template: str | os.PathLike[str] | None = None,
    state: bool = False,
    untie: bool = False,
    max_shard_bytes: int | None = None,
) -> Plan:
    """Plan the files of the checkpoint with prefix `path` (`path` may end in `.index`).

    template: a checkpoint of the target model: prefix, index or folder. state: write the
    `checkpoint` file too. untie: accept that tied tensors are stored separately.
    max_shard_bytes: largest sum of tensors in one data file.
    Raises UnsupportedError listing every tensor that TensorFlow or the template cannot hold.
    """
    prefix = os.fspath(path).removesuffix(".index")
    if not os.path.basename(prefix):
        raise UsageError("a checkpoint needs a name, not only a folder", path=path)
    layout = _by_name(checkpoint) if template is None else _by_template(checkpoint, template)
    facts = facts_of(checkpoint)
    losses = [
        *extras_losses(checkpoint, CONTAINER),
        *metadata_losses(checkpoint, CONTAINER, kept=facts),
        *([] if untie else tie_losses(checkpoint.aliases, CONTAINER)),
        *layout.losses,
    ]
    shards = _split(layout.values, max_shard_bytes)
    files = [
        _data_file(data_path(prefix, number, len(shards)), values)
        for number, values in enumerate(shards)
    ]
    files.append(_index_file(prefix, layout.values, len(shards), facts))
    if state:
        text = state_text(os.path.basename(prefix))
        state_path = os.path.join(os.path.dirname(prefix), STATE_NAME)
        files.append(PlannedFile(state_path, len(text), lambda output: output.write(text)))
    return Plan(CONTAINER, tuple(files), tuple(losses))


def _by_name(checkpoint: Checkpoint) -> _Layout:
    """Every tensor under its name; an object graph of the source would name other keys."""
    layout = _Layout()
    tensors = [tensor for tensor in checkpoint if tensor.name != GRAPH_KEY]
    refuse_unsupported(tensors, CONTAINER, _reason_against)
    if len(tensors) < len(checkpoint):
        reason = "the graph of objects belongs to other keys; give a template"
        layout.losses.append(Loss("structure", GRAPH_KEY, reason))
    layout.values = [_Value([_encoded(tensor.name)], tensor) for tensor in tensors]
    _sort(layout.values)
    return layout


def _by_template(checkpoint: Checkpoint, template: str | os.PathLike[str]) -> _Layout:
    """The template's keys with the checkpoint's values, matched by name, or by key."""
    target = find_target(os.fspath(template))
    if target is None or target.kind == "v1":
        raise MissingInput("no TensorFlow V2 checkpoint to take as template", path=template)
    bundle = read_bundle(target.prefix)
    if bundle.header.big_endian:
        raise UnsupportedError("the template is big-endian", path=template)
    named = name_tensors(bundle.tensors)
    supplied = [tensor for tensor in checkpoint if tensor.name != GRAPH_KEY]
    own = {GRAPH_KEY, *(t.name for t in named.tensors if t.key.startswith("save_counter/"))}
    filled = fill(supplied, named.tensors, template, keep=own)
    refuse_unsupported(
        [t for t in filled.values.values() if t.name != GRAPH_KEY], CONTAINER, _reason_against
    )
    layout = _Layout(losses=filled.losses)
    by_name = {}
    for slot in named.tensors:
        value = _Value([_encoded(slot.key)], filled.values[slot.name])
        by_name[slot.name] = value
        layout.values.append(value)
    # An export stores some values twice; the second key points at the same bytes.
    for key, name in named.extras.get("duplicates", {}).items():
        by_name[name].keys.append(_encoded(key))
    _sort(layout.values)
    return layout


def _reason_against(tensor: Tensor) -> str | None:
    if tensor.dtype.tensorflow_enum is None:
        return f"type {tensor.dtype.name}"
    if tensor.dtype.kind == "opaque" and not isinstance(tensor.extent, BundleOpaque):
        return f"type {tensor.dtype.name}"
    if not tensor.name or tensor.name.startswith("\x00") or not _is_encodable(tensor.name):
        return "a name that no key can be"
    return None


def _is_encodable(name: str) -> bool:
    try:
        _encoded(name)
    except UnicodeEncodeError:
        return False
    return True


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _sort(values: list[_Value]) -> None:
    values.sort(key=lambda value: value.keys[0])


def _split(values: Iterable[_Value], max_shard_bytes: int | None) -> list[list[_Value]]:
    """Data files of at most that many bytes each, at least one file, values in key order."""
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise UsageError("bad shard size", expected="at least 1 byte", found=max_shard_bytes)
    shards: list[list[_Value]] = [[]]
    size = 0
    for value in values:
        nbytes = _announced_size(value.tensor)
        if max_shard_bytes is not None and shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        value.shard = len(shards) - 1
        shards[-1].append(value)
        size += nbytes
    if len(shards) > MAX_SHARDS:
        raise UsageError(
            "shards too small", expected=f"at most {MAX_SHARDS} files", found=len(shards)
        )
    return shards


def _announced_size(tensor: Tensor) -> int:
    return stored_size(tensor, unpacked=True) if tensor.dtype.bits else tensor.nbytes


def _data_file(path: str, values: list[_Value]) -> PlannedFile:
    def write(output: Output) -> None:
        for value in values:
            value.offset = output.position
            value.masked_crc = _write_value(value.tensor, output)
            value.nbytes = output.position - value.offset

    nbytes = sum(_announced_size(value.tensor) for value in values)
    return PlannedFile(path, nbytes, write, tuple(value.tensor.name for value in values))


def _write_value(tensor: Tensor, output: Output) -> int:
    """Append one value; its masked checksum."""
    if isinstance(tensor.extent, BundleOpaque):
        return _copy_opaque(tensor.extent, output)
    if tensor.dtype.kind == "string":
        data, masked = strings_record(
            element for block in tensor.blocks(BLOCK_BYTES) for element in map(_as_bytes, block)
        )
        output.write(data)
        return masked
    return mask(copy_values(tensor, output, checksum=crc32c, unpacked=True))


def _as_bytes(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode("utf-8", "surrogateescape")
    raise UnsupportedError(f"an element of a string tensor is {type(element).__name__}")


def _copy_opaque(extent: BundleOpaque, output: Output) -> int:
    """A variant of the template as it is stored, with the checksum that is stored for it."""
    buffer = bytearray(extent.storage_nbytes)
    extent.source.read_into(extent.base, buffer)
    output.write(buffer)
    return extent.crc32c


def _index_file(
    prefix: str, values: list[_Value], num_shards: int, facts: Mapping[str, str]
) -> PlannedFile:
    def records() -> list[tuple[bytes, bytes]]:
        entries = [(b"", header_record(num_shards, facts))]
        for value in values:
            record = entry_record(
                value.tensor.dtype,
                value.tensor.shape,
                shard=value.shard,
                offset=value.offset,
                nbytes=value.nbytes,
                masked_crc=value.masked_crc,
            )
            entries.extend((key, record) for key in value.keys)
        return sorted(entries)

    def write(output: Output) -> None:
        output.write(table_bytes(records()))

    # Offsets and checksums are known after the data; the key bytes are a fair lower bound.
    nbytes = sum(len(key) for value in values for key in value.keys)
    return PlannedFile(prefix + ".index", nbytes, write)
