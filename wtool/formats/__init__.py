"""The formats, one file each: bytes -> Checkpoint. Exactly one claims a file, by its content.

Every format file has the same names inside: `claims(probe)`, `open_file(probe, root=None)`, where
it can write `save(...)`, and `FORMAT`, its row in the table. A file is opened in two steps: `probe`
looks at the path and the first and last bytes; the one format that claims it builds the Checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from wtool.checkpoint import Checkpoint
from wtool.errors import TruncatedInput, UsageError, WtoolError
from wtool.sources import Descriptors, FileSource, Source, read_bytes

if TYPE_CHECKING:
    from wtool.encodings.hdf5_file import Hdf5File
    from wtool.encodings.zip_directory import ZipDirectory

HEAD_BYTES = 4096
TAIL_BYTES = 64


class Probe:
    """A first look at a path: what is there, its first and last bytes. Nothing is parsed.

    path: as the user named it; may be a file, a directory, or a prefix that names no file itself.
    descriptors: shared by the files of one model, so that thousands need not be open at once.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, descriptors: Descriptors | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.descriptors = descriptors
        self.is_directory = os.path.isdir(self.path)
        self.is_file = not self.is_directory and os.path.exists(self.path)

    @property
    def name(self) -> str:
        """Last component of the path."""
        return os.path.basename(os.path.normpath(self.path))

    @cached_property
    def source(self) -> Source:
        """The file's bytes; MissingInput or UnsafeInput where it cannot be opened."""
        return FileSource(self.path, descriptors=self.descriptors)

    @cached_property
    def head(self) -> bytes:
        """The first HEAD_BYTES bytes, fewer in a short file; empty for what is not a file."""
        return (
            bytes(read_bytes(self.source, 0, min(HEAD_BYTES, self.source.size)))
            if self.is_file
            else b""
        )

    @cached_property
    def tail(self) -> bytes:
        """The last TAIL_BYTES bytes, fewer in a short file; empty for what is not a file."""
        if not self.is_file:
            return b""
        size = min(TAIL_BYTES, self.source.size)
        return bytes(read_bytes(self.source, self.source.size - size, size))

    @cached_property
    def zip_directory(self) -> ZipDirectory | None:
        """The directory of a zip file; None for what is not a zip. Raises where it is broken."""
        # A data file of torch.distributed is one zip file after another.
        if not self.head.startswith(b"PK\x03\x04") or self.name.endswith(".distcp"):
            return None
        from wtool.encodings.zip_directory import read_directory

        try:
            return read_directory(self.source)
        except TruncatedInput as error:
            from wtool.dialects.cut_zip import explain_cut

            raise explain_cut(self.source, error) from None

    @cached_property
    def zip_names(self) -> frozenset[str]:
        """Member names of a zip file; empty for what is not a zip. Raises where it is broken."""
        directory = self.zip_directory
        return frozenset() if directory is None else frozenset(directory.names)

    @cached_property
    def hdf5(self) -> Hdf5File | None:
        """The tree of an HDF5 file; None for what is not one. Raises where it is broken."""
        if not self.head.startswith(b"\x89HDF\r\n\x1a\n"):
            return None
        from wtool.encodings.hdf5_file import read_file

        return read_file(self.source)


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    name: "safetensors". title: for people. suffixes: usual endings, helpful only in messages.
    claims(probe): whether the content is this format's; True means no other format may have it.
    open_file(probe, root=None): the Checkpoint.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    claims: Callable[[Probe], bool]
    open_file: Callable[..., Checkpoint]


# Modules in this folder, in the order in which they are asked. Order only saves time: claims are
# exclusive. These claim files...
_OF_FILES = (
    "safetensors",
    "torch_zip",
    "sharded",
    "npy",
    "npz",
    "keras_archive",
    "keras_h5",
    "keras_weights_h5",
    "keras_shards",
    "torch_legacy",
    "torch_tar",
    "torch_script",
    "torch_export",
)
# ...these directories too, and these what is no file itself: a prefix of file names.
_OF_DIRECTORIES = ("model_directory", "torch_distributed")
_OF_PREFIXES = ("tf_bundle", "tf_v1")


def refuse_root(root: str | None, container: str) -> None:
    """UsageError where a branch was asked for of a `container` ("a .npz file") without any."""
    if root not in (None, "."):
        raise UsageError(f"{container} has no branches", found=f"--root {root}", hint="drop --root")


def formats() -> tuple[Format, ...]:
    """Every format that wtool reads."""
    return tuple(_format(module) for module in (*_OF_FILES, *_OF_DIRECTORIES, *_OF_PREFIXES))


def find_format(probe: Probe) -> Format:
    """The format that claims `probe`; an InputError that says what the path is where none does."""
    files = _OF_FILES if probe.is_file else ()
    directories = _OF_DIRECTORIES if probe.is_file or probe.is_directory else ()
    for module in (*files, *directories, *_OF_PREFIXES):
        candidate = _format(module)
        if candidate.claims(probe):
            return candidate
    from wtool.formats.unknown import explain

    explain(probe)


def _format(module: str) -> Format:
    row: Format = import_module(f"wtool.formats.{module}").FORMAT
    return row


def open_checkpoint(path: str | os.PathLike[str], *, root: str | None = None) -> Checkpoint:
    """Open a file, a TensorFlow prefix, an index file or a directory; reads headers only.

    root: which branch of a nested file; None drops the prefix of the one branch that is the model,
    "." keeps everything. Raises an InputError that names the file.
    """
    return open_probe(Probe(path), root=root)


def open_probe(probe: Probe, *, root: str | None = None) -> Checkpoint:
    """Open what `probe` looked at; its path stands in every error that names no other file."""
    try:
        return find_format(probe).open_file(probe, root=root)
    except WtoolError as error:
        raise error.locate(path=probe.path) from error.__cause__
