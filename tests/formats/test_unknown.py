"""The helpful no: each kind of wrong file is told what it is; hostile paths do no harm."""

# ruff: noqa: E501 (a table reads best with one case a line)

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from wtool.errors import InputError, MissingInput, TruncatedInput, UnknownFormat, UnsafeInput
from wtool.formats import Probe, formats, open_checkpoint


def refused(path: Path | str) -> InputError:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    error = caught.value
    assert error.exit_code == 3
    assert "\n" not in str(error)
    assert str(path) in str(error)
    return error


def refused_bytes(folder: Path, content: bytes, name: str = "model.bin") -> InputError:
    path = folder / name
    path.write_bytes(content)
    return refused(path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1234567\n" % (b"ab" * 32)


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("inside.pth"))
    return buffer.getvalue()


def zip_bytes(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


class Command:
    """A pickle of this would run a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "git-lfs": (LFS, f"a git-lfs pointer to one: found sha256:{'ab' * 32}, 1234567 bytes (run 'git lfs pull'"),
    "git-annex": (b"/annex/objects/SHA256E-s1--x\n", "a git-annex pointer"),
    "HTML": (b"\xef\xbb\xbf\n<!DOCTYPE html><title>Sign in</title>", "an HTML page: found title 'Sign in'"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
    "gzip": (gzip.compress(b"x"), "gzip data (unpack it first: gunzip"),
    "bzip2": (bz2.compress(b"x"), "bzip2 data"),
    "xz": (lzma.compress(b"x"), "xz data"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "Zstandard data"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "a 7-Zip archive"),
    "rar": (b"Rar!\x1a\x07\0", "a RAR archive"),
    "tar": (tar_bytes(), "a tar archive: found first member 'inside.pth'"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(99), "a GGUF model (this format is not read yet)"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(99), "a TensorFlow Lite model"),
    "PYTORCH1": (b"PYTORCH1" + bytes(99), "a preview of PyTorch's zip format"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
    "config": (b'{\n  "architectures": ["BertModel"],\n  "hidden_size": 8}', "the configuration of a model (JSON)"),
    "tokenizer": (b'{"added_tokens": []}', "a tokenizer (JSON)"),
    "JSON": (b'[{"a": 1}]', "JSON text"),
    "zeros": (bytes(100_000), "zero bytes only: found 100000 bytes"),
    "text": (b"epoch,loss\n1,0.5\n", "text: found first line 'epoch,loss'"),
    "control characters": (b"\x1b[2J\x07 not text \x00\x01", "found first bytes 1b 5b 32 4a"),
    "empty zip": (zip_bytes(), "an empty zip file"),
    "other zip": (zip_bytes("word/document.xml", "b", "c", "d", "e", "f", "g"), "'b', 'c', 'd', 'e', 'f', 'g' and 1 more"),
    "torch.package": (zip_bytes("x/model/model.pkl", "x/.data/extern_modules"), "a package of torch.package (it is code"),
    "zip behind bytes": (b"#!/bin/sh\n" + zip_bytes("x/data.pkl"), "a zip file with other bytes in front"),
    "plain pickle": (pickle.dumps({"a": [1, 2]}), "a pickle that is not PyTorch's: found plain values only"),
    "protocol 0": (pickle.dumps({"a": np.float64(1)}, protocol=0), "a pickle that is not PyTorch's"),
    "hostile pickle": (pickle.dumps(Command()), f"it mentions {os.system.__module__}.system (1) (nothing in it was run"),
    "broken pickle": (pickle.dumps([1, 2, 3])[:-3], "looks like a pickle that is not PyTorch's, and is broken"),
    "noise": (bytes(range(200, 100, -1)), "not a weight file that wtool knows: found first bytes c8 c7 c6"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_is_told_what_it_is(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = CASES[case]
    error = refused_bytes(tmp_path, content)
    assert message in str(error)
    assert isinstance(error, UnknownFormat) or case in ("empty", "broken pickle")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"),
        ("flax_model.msgpack", b"\x82\xa3abc\x01\xa3def\x02", "a Flax checkpoint"),
        ("fingerprint.pb", b"\x08\x01\x12\x00", "a part of a SavedModel (name its folder"),
        ("model.ckpt-5.meta", b"\n\xe3\x14\x12\xbc", "a TensorFlow checkpoint (name its prefix: model.ckpt-5)"),
        ("keras_metadata.pb", b"\x08\x01\x12\x00\xff\xff", "a part of a SavedModel (name its folder"),
        ("model.mlmodel", b"\x08\x07\x12\x00\xff\xff", "a model for another runtime (mlmodel)"),
        ("m.safetensors", b"\xff" * 20, "header too large"),
        ("m.safetensors", b"\x10\0\0\0\0\0\0\0[1]             ", "JSON|header is not an object"),
        ("m.safetensors", LFS, "a git-lfs pointer"),
    ],
)  # fmt: skip
def test_a_name_helps_where_the_bytes_say_little(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    text = str(refused_bytes(tmp_path, content, name))
    assert any(part in text for part in message.split("|"))


def test_an_hdf5_file_of_another_program_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["b/data"] = np.ones(3)
        file["c"] = np.ones(3)
    assert ("an HDF5 file that Keras did not write: found 2 datasets, first 'b/data'") in str(
        refused(path)
    )
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["c"] = np.ones(3)
    assert "an HDF5 file behind 1024 bytes of its user" in str(refused(path))


FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "empty": ({}, "the folder is empty"),
    "nothing": ({"config.json": b"{}", "README.md": b""}, "no weight file that wtool knows: found README.md, config.json"),
    "pipeline": ({"model_index.json": b"{}", "unet/m.safetensors": b"x", "vae/m.safetensors": b"x"}, "a pipeline of several models; its folders do: found unet, vae (name one"),
    "one below": ({"sub/m.safetensors": b"x", "other/readme": b""}, "no weight file; its folders do: found sub"),
    "two below": ({"blobs/x": b"", "snapshots/abc/model.safetensors": b"x"}, "no weight file; its folders do: found snapshots/abc (name one"),
    "orbax": ({"_METADATA": b"{}", "manifest.ocdbt": b""}, "an Orbax checkpoint"),
    "lost index": ({f"model-0000{i}-of-00003.safetensors": b"x" for i in (1, 2, 3)}, "3 shards of one model without their index"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_without_a_model_is_told_what_it_holds(case: str, tmp_path: Path) -> None:
    files, message = FOLDERS[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert message in str(refused(tmp_path))


@pytest.mark.parametrize("locked", ["a", "a/b"])
def test_a_folder_that_may_not_be_looked_into_is_passed_over(tmp_path, monkeypatch, locked) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.safetensors").write_bytes(b"x")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == str(tmp_path / locked):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert "no weight file; its folders do: found sub (name one" in str(refused(tmp_path))


def test_a_path_that_is_not_there_is_missing(tmp_path: Path) -> None:
    error = refused(tmp_path / "no.pth")
    assert isinstance(error, MissingInput)
    assert "no such file" in str(error)
    (tmp_path / "link.pth").symlink_to("../blobs/abc")
    assert "a link to a file that is not there: found ../blobs/abc" in str(
        refused(tmp_path / "link.pth")
    )


def test_pipes_devices_and_loops_are_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.pth"
    os.mkfifo(fifo)
    assert isinstance(refused(fifo), UnsafeInput)
    for device in ("/dev/zero", "/dev/null"):
        assert isinstance(refused(device), UnsafeInput)
    (tmp_path / "a.pth").symlink_to("a.pth")
    refused(tmp_path / "a.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    refused(tmp_path / "folder")


HEADS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: b"",
    "safetensors": lambda: safetensors.numpy.save({"a": np.ones(3)}),
    "zip": lambda: zip_bytes("x/data.pkl"),
    "npy": lambda: b"\x93NUMPY\1\0\x76\0{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
    "pickle": lambda: pickle.dumps([1, 2]),
    "JSON": lambda: b'{"weight_map": {"a": "b"}}',
    "torch legacy": lambda: legacy_bytes(),
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(40),
    "text": lambda: b"hello\n",
}


def legacy_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


SCRIPT = """
import resource, sys
from wtool.errors import InputError
from wtool.formats import open_checkpoint
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for path in sys.argv[1:]:
    try:
        print(len(open_checkpoint(path)), "tensors")
    except InputError as error:
        print(error)
"""


def test_huge_sparse_files_of_every_kind_take_little_time_and_memory(tmp_path: Path) -> None:
    paths = []
    for name, head in HEADS.items():
        path = tmp_path / name.replace(" ", "-")
        with path.open("wb") as file:
            file.write(head())
            # As far as the file system goes.
            for bits in (62, 50, 43):
                try:
                    file.truncate(1 << bits)
                    break
                except OSError:
                    continue
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(paths)


def test_a_100_mb_header_is_bounded_in_time_and_memory(tmp_path: Path) -> None:
    size = 99_999_000
    entry = b'"%07d":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    bodies = {
        "brackets": b'{"a":' + b"[" * (size - 5),
        "empty objects": b'{"a":[' + b"{}," * 1_500_000 + b"1]}",
        "numbers": b'{"a":[' + b"1000," * 3_900_000 + b"1]}",
        "wide text": b'{"a":"' + b"x" * (33 << 20) + "😀".encode() + b'"}',
        "long text": b'{"a":"' + b"x" * (size - 8) + b'"}',
        "million tensors": b"{" + b"".join(entry % i for i in range(10**6)) + b'"x":0}',
    }
    paths = []
    for name, body in bodies.items():
        path = tmp_path / name
        path.write_bytes(len(body).to_bytes(8, "little") + body)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    assert not any("tensors" in line.split() for line in lines)


def test_a_cut_file_of_any_kind_is_an_input_error(tmp_path: Path) -> None:
    """Whatever is left of a file, some format or the helpful no answers for it."""
    for name, head in HEADS.items():
        content = head()
        for size in range(0, len(content), max(1, len(content) // 40)):
            path = tmp_path / "cut.bin"
            path.write_bytes(content[:size])
            try:
                open_checkpoint(path)
            except InputError:
                continue
            pytest.fail(f"{name} cut at {size} opened")


def test_mutations_of_every_kind_are_claimed_once_and_answered(tmp_path: Path) -> None:
    """2,500 seeded mutations: one format at most claims each; only an InputError says no."""
    random = np.random.default_rng(5)
    contents = [head() + bytes(64) for head in HEADS.values()]
    path = tmp_path / "m.bin"
    table = formats()
    for number in range(2_500):
        changed = bytearray(contents[number % len(contents)])
        for _ in range(random.integers(1, 4)):
            changed[random.integers(0, len(changed))] = random.integers(0, 256)
        path.write_bytes(changed)
        claimed = 0
        try:
            claimed = sum(format.claims(Probe(path)) for format in table)
            assert claimed <= 1
            open_checkpoint(path)
        except InputError:
            continue
    assert isinstance(refused_bytes(tmp_path, b""), TruncatedInput)
