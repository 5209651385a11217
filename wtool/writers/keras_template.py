"""What a Keras file is written on: an HDF5 file of the target model, or the one in its `.keras`."""

from __future__ import annotations

import os
from typing import Any

from wtool.encodings import strict_json
from wtool.encodings.zip_directory import ZipDirectory, read_directory
from wtool.errors import InputError, MalformedInput, WtoolError
from wtool.sources import BytesSource, FileSource, Source, read_bytes

# Members of a `.keras` archive.
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
MAX_CONFIG_NBYTES = 64 << 20
MAX_WEIGHTS_NBYTES = 1 << 30


def open_template(path: str | os.PathLike[str]) -> tuple[Source, Any]:
    """(the HDF5 file, the model's configuration where an archive has one, else None).

    MalformedInput for a zip file that is no `.keras`.
    """
    source = FileSource(path)
    if bytes(read_bytes(source, 0, min(4, source.size))) != b"PK\x03\x04":
        return source, None
    try:
        directory = read_directory(source)
        if WEIGHTS not in directory.members:
            raise MalformedInput(f"the template is a zip file without {WEIGHTS}")
        return _member(directory), _config(directory)
    except WtoolError as error:
        raise error.locate(path=os.fspath(path)) from error.__cause__


def _member(directory: ZipDirectory) -> Source:
    from wtool.encodings.zip_directory import STORED

    member = directory.members[WEIGHTS]
    if member.method == STORED:
        return directory.open(member)
    return BytesSource(directory.read(member, MAX_WEIGHTS_NBYTES), directory.source.name)


def _config(directory: ZipDirectory) -> Any:
    """The configuration; a broken one only costs names, as when the archive is read."""
    try:
        return strict_json.loads(
            bytes(directory.read(directory.members[CONFIG], MAX_CONFIG_NBYTES))
        )
    except (KeyError, InputError):
        return None
