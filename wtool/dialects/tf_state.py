"""The `checkpoint` file of a directory: text protobuf that names the newest checkpoint in it.

Only what TensorFlow writes there is read: `name: "string"` and `name: number`, one after the other,
with the escapes of C in strings.

Source: TensorFlow 2.21 `python/training/checkpoint_state.proto`; protobuf.dev "Text Format".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from wtool.errors import MalformedInput, UnsafeInput
from wtool.sources import FileSource, read_bytes

# A manager that keeps every checkpoint of a long run stays far below.
MAX_STATE_BYTES = 16 << 20
MODEL_FIELD = "model_checkpoint_path"
ALL_FIELD = "all_model_checkpoint_paths"

_TOKEN = re.compile(
    rb"""\s*(?:\#[^\n]*\n\s*)*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*:\s*
        (?: (?P<string>(?:"(?:[^"\\\n]|\\.)*"\s*|'(?:[^'\\\n]|\\.)*'\s*)+)
          | (?P<number>[-+.0-9A-Za-z_]+) )\s*[;,]?
    )""",
    re.VERBOSE,
)
_REST = re.compile(rb"\s*(?:#[^\n]*(?:\n\s*|\Z))*\Z")
_QUOTED = re.compile(rb"""\s*(?:"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)')""")
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SIMPLE = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
    b"?": b"?",
}


@dataclass(frozen=True)
class CheckpointState:
    """model: prefix of the newest checkpoint as written. all: those kept, oldest first."""

    model: str
    all: tuple[str, ...]


def read_state(path: str) -> CheckpointState:
    """The state in the file `path`; MalformedInput where it is broken."""
    source = FileSource(path)
    if source.size > MAX_STATE_BYTES:
        raise UnsafeInput(
            "checkpoint state file too large",
            path=path,
            expected=f"at most {MAX_STATE_BYTES} bytes",
            found=source.size,
        )
    return parse_state(bytes(read_bytes(source, 0, source.size)), path)


def parse_state(text: bytes, path: str) -> CheckpointState:
    """The state in `text`; `path` is what an error names."""
    model = ""
    kept: list[str] = []
    position = 0
    while not _REST.match(text, position):
        token = _TOKEN.match(text, position)
        if token is None:
            raise MalformedInput(
                "checkpoint state file broken",
                path=path,
                offset=position,
                expected='a line such as model_checkpoint_path: "model.ckpt-1"',
                found=repr(text[position : position + 40].decode("utf-8", "backslashreplace")),
            )
        position = token.end()
        name = token["name"].decode("ascii")
        if name not in (MODEL_FIELD, ALL_FIELD):
            continue
        if token["string"] is None:
            raise MalformedInput(f"{name} is not a string", path=path, offset=token.start("number"))
        value = _unquote(token["string"])
        if name == MODEL_FIELD:
            model = value
        else:
            kept.append(value)
    if not model:
        raise MalformedInput("checkpoint state file names no checkpoint", path=path)
    return CheckpointState(model, tuple(kept))


def state_prefix(state: CheckpointState, path: str) -> tuple[str, str | None]:
    """(prefix of the newest checkpoint, a note or None); `path` is that of the state file.

    A checkpoint lies beside its state file. An absolute path to elsewhere, as a directory keeps it
    after it was moved, is looked up here by its last component; no path leaves the directory.
    """
    directory = os.path.dirname(path)
    wanted = state.model
    if "\x00" in wanted:
        raise MalformedInput("NUL in the path of a checkpoint", path=path)
    if not os.path.isabs(wanted):
        inside = os.path.normpath(wanted)
        if inside.split(os.sep)[0] == os.pardir:
            raise UnsafeInput(
                "checkpoint state file points out of its directory",
                path=path,
                found=wanted,
                hint="give the path of the checkpoint itself",
            )
        return os.path.join(directory, inside), None
    home = os.path.abspath(directory)
    normal = os.path.normpath(wanted)
    if os.path.commonpath((home, normal)) == home:
        return os.path.join(directory, os.path.relpath(normal, home)), None
    beside = os.path.join(directory, os.path.basename(normal))
    if os.path.exists(beside + ".index") or os.path.isfile(beside):
        return beside, f"the checkpoint file names {wanted}; the one of that name here was opened"
    raise UnsafeInput(
        "checkpoint state file points out of its directory",
        path=path,
        found=wanted,
        hint="give the path of the checkpoint itself",
    )


def _unquote(strings: bytes) -> str:
    """The text of adjacent quoted strings, escapes resolved."""
    parts = [double or single for double, single in _QUOTED.findall(strings)]
    return _ESCAPE.sub(_escape, b"".join(parts)).decode("utf-8", "surrogateescape")


def _escape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = match.groups()
    if octal:
        return bytes((int(octal, 8) & 0xFF,))
    if hexadecimal:
        return bytes((int(hexadecimal, 16),))
    return _SIMPLE.get(letter, b"\\" + letter)
