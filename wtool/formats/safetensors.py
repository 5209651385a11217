"""safetensors: a length, a JSON header, the data. One file; shards are joined by `sharded`.

Tensors are in the order of their bytes, which is the order that the reference's `offset_keys` gives
(a header's own key order is free). F4 and F6 shapes count elements, not bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dtypes import BY_SAFETENSORS
from wtool.errors import WtoolError, counted
from wtool.extents import Geometry, Strided, geometry
from wtool.formats import Format, Probe, refuse_root
from wtool.sources import Source

if TYPE_CHECKING:
    from wtool.encodings.safetensors_header import Header

JSON_WHITESPACE = b" \t\r\n"
# `{"format": "pt"}` says which framework wrote the file, whatever a tensor may be called.
WRITER_KEYS = frozenset({"format"})
# What torch.distributed writes in each of its files: where the tensors in it begin in the whole.
PARTS_KEY = "DCP_SHARDING_INFO"


def claims(probe: Probe) -> bool:
    """A sound header length, then an opening brace."""
    head = probe.head
    if len(head) < 10 or not head[8:].lstrip(JSON_WHITESPACE).startswith(b"{"):
        return False
    from wtool.encodings.safetensors_header import MAX_HEADER_NBYTES

    length = int.from_bytes(head[:8], "little")
    return 0 < length <= MAX_HEADER_NBYTES and not head.startswith(b"PK\x03\x04")


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The tensors of one file; every rule of the header is checked, no tensor byte is read."""
    from wtool.encodings.safetensors_header import read_header

    refuse_root(root, "a safetensors file")
    source = probe.source
    header = read_header(source)
    tensors = read_tensors(source, header)
    aliases = alias_tensors(header.metadata, {tensor.name: tensor for tensor in tensors})
    return build(
        probe.path,
        FORMAT.name,
        [*tensors, *aliases],
        metadata=header.metadata,
        notes=(*unknown_field_notes(header), *part_notes(header), *alias_notes(aliases)),
    )


def read_tensors(source: Source, header: Header) -> list[Tensor]:
    """The tensors that `header` describes, lazy, in the order of their bytes."""
    tensors = []
    known: dict[tuple[str, tuple[int, ...]], Geometry] = {}
    for name, (dtype, shape, begin, end) in header.entries:
        try:
            held = known.get((dtype, shape))
            if held is None:
                held = known[dtype, shape] = geometry(BY_SAFETENSORS[dtype], shape)
            extent = Strided.of_geometry(held, source, header.data_start + begin, end - begin)
        except WtoolError as error:
            raise error.locate(tensor=name) from error
        tensors.append(Tensor(name, name, extent))
    return tensors


def unknown_field_notes(header: Header) -> tuple[str, ...]:
    """A note where tensors have undefined fields, for readers may differ on them."""
    names = header.unknown_fields
    if not names:
        return ()
    tensors = counted(len(names), "tensor has", "tensors have")
    return (f"{tensors} fields that the format lacks, first '{names[0]}': ignored",)


def part_notes(header: Header) -> tuple[str, ...]:
    """A note where the file is one rank's, whose tensors are parts in their own shapes."""
    if PARTS_KEY not in header.metadata:
        return ()
    return (
        "saved by torch.distributed: tensors may be the parts that one rank had; "
        "torch's consolidate_safetensors_files joins them",
    )


def alias_tensors(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Tied tensors that were left out on saving: metadata says {removed name: kept name}.

    Only where the kept name is a tensor and the removed one is not. Each has the kept tensor's
    extent, and the kept name as its key.
    """
    return [
        Tensor(removed, kept, tensors[kept].extent)
        for removed, kept in metadata.items()
        if removed not in WRITER_KEYS and removed not in tensors and kept in tensors
    ]


def alias_notes(aliases: Iterable[Tensor]) -> tuple[str, ...]:
    """One note for each tensor that stands in the metadata only."""
    return tuple(
        f"'{tensor.name}' is not stored: the metadata says that it is '{tensor.key}'"
        for tensor in aliases
    )


FORMAT = Format(
    name="safetensors",
    title="safetensors",
    suffixes=(".safetensors",),
    claims=claims,
    open_file=open_file,
)
