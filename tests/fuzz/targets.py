"""What is fuzzed: for each encoding, a function that takes any bytes and must end in order.

To end in order is to return, or to raise a WtoolError whose one line can be printed. Reads are
small and bounded, so that an input that takes long or much memory is a finding. Run by `run.py`
under atheris, and over the corpus by `test_fuzz_corpus.py`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CORPUS = Path(__file__).with_name("corpus")
MAX_SEED_BYTES = 80_000
MAX_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Target:
    """name: of the option. run: takes the bytes. seeds: gives inputs to begin with."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def run_pickle(data: bytes) -> None:
    """The pickle machine, and torch's objects and names over what it gave."""
    from wtool.dialects.torch_checkpoint import build_checkpoint
    from wtool.dialects.torch_objects import ObjectReader
    from wtool.dialects.torch_storages import StorageTable
    from wtool.encodings.pickle_machine import parse
    from wtool.sources import BytesSource

    storage = BytesSource(bytes(MAX_READ_BYTES), "storage")
    reader = ObjectReader(StorageTable(lambda key, nbytes: (storage, 0), scope="fuzz"))
    checkpoint = build_checkpoint("fuzz", "fuzz", parse(data), reader)
    for tensor in checkpoint:
        if tensor.count <= MAX_READ_BYTES:
            tensor.load()
    _ = checkpoint.aliases


def run_zip(data: bytes) -> None:
    """The zip directory, local headers and inflating."""
    from wtool.encodings.zip_directory import read_directory
    from wtool.sources import BytesSource

    directory = read_directory(BytesSource(data, "fuzz"))
    members = [directory.find(name) for name in directory.names]
    directory.check_headers()
    for member in members[:100]:
        if member is not None and member.nbytes <= MAX_READ_BYTES:
            directory.read(member, MAX_READ_BYTES)


def run_tar(data: bytes) -> None:
    """The tar directory."""
    from wtool.encodings.tar_directory import read_directory
    from wtool.sources import BytesSource

    read_directory(BytesSource(data, "fuzz"))


def run_table(data: bytes) -> None:
    """The sorted table; checksums are set aside, or no change would pass them."""
    from wtool.encodings import sorted_table
    from wtool.sources import BytesSource

    check = sorted_table._check_crc
    sorted_table._check_crc = lambda *args: None
    try:
        for _ in sorted_table.open_table(BytesSource(data, "fuzz")).entries():
            pass
    finally:
        sorted_table._check_crc = check


def run_protobuf(data: bytes) -> None:
    """Protobuf fields, and TensorFlow's messages made of them; the first byte chooses which."""
    from wtool.dialects.tf_entries import read_entry, read_header
    from wtool.encodings.protobuf import LENGTH, fields

    kind, body = data[:1], data[1:]
    if kind == b"h":
        read_header(body)
    elif kind == b"e":
        read_entry(body, {})
    else:
        for _, wire, start, stop in fields(body):
            if wire == LENGTH:
                for _ in fields(body, start, stop):
                    pass


def run_safetensors(data: bytes) -> None:
    """The safetensors header, and the strict JSON under it."""
    from wtool.encodings.safetensors_header import read_header
    from wtool.sources import BytesSource

    read_header(BytesSource(data, "fuzz"))


def run_hdf5(data: bytes) -> None:
    """HDF5 structures: groups, links, attributes, layouts; no values."""
    from wtool.encodings.hdf5_file import read_file
    from wtool.sources import BytesSource

    read_file(BytesSource(data, "fuzz"))


def run_legacy(data: bytes) -> None:
    """torch's legacy container: pickles and blobs one after another."""
    from wtool.formats.torch_legacy import _read_saves
    from wtool.sources import BytesSource

    _read_saves(BytesSource(data, "fuzz"))


def _files(*patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        for path in sorted(FIXTURES.rglob(pattern)):
            if path.is_file() and path.stat().st_size <= MAX_SEED_BYTES:
                yield path


def _whole(*patterns: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (path.read_bytes() for path in _files(*patterns))


def _pickles() -> Iterator[bytes]:
    for path in _files("*.pth", "*.pt", "*.ckpt"):
        data = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in archive.namelist():
                    if name.endswith((".pkl", ".metadata")):
                        try:
                            yield archive.read(name)
                        except zipfile.BadZipFile:
                            continue  # written without checksums
    yield from (path.read_bytes() for path in _files(".metadata", "*.pkl"))


def _messages() -> Iterator[bytes]:
    from wtool.encodings.sorted_table import open_table
    from wtool.errors import WtoolError
    from wtool.sources import BytesSource

    for path in _files("*.index"):
        try:
            for key, value in open_table(BytesSource(path.read_bytes(), path.name)).entries():
                yield (b"e" if key else b"h") + value
        except WtoolError:
            continue
    yield from (b"f" + path.read_bytes() for path in _files("*.pb"))


TARGETS = {
    target.name: target
    for target in (
        Target("pickle", run_pickle, _pickles),
        Target("zip", run_zip, _whole("*.pth", "*.pt", "*.npz", "*.keras")),
        Target("tar", run_tar, _whole("tar*.pth")),
        Target("table", run_table, _whole("*.index")),
        Target("protobuf", run_protobuf, _messages),
        Target("safetensors", run_safetensors, _whole("*.safetensors")),
        Target("hdf5", run_hdf5, _whole("*.h5")),
        Target("legacy", run_legacy, _whole("*legacy*.pth")),
    )
}


def ends_in_order(target: Target, data: bytes) -> None:
    """Run a target; anything but an answer or a printable WtoolError passes through."""
    from wtool.errors import WtoolError

    try:
        target.run(data)
    except WtoolError as error:
        line = str(error)
        if "\n" in line or len(line) > 4096:
            raise AssertionError(f"not one short line: {line[:200]!r}") from error
