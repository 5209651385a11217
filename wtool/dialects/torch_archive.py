"""torch's zip archives: the records below one folder, and the pickles and storages among them.

`X/data.pkl` is a pickle, `X/data/N` the bytes of storage N; X is the first part of the first
member's name. torch.save, TorchScript, torch.export and torch.distributed all write such archives.
Source: torch 2.13 `torch/serialization.py`, `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import FACTS
from wtool.encodings.pickle_nodes import Persistent
from wtool.encodings.zip_directory import STORED, ZipDirectory, read_directory
from wtool.errors import MalformedInput, counted, shorten
from wtool.sources import Source, absolute

if TYPE_CHECKING:
    from wtool.dialects.torch_objects import ObjectReader
    from wtool.encodings.pickle_machine import Pickled

VERSIONS = range(1, 11)
# Records that are a few digits or one word.
MAX_SMALL_BYTES = 256
# Files of the user that are shown as metadata.
MAX_EXTRA_BYTES = 1 << 20
MAX_EXTRAS = 100


class TorchArchive:
    """The records of a torch zip file, below its prefix, with case ignored as torch does.

    Raises MalformedInput where a member lies outside the prefix, the version is missing or unknown,
    or the byte order is no word that torch writes.
    """

    def __init__(self, source: Source, directory: ZipDirectory) -> None:
        self.source = source
        self.directory = directory
        names = directory.names
        if not names:
            raise MalformedInput("zip file without members", path=source.name)
        self.prefix = names[0].partition("/")[0]
        start = self.prefix + "/"
        if not directory.are_below(start):
            raise MalformedInput(
                "zip member outside the archive's folder",
                path=source.name,
                expected=f"'{shorten(start)}...'",
                found=shorten(next(name for name in names if not name.startswith(start))),
            )
        self.version = self._version()
        self.big_endian = self._big_endian()
        self._check_alignment()

    def has(self, record: str) -> bool:
        """Whether there is a record of that name."""
        return self.directory.find(f"{self.prefix}/{record}") is not None

    def nbytes(self, record: str) -> int | None:
        """Bytes of a record once inflated; None where there is none."""
        member = self.directory.find(f"{self.prefix}/{record}")
        return None if member is None else member.nbytes

    def extra_texts(self, start: str = "") -> tuple[dict[str, str], list[str]]:
        """(text by record name, notes) of the files that a user added: `X/extra/*`.

        start: only those whose name begins so.
        """
        texts: dict[str, str] = {}
        notes: list[str] = []
        names = [name for name in self.records("extra") if name.startswith(start)]
        for name in names[:MAX_EXTRAS]:
            record = f"extra/{name}"
            size = self.nbytes(record) or 0
            if size > MAX_EXTRA_BYTES:
                notes.append(f"'{shorten(record)}' ({counted(size, 'byte')}) is not shown")
            elif name:
                texts[record] = bytes(self.read(record, size)).decode("utf-8", "backslashreplace")
        if len(names) > MAX_EXTRAS:
            more = counted(len(names) - MAX_EXTRAS, "more file is", "more files are")
            notes.append(f"below extra/ {more} not shown")
        return texts, notes

    def facts(self) -> tuple[dict[str, str], list[str]]:
        """(text by name, notes) of the texts below `X/extra` that wtool wrote itself."""
        texts, notes = self.extra_texts(FACTS)
        return {name.removeprefix("extra/"): text for name, text in texts.items()}, notes

    def records(self, folder: str) -> list[str]:
        """Names of the records in a folder ("data"), without it, in the directory's order."""
        start = f"{self.prefix}/{folder}/".lower()
        names = self.directory.names
        return [names[position][len(start) :] for position in self.directory.below(start)]

    def read(self, record: str, max_bytes: int) -> bytearray:
        """A whole record; MalformedInput where there is none, UnsafeInput above `max_bytes`."""
        member = self.directory.find(f"{self.prefix}/{record}")
        if member is None:
            raise MalformedInput(f"zip file without a record '{record}'", path=self.source.name)
        return self.directory.read(member, max_bytes)

    def pickle(self, record: str, persistent: Callable[[Any], Any] = Persistent) -> Pickled:
        """A record that is a pickle; bytes after its end are refused. persistent: see `parse`."""
        from wtool.encodings.pickle_machine import MAX_PICKLE_BYTES, parse

        member = self.directory.find(f"{self.prefix}/{record}")
        data = self.read(record, MAX_PICKLE_BYTES)
        stored = member is not None and member.method == STORED
        base = self.directory.data_start(member) if member is not None and stored else 0
        return parse(
            data,
            name=record,
            path=self.source.name,
            base=base,
            allow_trailing=False,
            persistent=persistent,
        )

    def reader(self, folder: str = "data") -> ObjectReader:
        """Finds the tensors of a pickle whose storages are the records of `folder`."""
        from wtool.dialects.torch_objects import ObjectReader
        from wtool.dialects.torch_storages import StorageTable

        directory, source = self.directory, self.source
        start = f"{self.prefix}/{folder}/"
        directory.check_headers(directory.below(start))
        position_of, starts = directory.positions, directory.starts
        sizes = directory.stored_sizes()

        def locate(key: str, nbytes: int) -> tuple[Source, int]:
            position = position_of.get(start + key)
            if position is not None and sizes[position] == nbytes:
                return source, starts[position]
            return self._locate(folder, key, nbytes)

        # An archive inside another file has storages of its own.
        file, start_of_archive = absolute(self.source, 0)
        table = StorageTable(locate, scope=(file.name, start_of_archive, folder))
        return ObjectReader(table, big_endian=self.big_endian)

    def _locate(self, folder: str, key: str, nbytes: int) -> tuple[Source, int]:
        member = self.directory.find(f"{self.prefix}/{folder}/{key}")
        record = f"{folder}/{shorten(key)}"
        if member is None:
            raise MalformedInput(f"zip file without the record '{record}' of a storage")
        if member.nbytes != nbytes:
            raise MalformedInput(
                f"record '{record}' has another size than its storage",
                offset=member.header_offset,
                expected=f"{nbytes} bytes",
                found=f"{member.nbytes}",
            )
        if member.method == STORED:
            return self.source, self.directory.data_start(member)
        return self.directory.open(member), 0

    def _version(self) -> int:
        record = "version" if self.has("version") else ".data/version"
        if not self.has(record):
            raise MalformedInput("torch file without a record 'version'", path=self.source.name)
        text = bytes(self.read(record, MAX_SMALL_BYTES))
        # torch reads the digits in front and ignores what follows.
        digits = re.match(rb"\s*\+?(\d{1,18})", text)
        version = int(digits[1]) if digits else -1
        if version not in VERSIONS:
            raise MalformedInput(
                "version of the torch file is unknown",
                path=self.source.name,
                expected=f"{VERSIONS[0]} to {VERSIONS[-1]}",
                found=repr(text[:40])[1:],
            )
        return version

    def _big_endian(self) -> bool:
        if not self.has("byteorder"):
            return False
        text = bytes(self.read("byteorder", MAX_SMALL_BYTES))
        if text not in (b"little", b"big"):
            raise MalformedInput(
                "byte order of the torch file is unknown",
                path=self.source.name,
                expected="'little' or 'big'",
                found=repr(text[:40])[1:],
            )
        return text == b"big"

    def _check_alignment(self) -> None:
        if not self.has(".storage_alignment"):
            return
        text = bytes(self.read(".storage_alignment", MAX_SMALL_BYTES))
        if not text.isdigit() or not int(text[:18]):
            raise MalformedInput(
                "alignment of the storages is no number",
                path=self.source.name,
                found=repr(text[:40])[1:],
            )


def open_archive(source: Source) -> TorchArchive:
    """The records of a torch zip file, or of a zip file within a file."""
    return TorchArchive(source, read_directory(source))
