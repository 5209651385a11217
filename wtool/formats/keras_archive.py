"""Keras's `.keras`: a zip file with `model.weights.h5` and the configuration of the model.

The weights are read where they lie, without extracting. The configuration names the class of each
layer; it is read as data and never deserialised, as it may hold code (Lambda layers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Checkpoint, build
from wtool.encodings import strict_json
from wtool.errors import InputError, MalformedInput, WtoolError, counted
from wtool.formats import Format, Probe, refuse_root
from wtool.sources import BytesSource, Source

if TYPE_CHECKING:
    from wtool.encodings.zip_directory import ZipDirectory

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
MAX_CONFIG_NBYTES = 64 << 20
# Keras stores its members; a member that someone deflated is inflated into memory up to this size.
MAX_INFLATED_NBYTES = 1 << 30


def claims(probe: Probe) -> bool:
    """A zip file with weights and configuration at its top."""
    names = probe.zip_names
    return WEIGHTS in names and CONFIG in names


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Every variable, with layer names and classes from the configuration."""
    from wtool.dialects.keras_entries import opaque_notes
    from wtool.dialects.keras_weights import read_tensors
    from wtool.encodings.hdf5_file import read_file

    refuse_root(root, "a .keras file")
    directory = probe.zip_directory
    if directory is None or WEIGHTS not in directory.positions:
        raise MalformedInput(f"zip file without {WEIGHTS}", path=probe.path)
    try:
        file = read_file(weights_source(directory))
    except WtoolError as error:
        error.message = f"{WEIGHTS}: {error.message}"
        raise error.locate(path=probe.path) from error.__cause__
    text = read_text(directory, CONFIG)
    config, notes = parse_config(text)
    tensors, remarks = read_tensors([(probe.path, file)], config)
    left = sum(name not in (WEIGHTS, CONFIG, METADATA) for name in directory.members)
    if left:
        notes.append(f"{counted(left, 'other member is', 'other members are')} not read (assets)")
    return build(
        probe.path,
        FORMAT.name,
        tensors,
        metadata=read_metadata(directory),
        extras={"model_config": text},
        notes=(*notes, *remarks, *opaque_notes(tensors)),
    )


def weights_source(directory: ZipDirectory) -> Source:
    """The HDF5 file inside the archive."""
    from wtool.encodings.zip_directory import STORED

    member = directory.members[WEIGHTS]
    if member.method == STORED:
        return directory.open(member)
    data = directory.read(member, MAX_INFLATED_NBYTES)
    return BytesSource(data, directory.source.name)


def read_text(directory: ZipDirectory, name: str) -> str:
    """A member as text; empty where it is not there."""
    member = directory.members.get(name)
    if member is None:
        return ""
    try:
        return bytes(directory.read(member, MAX_CONFIG_NBYTES)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput(f"{name} is not UTF-8") from error


def parse_config(text: str) -> tuple[Any, list[str]]:
    """(the configuration, notes); a broken one only costs names and classes."""
    try:
        return strict_json.loads(text.encode()), []
    except InputError as error:
        return None, [f"{CONFIG} is not used: {error.message}"]


def read_metadata(directory: ZipDirectory) -> dict[str, str]:
    """The texts of metadata.json: Keras's version, the date."""
    try:
        found = strict_json.loads(read_text(directory, METADATA).encode())
    except InputError:
        return {}
    return {k: v for k, v in found.items() if type(v) is str} if type(found) is dict else {}


FORMAT = Format(
    name="keras_archive",
    title="Keras archive",
    suffixes=(".keras",),
    claims=claims,
    open_file=open_file,
)
