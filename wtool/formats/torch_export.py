"""torch.export archives (.pt2): weights and constants as raw records, named and typed by JSON.

    X/archive_format                            "pt2"
    X/byteorder                                 "little" or "big"
    X/data/weights/<model>_weights_config.json  name -> record, dtype, sizes, strides, offset
    X/data/weights/weight_0 ...                 whole storages; shared ones once
    X/data/constants/...                        the same for lifted constants and buffers not saved
    X/models/<model>.json                       the graph, which is not read

Before 2.9, `X/data/weights/<model>.pt` held a whole torch file instead; up to 2.7 the archive was
`serialized_state_dict.pt` and `serialized_constants.pt`, without a folder.

Constants and parameters are told apart by what the file states: what is no parameter is a buffer. A
record that is pickled (a tensor subclass) is a whole torch file, too. Source: torch 2.13
`torch/export/pt2_archive/_package.py`, `torch/_export/serde/schema.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dialects.torch_archive import TorchArchive, open_archive
from wtool.dtypes import BY_TORCH, DType
from wtool.encodings.pickle_nodes import Dict
from wtool.encodings.strict_json import loads
from wtool.encodings.zip_directory import Member, read_directory
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError, WtoolError, counted, shorten
from wtool.extents import Absent, Extent, Strided
from wtool.formats import Format, Probe, refuse_root
from wtool.sources import Source

MAX_CONFIG_BYTES = 64 << 20
# Tensor subclasses are few; each costs a file to open.
MAX_INNER_FILES = 10_000
STRIDED_LAYOUT = 7
_FORMER_PROGRAM = "serialized_exported_program.json"
_CONFIGS = (("weights", "_weights_config.json"), ("constants", "_constants_config.json"))

# schema.ScalarType -> torch's name of the type
_SCALAR_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}


def claims(probe: Probe) -> bool:
    """Whether the file is a zip with the records `X/archive_format` and `X/data/weights/...`, or
    with `serialized_exported_program.json`.
    """
    names = probe.zip_names
    if _FORMER_PROGRAM in names:
        return True
    ends = [name for name in names if name.endswith("/archive_format") and name.count("/") == 1]
    prefix = ends[0].removesuffix("archive_format") if ends else ""
    return bool(prefix) and any(name.startswith(f"{prefix}data/weights/") for name in names)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Weights first, then constants, in the order of their configurations.

    With several models in the archive, names begin with the model's.
    """
    refuse_root(root, "a torch.export archive")
    notes: list[str] = []
    if _FORMER_PROGRAM in probe.zip_names:
        tensors = list(_former_tensors(probe, notes))
        return build(probe.path, FORMAT.name, tensors, notes=tuple(notes))
    archive = open_archive(probe.source)
    kind = bytes(archive.read("archive_format", 64)).strip()
    if kind != b"pt2":
        raise MalformedInput("format of the archive", expected="pt2", found=repr(kind)[1:])
    metadata, notes = archive.extra_texts()
    payloads = _Payloads(archive, probe.path)
    if archive.records("data/aotinductor") and not payloads.members("models/", ".json"):
        raise UnsupportedError(
            "compiled package (AOTInductor): its weights belong to the compiled code",
            path=probe.path,
            hint="open the exported program that it was made from",
        )
    tensors = list(payloads.all())
    notes += payloads.notes()
    return build(probe.path, FORMAT.name, tensors, metadata=metadata, notes=tuple(notes))


def _former_tensors(probe: Probe, notes: list[str]) -> Iterator[Tensor]:
    """Tensors of an archive of torch 2.7 or older."""
    directory = read_directory(probe.source)
    for stem, role in (("serialized_state_dict", None), ("serialized_constants", "buffer")):
        members = [directory.find(f"{stem}.{ending}") for ending in ("pt", "json")]
        member = next((found for found in members if found is not None), None)
        if member is None:
            raise MalformedInput(f"archive has no record '{stem}.pt'", path=probe.path)
        inner = _inner_file(probe.path, directory.open(member), None)
        notes.extend(inner.notes)
        for tensor in inner:
            tensor.role = tensor.role or role
            yield tensor


def _inner_file(path: str, source: Source, name: str | None) -> Checkpoint:
    """The tensors of a whole torch file within the archive; `name`, where given, before theirs."""
    from wtool.dialects.torch_checkpoint import build_checkpoint

    inner = open_archive(source)
    pickled = inner.pickle("data.pkl")
    if name is not None:
        tree = Dict()
        tree[name] = pickled.value
        pickled = dataclasses.replace(pickled, value=tree)
    return build_checkpoint(path, FORMAT.name, pickled, inner.reader(), root=".")


class _Payloads:
    """The weights and constants of one archive."""

    def __init__(self, archive: TorchArchive, path: str) -> None:
        self.archive = archive
        self.path = path
        self._objects = self._absent = self._inner_files = 0
        self._notes: list[str] = []

    def all(self) -> Iterator[Tensor]:
        """Every tensor, in the order of the configurations."""
        for folder, suffix in _CONFIGS:
            role = "buffer" if folder == "constants" else None
            former = self.members(f"data/{folder}/", ".pt")
            configs = self.members(f"data/{folder}/", suffix)
            several = len(former) + len(configs) > 1
            for model, member in former.items():
                yield from self._pickled(f"{model}" if several else None, "", member, role)
            for model, member in configs.items():
                prefix = f"{model}." if several else ""
                for name, payload in self.config(member).items():
                    try:
                        yield from self.tensors(folder, prefix + name, name, payload)
                    except WtoolError as error:
                        raise error.locate(path=self.path, tensor=name) from error.__cause__

    def notes(self) -> list[str]:
        """What was met on the way."""
        notes = list(dict.fromkeys(self._notes))
        if self._objects:
            notes.append(f"not read: {counted(self._objects, 'custom object')} among the constants")
        if self._absent:
            tensors = counted(self._absent, "tensor was", "tensors were")
            notes.append(f"{tensors} exported without their values")
        return notes

    def member(self, record: str) -> Member:
        """The record; MalformedInput where the archive has none of that name."""
        found = self.archive.directory.find(f"{self.archive.prefix}/{record}")
        if found is None:
            raise MalformedInput(f"archive has no record '{shorten(record)}'")
        return found

    def members(self, folder: str, suffix: str) -> dict[str, Member]:
        """Model name -> its configuration, for every "<folder><model><suffix>"."""
        start = f"{self.archive.prefix}/{folder}"
        return {
            name[len(start) : -len(suffix)]: member
            for name, member in self.archive.directory.members.items()
            if name.startswith(start) and name.endswith(suffix)
        }

    def config(self, member: Member) -> Mapping[str, Any]:
        """Name -> payload of one configuration."""
        value = loads(self.archive.directory.read(member, MAX_CONFIG_BYTES))
        config = value.get("config") if isinstance(value, dict) else None
        if not isinstance(config, dict):
            raise MalformedInput(f"'{shorten(member.name)}' has no configuration")
        return config

    def tensors(self, folder: str, name: str, key: str, payload: Any) -> Iterator[Tensor]:
        """What one entry of a configuration stands for; nothing for an object that is no tensor."""
        path_name = _field(payload, "path_name", str, name)
        is_param = _field(payload, "is_param", bool, name)
        meta = payload.get("tensor_meta")
        if meta is None:
            self._objects += 1
            return
        role = None if is_param else "buffer"
        member = self.member(f"data/{folder}/{path_name}")
        if _field(payload, "use_pickle", bool, name):
            found = self._pickled(name, key, member, role)
        else:
            found = iter([Tensor(name, key, self._extent(member, meta, name), role=role)])
        for tensor in found:
            tensor.is_parameter = tensor.is_parameter or is_param
            yield tensor

    def _extent(self, member: Member, meta: Any, name: str) -> Extent:
        dtype = _dtype(meta, name)
        shape = tuple(_integers(meta, "sizes", name))
        strides = tuple(_integers(meta, "strides", name))
        first = _integer(meta.get("storage_offset"), name)
        if meta.get("layout") != STRIDED_LAYOUT or min((first, *strides), default=0) < 0:
            raise MalformedInput(
                "raw record that is not strided",
                tensor=name,
                expected=f"layout {STRIDED_LAYOUT}, offset and strides from 0 on",
                found=f"layout {meta.get('layout')!r}, {first}, {strides}",
            )
        if member.nbytes == 0 and 0 not in shape:
            self._absent += 1
            return Absent(dtype, shape, "it was exported without its values")
        return Strided(
            self.archive.directory.open(member),
            0,
            member.nbytes,
            dtype,
            shape,
            first=first,
            strides=strides,
            big_endian=self.archive.big_endian,
            storage=(self.archive.source.name, member.name),
        )

    def _pickled(
        self, name: str | None, key: str, member: Member, role: str | None
    ) -> Iterator[Tensor]:
        """The tensors of a record that is a whole torch file."""
        self._inner_files += 1
        if self._inner_files > MAX_INNER_FILES:
            raise UnsafeInput(
                "too many pickled tensors in one archive", expected=f"at most {MAX_INNER_FILES}"
            )
        found = _inner_file(self.path, self.archive.directory.open(member), name)
        self._notes.extend(found.notes)
        for tensor in found:
            if name is not None and key:
                tensor.key = key + tensor.key.removeprefix(name)
            tensor.role = tensor.role or role
            yield tensor


def _field(payload: Any, key: str, kind: type, name: str) -> Any:
    value = payload.get(key) if isinstance(payload, dict) else None
    if type(value) is not kind:
        raise MalformedInput(
            f"bad entry of a configuration, '{key}'",
            tensor=name,
            expected=kind.__name__,
            found=type(value).__name__,
        )
    return value


def _dtype(meta: Any, name: str) -> DType:
    number = _field(meta, "dtype", int, name)
    if number not in _SCALAR_TYPES:
        raise MalformedInput("unknown element type", tensor=name, found=number)
    return BY_TORCH[_SCALAR_TYPES[number]]


def _integers(meta: Any, key: str, name: str) -> list[int]:
    return [_integer(value, name) for value in _field(meta, key, list, name)]


def _integer(value: Any, name: str) -> int:
    number = value.get("as_int") if isinstance(value, dict) and len(value) == 1 else None
    if type(number) is not int:
        raise MalformedInput(
            "size, stride or offset that is no number", tensor=name, found=type(number).__name__
        )
    return number


FORMAT = Format("torch-export", "torch.export archive (.pt2)", (".pt2",), claims, open_file)
