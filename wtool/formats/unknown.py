"""The helpful no: what a path that no format claims is, and what to do about it.

Looks at the same untrusted bytes as the readers, so it keeps their rules: bounded, nothing run.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from wtool.errors import InputError, MissingInput, TruncatedInput, UnknownFormat, counted, shorten
from wtool.formats import Probe
from wtool.sources import read_bytes

MAX_PICKLE_NBYTES = 64 << 20
MAX_ZERO_NBYTES = 16 << 20
MAX_LISTED = 6
ZERO_SAMPLES = 256
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def explain(probe: Probe) -> NoReturn:
    """Raise the error that says what `probe` is; always an InputError."""
    if probe.is_directory:
        from wtool.formats.unknown_directory import explain_directory

        explain_directory(probe)
    if not probe.is_file:
        _explain_missing(probe)
    for rule in _RULES:
        rule(probe)
    first = " ".join(f"{byte:02x}" for byte in probe.head[:8])
    raise UnknownFormat(
        "not a weight file that wtool knows", path=probe.path, found=f"first bytes {first}"
    )


def _no(probe: Probe, what: str, hint: str = "", found: str | None = None) -> NoReturn:
    raise UnknownFormat(
        f"not a weight file but {what}", path=probe.path, found=found, hint=hint or None
    )


def _explain_missing(probe: Probe) -> NoReturn:
    if os.path.islink(probe.path):
        target = os.readlink(probe.path)
        raise MissingInput(
            "a link to a file that is not there",
            path=probe.path,
            found=shorten(target),
            hint="fetch the file again",
        )
    raise MissingInput("no such file, directory or checkpoint prefix", path=probe.path)


def _empty(probe: Probe) -> None:
    if probe.source.size == 0:
        raise TruncatedInput(
            "the file is empty", path=probe.path, hint="the download or copy failed: fetch it again"
        )


def _git_lfs(probe: Probe) -> None:
    if probe.head.startswith(b"version https://git-lfs.github.com/spec/"):
        text = probe.head[:1024].decode("utf-8", "replace")
        oid = re.search(r"^oid (\w{1,16}:[0-9a-f]{8,128})$", text, re.MULTILINE)
        size = re.search(r"^size ([0-9]{1,20})$", text, re.MULTILINE)
        found = f"{oid.group(1) if oid else 'no oid'}, {size.group(1) if size else '?'} bytes"
        _no(probe, "a git-lfs pointer to one", "run 'git lfs pull' in its repository", found)
    if probe.head.startswith(b"/annex/objects/"):
        _no(probe, "a git-annex pointer to one", "run 'git annex get' in its repository")


def _markup(probe: Probe) -> None:
    start = probe.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", probe.head, re.IGNORECASE)
        found = f"title {title.group(1).decode('utf-8', 'replace')!r}" if title else None
        _no(
            probe,
            "an HTML page",
            "the server sent a page in place of the file: log in, or use the direct link",
            found,
        )
    if start.startswith((b"<?xml", b"<svg", b"<error")):
        _no(probe, "an XML document", "look into it: a server's error message, perhaps")


def _signature(probe: Probe) -> None:
    from wtool.encodings.signatures import recognise

    signature = recognise(probe.head)
    if signature is not None:
        _no(probe, signature.what, signature.hint)


def _tar(probe: Probe) -> None:
    from wtool.encodings.tar_directory import is_tar

    if is_tar(probe.head):
        name = probe.head[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
        _no(probe, "a tar archive", "unpack it first: tar xf", f"first member {shorten(name)!r}")


def _hdf5(probe: Probe) -> None:
    if probe.hdf5 is not None:
        pending = [probe.hdf5.root]
        names: list[str] = []
        while pending:
            group = pending.pop()
            pending.extend(group.groups.values())
            names.extend(dataset.path for dataset in group.datasets.values())
        first = f", first '{shorten(min(names))}'" if names else ""
        _no(
            probe,
            "an HDF5 file that Keras did not write",
            "wtool reads the HDF5 files of Keras",
            f"{counted(len(names), 'dataset')}{first}",
        )
    for offset in (512, 1024, 2048):
        if probe.head[offset : offset + 8] == HDF5_SIGNATURE:
            _no(probe, f"an HDF5 file behind {offset} bytes of its user", "remove the user block")


def _distributed(probe: Probe) -> None:
    if probe.name.endswith(".distcp"):
        beside = os.path.isfile(os.path.join(os.path.dirname(probe.path), ".metadata"))
        _no(
            probe,
            "a part of one: a data file of torch.distributed",
            "name its folder" if beside else "name its folder, which lacks the file .metadata",
        )


def _zip(probe: Probe) -> None:
    if probe.head.startswith(b"PK\x05\x06"):
        _no(probe, "an empty zip file")
    if probe.zip_names:
        names = sorted(probe.zip_names)
        if any(name.endswith("/.data/extern_modules") for name in names):
            hint = "it is code with its weights: load it and save the model's state_dict"
            _no(probe, "a package of torch.package", hint)
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        shown = ", ".join(f"'{shorten(name, 60)}'" for name in names[:MAX_LISTED])
        _no(probe, "a zip file of something else", "unpack it first", f"{shown}{more}")
    size = min(probe.source.size, 22 + 65_535)
    tail = read_bytes(probe.source, probe.source.size - size, size)
    end = tail.rfind(b"PK\x05\x06")
    if end >= 0 and end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") == size:
        _no(
            probe,
            "a zip file with other bytes in front",
            "PyTorch does not read it either: remove what precedes the first PK\\3\\4",
        )


def _json(probe: Probe) -> None:
    start = probe.head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith((b"{", b"[")) or not re.match(rb'[{\[]\s*["{\[\d\]}\-tfn]', start):
        return
    keys = set(re.findall(rb'"([A-Za-z_]{2,40})"\s*:', probe.head))
    if {b"model_type", b"architectures"} & keys:
        _no(
            probe,
            "the configuration of a model (JSON)",
            "name the folder, or the weight file beside it",
        )
    if probe.name.startswith("tokenizer") or {b"added_tokens", b"tokenizer_class"} & keys:
        _no(probe, "a tokenizer (JSON)", "name the folder, or the weight file beside it")
    _no(probe, "JSON text", "name the weight file itself")


def _pickle(probe: Probe) -> None:
    head = probe.head
    binary = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if not binary and not re.match(rb"(?:\(dp|\(lp|c[a-z_][\w.]*\n\w+\n)", head):
        return
    from wtool.encodings.pickle_machine import parse_source

    what = "a pickle that is not PyTorch's"
    hint = "nothing in it was run; convert it with the program that wrote it"
    if probe.source.size > MAX_PICKLE_NBYTES:
        _no(probe, what, hint, f"{probe.source.size} bytes")
    try:
        mentioned = Counter(parse_source(probe.source).globals)
    except InputError as error:
        error.message = f"looks like {what}, and is broken: {error.message}"
        raise error.locate(path=probe.path) from error.__cause__
    names = [f"{name} ({count})" for name, count in mentioned.most_common(MAX_LISTED)]
    more = f" and {len(mentioned) - MAX_LISTED} more" if len(mentioned) > MAX_LISTED else ""
    found = f"it mentions {', '.join(names)}{more}" if names else "plain values only"
    _no(probe, what, hint, found)


def _by_suffix(probe: Probe) -> None:
    name = probe.name.lower()
    later = "this format is not read yet"
    if name.endswith(".safetensors"):
        from wtool.encodings.safetensors_header import read_header

        read_header(probe.source)
    if name.endswith(".onnx") or re.match(
        rb"\x08[\x01-\x10]\x12.(?:pytorch|tf2onnx|skl2onnx|onnx)", probe.head, re.DOTALL
    ):
        _no(probe, "an ONNX model", later)
    if name.endswith(".msgpack") or re.match(
        rb"[\x81-\x8f][\xa4-\xa9](?:step|params|model)", probe.head
    ):
        _no(probe, "a Flax checkpoint (MessagePack)", later)
    if name in ("keras_metadata.pb", "fingerprint.pb"):
        _no(probe, "a part of a SavedModel", "name its folder")
    if name.endswith(".meta") and probe.head.startswith(b"\n"):
        prefix = os.path.splitext(probe.name)[0]
        _no(probe, "the graph of a TensorFlow checkpoint", f"name its prefix: {shorten(prefix)}")
    if name.endswith((".pb", ".pbtxt")):
        _no(
            probe,
            "a TensorFlow graph",
            "frozen graphs are not read: name a checkpoint or SavedModel",
        )
    if name.endswith((".mlmodel", ".tflite", ".engine", ".plan", ".pte", ".xml")):
        _no(probe, f"a model for another runtime ({name.rpartition('.')[2]})", later)


def _zeros(probe: Probe) -> None:
    if probe.head.strip(b"\0") or probe.tail.strip(b"\0"):
        return
    size = probe.source.size
    step = max(1, size // ZERO_SAMPLES) if size > MAX_ZERO_NBYTES else 1 << 16
    span = min(step, 1 << 16)
    for offset in range(0, size, step):
        if read_bytes(probe.source, offset, min(span, size - offset)).strip(b"\0"):
            return
    _no(
        probe,
        "zero bytes only",
        "the download or copy was never filled: fetch it again",
        f"{size} bytes",
    )


def _text(probe: Probe) -> None:
    head = probe.head
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The first bytes may end inside a character.
        if error.start < len(head) - 4 or len(head) == probe.source.size:
            return
        text = head[: error.start].decode("utf-8")
    if all(c.isprintable() or c in "\t\r\n\f" for c in text):
        line = text.strip().split("\n", 1)[0].strip()
        _no(probe, "text", "", f"first line {shorten(line, 60)!r}")


_RULES: tuple[Callable[[Probe], None], ...] = (
    _empty, _git_lfs, _markup, _hdf5, _distributed, _zip, _signature, _tar, _json, _zeros,
    _by_suffix, _pickle, _text,
)  # fmt: skip
