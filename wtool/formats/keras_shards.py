"""Keras's sharded weights: `NAME.weights.json` maps groups of variables to `.weights.h5` files.

A value is the name of one file (`NAME_00000.weights.h5`) or a list of names. As with all indexes,
the files must lie beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Checkpoint, build
from wtool.errors import MalformedInput, MissingInput, counted
from wtool.formats import Format, Probe, refuse_root
from wtool.formats.sharded import (
    check_shard_name,
    is_of_keras,
    listed,
    looks_like_index,
    read_index,
)
from wtool.sources import Descriptors

if TYPE_CHECKING:
    from wtool.encodings.hdf5_file import Hdf5File

SUFFIXES = (".weights.json",)


def claims(probe: Probe) -> bool:
    """A JSON object with a weight map that names `.weights.h5` files."""
    return looks_like_index(probe, SUFFIXES) and is_of_keras(probe)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The variables of all shards as one model."""
    from wtool.dialects.keras_entries import opaque_notes
    from wtool.dialects.keras_weights import read_tensors
    from wtool.encodings.hdf5_file import Group

    refuse_root(root, "a sharded model")
    index = read_index(probe)
    groups = parse_map(index["weight_map"])
    shards = open_shard_files(os.path.dirname(probe.path), groups)
    for group, names in groups.items():
        for name in names:
            if not isinstance(shards[name][1].root.find(group), Group):
                raise MalformedInput(f"shard without the group '{group}'", path=shards[name][0])
    tensors, notes = read_tensors(shards[name] for name in sorted(shards))
    return build(
        probe.path,
        FORMAT.name,
        tensors,
        metadata=read_metadata(index.get("metadata")),
        notes=(*unnamed_notes(groups, shards), *notes, *opaque_notes(tensors)),
        files=(probe.path, *(shards[name][0] for name in sorted(shards))),
    )


def parse_map(weight_map: dict[str, Any]) -> dict[str, list[str]]:
    """Path of a group, without its leading slash -> names of files, each checked."""
    groups = {}
    for group, names in weight_map.items():
        files = [names] if type(names) is str else names
        if type(files) is not list or not all(type(name) is str for name in files):
            raise MalformedInput("weight_map value is not a list of file names", tensor=group)
        for name in files:
            check_shard_name(name, group)
        groups[group.removeprefix("/")] = files
    return groups


def open_shard_files(folder: str, groups: dict[str, list[str]]) -> dict[str, tuple[str, Hdf5File]]:
    """Name of a shard -> (its path, its tree); MissingInput where one is not there."""
    names = sorted({name for files in groups.values() for name in files})
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise MissingInput(
            f"shard not found: {listed(missing)}",
            expected=f"{len(names)} shards beside the index",
            found=len(names) - len(missing),
            hint="fetch the missing files into the same folder",
        )
    shards = {}
    descriptors = Descriptors()
    for name in names:
        probe = Probe(os.path.join(folder, name), descriptors=descriptors)
        file = probe.hdf5
        if file is None:
            raise MalformedInput("shard is not an HDF5 file", path=probe.path)
        shards[name] = (probe.path, file)
    return shards


def read_metadata(stated: Any) -> dict[str, str]:
    """The plain values of the index's metadata, as text."""
    if type(stated) is not dict:
        return {}
    return {key: str(value) for key, value in stated.items() if isinstance(value, str | int)}


def unnamed_notes(
    groups: dict[str, list[str]], shards: dict[str, tuple[str, Hdf5File]]
) -> tuple[str, ...]:
    """A note where shards hold variables in groups that the index does not place there."""
    unnamed = []
    for name in sorted(shards):
        pending = [shards[name][1].root]
        while pending:
            group = pending.pop()
            pending.extend(group.groups.values())
            if group.datasets and name not in groups.get(group.path, ()):
                unnamed.append(f"{name}: {group.path}")
    if not unnamed:
        return ()
    paths = counted(len(unnamed), "group is", "groups are")
    return (f"{paths} in shards but not in the index: {listed(sorted(unnamed))}",)


FORMAT = Format(
    name="keras_shards",
    title="Keras weights in shards (index file)",
    suffixes=SUFFIXES,
    claims=claims,
    open_file=open_file,
)
