"""A model split over several files, joined by an index: `{"metadata": {...}, "weight_map": {...}}`.

Hugging Face's `*.safetensors.index.json` and `*.bin.index.json`: the map gives each tensor's file
(Keras's `*.weights.json` is another format, `keras_shards`). Tensors are in
the order of the map. Each shard is opened by its own format, whichever that is.

An index is untrusted: its shards must lie beside it, each named tensor must be in its shard.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from wtool.checkpoint import Checkpoint, Tensor, build, find_aliases
from wtool.encodings import strict_json
from wtool.errors import MalformedInput, MissingInput, UnsafeInput, counted
from wtool.formats import Format, Probe, open_probe, refuse_root
from wtool.formats.safetensors import alias_notes, alias_tensors
from wtool.sources import Descriptors, read_bytes

MAX_INDEX_NBYTES = 100_000_000
MAX_SHARDS = 100_000
# How many names a message lists before it says "...".
MAX_LISTED = 3
SUFFIXES = (".safetensors.index.json", ".bin.index.json")


def claims(probe: Probe) -> bool:
    """A JSON object with a weight map; in a long file whose map begins late, the name helps."""
    return looks_like_index(probe, SUFFIXES) and not is_of_keras(probe)


def looks_like_index(probe: Probe, suffixes: tuple[str, ...]) -> bool:
    """Whether a file is a JSON object with a weight map, as its first bytes and name tell."""
    if not probe.head.lstrip(b" \t\r\n").startswith(b"{"):
        return False
    return b'"weight_map"' in probe.head or probe.name.lower().endswith(suffixes)


def is_of_keras(probe: Probe) -> bool:
    """Whether the shards are Keras's, whose map has a format of its own."""
    return b'.weights.h5"' in probe.head or probe.name.lower().endswith(".weights.json")


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The tensors of all shards, in the order of the index; every named shard is opened."""
    refuse_root(root, "a sharded model")
    index = read_index(probe)
    weight_map = index["weight_map"]
    by_shard = group_by_shard(weight_map)
    shards = open_shard_files(os.path.dirname(probe.path), by_shard)
    tensors = [find_tensor(name, shard, shards) for name, shard in weight_map.items()]
    metadata = merge_metadata(index.get("metadata"), shards)
    aliases = alias_tensors(metadata, {tensor.name: tensor for tensor in tensors})
    ordered = sorted(shards)
    return build(
        probe.path,
        FORMAT.name,
        [*tensors, *aliases],
        metadata=metadata,
        extras={key: value for name in ordered for key, value in shards[name].extras.items()},
        notes=(
            *size_notes(metadata, tensors),
            *unnamed_notes(weight_map, shards),
            *alias_notes(aliases),
        ),
        globals=merge_globals(shards),
        files=(probe.path, *(shards[name].path for name in ordered)),
    )


def read_index(probe: Probe) -> dict[str, Any]:
    """The index, its outer form checked: an object with an object `weight_map`."""
    size = probe.source.size
    if size > MAX_INDEX_NBYTES:
        raise UnsafeInput(
            "index too large", expected=f"at most {MAX_INDEX_NBYTES} bytes", found=size
        )
    index = strict_json.loads(read_bytes(probe.source, 0, size))
    if type(index) is not dict or type(index.get("weight_map")) is not dict:
        raise MalformedInput("index has no weight_map", expected='{"weight_map": {tensor: file}}')
    return index


def group_by_shard(weight_map: Mapping[str, Any]) -> dict[str, int]:
    """How many tensors the map expects in each shard; every file name is checked."""
    counts: dict[str, int] = {}
    for name, shard in weight_map.items():
        if type(shard) is not str:
            raise MalformedInput("weight_map value is not a file name", tensor=name)
        if shard not in counts:
            check_shard_name(shard, name)
        counts[shard] = counts.get(shard, 0) + 1
    if len(counts) > MAX_SHARDS:
        raise UnsafeInput("too many shards", expected=f"at most {MAX_SHARDS}", found=len(counts))
    folded: dict[str, str] = {}
    for shard in counts:
        other = folded.setdefault(shard.casefold(), shard)
        if other != shard:
            raise UnsafeInput(
                "shard names differ in case only: one file on some systems",
                found=f"'{other}' and '{shard}'",
            )
    return counts


def check_shard_name(shard: str, tensor: str) -> None:
    """UnsafeInput unless `shard` is the plain name of a file in the index's own folder."""
    if shard in ("", ".", "..") or any(c in shard for c in "/\\:\0") or not shard.isprintable():
        raise UnsafeInput(
            "shard is not a plain file name",
            tensor=tensor,
            expected="a file in the folder of the index",
            found=repr(shard[:200]),
        )


def open_shard_files(folder: str, counts: Mapping[str, int]) -> dict[str, Checkpoint]:
    """Every shard by its name; MissingInput names the absent ones before any is opened."""
    missing = [shard for shard in counts if not os.path.isfile(os.path.join(folder, shard))]
    if missing:
        lost = sum(counts[shard] for shard in missing)
        present = len(counts) - len(missing)
        raise MissingInput(
            f"shard not found: {listed(missing)}",
            expected=f"{len(counts)} shards beside the index",
            found=f"{present}, so {lost} of {sum(counts.values())} tensors are missing",
            hint="fetch the missing files into the same folder",
        )
    shards = {}
    descriptors = Descriptors()
    for shard in counts:
        probe = Probe(os.path.join(folder, shard), descriptors=descriptors)
        if claims(probe):
            raise MalformedInput("shard is itself an index", path=probe.path)
        shards[shard] = open_probe(probe, root=".")
    return shards


def find_tensor(name: str, shard: str, shards: Mapping[str, Checkpoint]) -> Tensor:
    """The tensor `name` of its shard; where another shard has it, the error says so."""
    tensor = shards[shard].tensors.get(name)
    if tensor is not None:
        return tensor
    elsewhere = [other for other, checkpoint in shards.items() if name in checkpoint.tensors]
    raise MalformedInput(
        "tensor is not in the shard that the index names",
        tensor=name,
        expected=f"in {shard}",
        found=f"in {elsewhere[0]}" if elsewhere else "in none of the shards",
    )


def merge_metadata(stated: Any, shards: Mapping[str, Checkpoint]) -> dict[str, str]:
    """The index's metadata as text over that of the shards; of these the first with a key wins."""
    merged: dict[str, str] = {}
    for name in sorted(shards):
        for key, text in shards[name].metadata.items():
            merged.setdefault(key, text)
    if type(stated) is dict:
        for key, value in stated.items():
            if isinstance(value, str | int):
                merged[key] = str(value)
    return merged


def merge_globals(shards: Mapping[str, Checkpoint]) -> dict[str, int]:
    """How often each global is mentioned in all shards together."""
    counts: dict[str, int] = {}
    for name in sorted(shards):
        for key, count in shards[name].globals.items():
            counts[key] = counts.get(key, 0) + count
    return counts


def size_notes(metadata: Mapping[str, str], tensors: list[Tensor]) -> tuple[str, ...]:
    """A note where total_size is not the size of the tensors; nothing relies on it.

    Old transformers count a tied tensor under each of its names, huggingface_hub only once.
    """
    stated = metadata.get("total_size")
    actual = sum(tensor.nbytes for tensor in tensors)
    if stated is None or stated.removesuffix(".0") == str(actual):
        return ()
    tied = find_aliases(tensors)
    if stated == str(sum(tensor.nbytes for tensor in tensors if tensor.name not in tied)):
        return ()
    return (f"the index says total_size {stated[:40]}, the tensors take {actual} bytes",)


def unnamed_notes(
    weight_map: Mapping[str, Any], shards: Mapping[str, Checkpoint]
) -> tuple[str, ...]:
    """Notes of the shards, and one for each with tensors that the index does not place there."""
    notes = []
    for shard in sorted(shards):
        checkpoint = shards[shard]
        unnamed = [
            t.name for t in checkpoint if weight_map.get(t.name) != shard and t.key == t.name
        ]
        if unnamed:
            tensors = counted(len(unnamed), "tensor is", "tensors are")
            notes.append(f"{shard}: {tensors} not named by the index, left out: {listed(unnamed)}")
        notes.extend(f"{shard}: {note}" for note in checkpoint.notes)
    return tuple(notes)


def listed(names: list[str]) -> str:
    """The first few names, quoted, and how many more there are."""
    text = ", ".join(f"'{name}'" for name in names[:MAX_LISTED])
    return text if len(names) <= MAX_LISTED else f"{text} and {len(names) - MAX_LISTED} more"


FORMAT = Format(
    name="sharded",
    title="sharded model (index file)",
    suffixes=SUFFIXES,
    claims=claims,
    open_file=open_file,
)
