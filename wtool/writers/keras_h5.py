"""Writes Keras HDF5 files (`.weights.h5` and legacy `.h5`) on a template that the target model
saved.

The template's bytes are copied, structure and attributes with them, and each dataset's values are
replaced: in place where they lie in one piece, which is how Keras writes; through h5py where they
are in chunks or were never written. Facts of a conversion are attributes of the root, which Keras
does not read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wtool.checkpoint import FACTS, Checkpoint, Tensor
from wtool.dialects.keras_legacy import is_legacy_file
from wtool.dialects.keras_legacy import read_tensors as read_legacy
from wtool.dialects.keras_weights import is_weights_file
from wtool.dialects.keras_weights import read_tensors as read_weights
from wtool.dtypes import DType
from wtool.encodings.hdf5_file import Dataset, Hdf5File, read_file
from wtool.errors import UnsupportedError, UsageError
from wtool.extents import Strided, boxes
from wtool.sources import Source, absolute
from wtool.writers.keras_template import open_template
from wtool.writers.outputs import Output, write_error
from wtool.writers.plans import (
    Plan,
    PlannedFile,
    extras_losses,
    facts_of,
    metadata_losses,
    refuse_unsupported,
    tie_losses,
)
from wtool.writers.streams import BLOCK_BYTES, byte_blocks
from wtool.writers.templates import fill

CONTAINER = "keras"
# A chunk that is written in parts is compressed once for each part: large blocks, few parts.
CHUNKED_BLOCK_BYTES = 8 << 20
# HDF5 keeps an attribute beside its object up to 64 kB.
MAX_FACT_BYTES = 60_000


@dataclass(frozen=True)
class _Change:
    """A dataset and its new values. offset: of its bytes; None where h5py must write."""

    slot: Tensor
    tensor: Tensor
    offset: int | None
    big_endian: bool


def plan(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    template: str | os.PathLike[str] | None = None,
    untie: bool = False,
) -> Plan:
    """Plan one file with the template's structure and the checkpoint's values, matched by name.

    template: `.weights.h5`, `.h5` or `.keras` of the target model. untie: tied tensors are stored
    separately.
    Raises UsageError without a template, UnsupportedError listing every tensor of another shape or
    type than the template's.
    """
    path = os.fspath(path)
    if template is None:
        raise UsageError(
            "Keras files are written on a template",
            path=path,
            hint="--template FILE: a .weights.h5, .h5 or .keras that the target model saved",
        )
    source, config = open_template(template)
    file = read_file(source)
    slots = _slots(file, template, config)
    filled = fill(list(checkpoint), slots, template, fits=_fits)
    replaced = [slot for slot in slots if filled.values[slot.name] is not slot]
    refuse_unsupported([filled.values[slot.name] for slot in replaced], CONTAINER, _no_reason)
    start = absolute(source, 0)[1]
    changes = [_change(file, start, slot, filled.values[slot.name]) for slot in replaced]
    facts = facts_of(checkpoint, max_bytes=MAX_FACT_BYTES)
    # The template may have been converted itself.
    stale = [n for n in sorted(file.root.attributes) if n.startswith(FACTS) and n not in facts]
    own = {name for group in (file.root, *file.root.groups.values()) for name in group.attributes}
    losses = [
        *(loss for loss in extras_losses(checkpoint, CONTAINER) if loss.name not in own),
        *(
            loss
            for loss in metadata_losses(checkpoint, CONTAINER, kept=facts)
            if loss.name not in own
        ),
        *([] if untie else tie_losses(checkpoint.aliases, CONTAINER)),
        *filled.losses,
    ]

    def write(output: Output) -> None:
        _copy(source, output)
        for change in changes:
            if change.offset is not None:
                _write_in_place(output, change, change.offset)
        chunked = [change for change in changes if change.offset is None]
        if chunked or facts or stale:
            _write_through_h5py(output, chunked, facts, stale)

    names = tuple(slot.name for slot in slots)
    return Plan(CONTAINER, (PlannedFile(path, source.size, write, names),), tuple(losses))


def _slots(file: Hdf5File, template: str | os.PathLike[str], config: Any) -> list[Tensor]:
    if is_legacy_file(file.root):
        return read_legacy(os.fspath(template), file)[0]
    if is_weights_file(file.root):
        return read_weights([(os.fspath(template), file)], config)[0]
    raise UnsupportedError("the template is no weights file of Keras", path=template)


def _fits(tensor: DType, slot: DType) -> bool:
    # Legacy files hold bfloat16 as bare bytes without a mark.
    return tensor is slot or (slot.name == "bits16" and tensor.name == "bfloat16")


def _no_reason(tensor: Tensor) -> None:
    """The template has the type already, so the container can hold it."""


def _change(file: Hdf5File, start: int, slot: Tensor, tensor: Tensor) -> _Change:
    """start: where the HDF5 file begins in what holds it."""
    dataset = file.root.find(slot.key)
    extent = slot.extent
    if (
        isinstance(dataset, Dataset)
        and dataset.layout.kind == "contiguous"
        and dataset.layout.address is not None
        and isinstance(extent, Strided)
    ):
        offset = absolute(extent.source, extent.offset)[1]
        return _Change(slot, tensor, offset - start, extent.big_endian)
    return _Change(slot, tensor, None, False)


def _copy(source: Source, output: Output) -> None:
    buffer = memoryview(bytearray(min(source.size, BLOCK_BYTES)))
    for start in range(0, source.size, BLOCK_BYTES):
        block = buffer[: min(BLOCK_BYTES, source.size - start)]
        source.read_into(start, block)
        output.write(block)


def _write_in_place(output: Output, change: _Change, offset: int) -> None:
    dtype = change.tensor.dtype
    for block in byte_blocks(change.tensor):
        if change.big_endian:
            output.write_at(offset, _swapped(block, dtype.itemsize // dtype.components))
        else:
            output.write_at(offset, block)
        offset += len(block)


def _swapped(block: memoryview, component: int) -> memoryview:
    """The bytes with each group of `component` bytes reversed."""
    import numpy

    return numpy.frombuffer(block, f"u{component}").byteswap().view(numpy.uint8).data


def _write_through_h5py(
    output: Output, changes: Sequence[_Change], facts: Mapping[str, str], stale: Collection[str]
) -> None:
    """Datasets in chunks, compact or never written; HDF5 keeps its own checksums of those.

    facts: attributes of the root. stale: those to be removed.
    """
    import h5py
    import numpy

    try:
        with h5py.File(output.temporary, "r+") as file:
            for change in changes:
                _fill_dataset(file[change.slot.key], change.tensor)
            for name in stale:
                del file.attrs[name]
            for name, text in facts.items():
                file.attrs[name] = numpy.bytes_(text.encode())
    except OSError as error:
        raise write_error(output.path, error) from error


def _fill_dataset(dataset: object, tensor: Tensor) -> None:
    start = 0
    for values in tensor.blocks(CHUNKED_BLOCK_BYTES):
        # HDF5 has no bfloat16: Keras stores two bare bytes.
        stored = values.view("V2") if tensor.dtype.name == "bfloat16" else values
        for starts, stops, first, last in boxes(tensor.shape, start, start + len(values)):
            sizes = [b - a for a, b in zip(starts, stops, strict=True)]
            place = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
            piece = stored[first - start : last - start].reshape(sizes)
            dataset[place] = piece  # type: ignore[index]
        start += len(values)
