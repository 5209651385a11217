"""Which TensorFlow checkpoint a path means: prefix, index, data file, directory, SavedModel.

TensorFlow names a checkpoint by a prefix that is no file. People pass what they see: the `.index`,
a data file, the directory, the `checkpoint` file. Each leads to one Target.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from wtool.dialects.tf_bundle import DATA_NAME
from wtool.encodings.protobuf import read_varint
from wtool.encodings.sorted_table import FOOTER_BYTES, has_magic, open_table
from wtool.errors import UsageError, WtoolError
from wtool.sources import FileSource, Source, read_bytes

STATE_NAME = "checkpoint"
GRAPH_NAMES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
VARIABLES = os.path.join("variables", "variables")
# A V1 checkpoint saved in shards: model.ckpt-00000-of-00004.
V1_SHARD_NAME = re.compile(r"-(\d{5})-of-(\d{5})\Z")
# TensorFlow itself names those by a pattern, `checkpoint` files too: model.ckpt-?????-of-00004.
V1_SHARD_PATTERN = re.compile(r"-\?{5}-of-\d{5}\Z")
# What the message of SavedTensorSlices starts with: field 1, a message. A bundle's header: field 1,
# a number.
V1_FIRST_BYTE = b"\x0a"


@dataclass(frozen=True)
class Target:
    """What a path means. kind: "v2" (bundle), "v1" (one table or shards) or "saved_model".

    prefix: of the bundle; for "v1" the file, or what its shards have in common.
    directory: of the SavedModel. notes: what a user should know about the way from path to prefix.
    """

    kind: str
    prefix: str
    directory: str | None = None
    notes: tuple[str, ...] = ()


def find_target(path: str) -> Target | None:
    """The TensorFlow checkpoint that `path` means; None where it means none.

    Raises where the path is certainly TensorFlow's but leads nowhere: a broken `checkpoint` file, a
    directory with several checkpoints and none named.
    """
    if os.path.isdir(path):
        return _in_directory(path) or _at_prefix(os.path.normpath(path))
    if os.path.exists(path):
        return _at_file(path)
    return _at_prefix(path)


def table_kind(source: Source) -> str | None:
    """ "v2" or "v1" by the first entry of the sorted table in `source`; None where it is no table.

    A broken table goes by its name: opening it will say what is wrong.
    """
    if source.size < FOOTER_BYTES or not has_magic(bytes(read_bytes(source, source.size - 8, 8))):
        return None
    try:
        table = open_table(source)
        first = table.block(table.handles[0])[0] if table.handles else (b"", b"")
    except WtoolError:
        return "v2" if source.name.endswith(".index") else "v1"
    return "v1" if first[1][:1] == V1_FIRST_BYTE else "v2"


def siblings(prefix: str, name: re.Pattern[str]) -> list[str]:
    """Files beside `prefix` whose names are its name plus a match of `name`; sorted paths."""
    directory, base = os.path.split(prefix)
    try:
        with os.scandir(directory or ".") as listing:
            found = [
                entry.name
                for entry in listing
                if entry.name.startswith(base) and name.fullmatch(entry.name, len(base))
            ]
    except (OSError, ValueError):
        return []
    return [os.path.join(directory, entry) for entry in sorted(found)]


def _at_file(path: str) -> Target | None:
    directory, name = os.path.split(path)
    if not os.path.isfile(path):
        return None
    source = FileSource(path)
    kind = table_kind(source)
    if kind == "v1":
        return Target("v1", V1_SHARD_NAME.sub("", path))
    if kind == "v2":
        return Target("v2", path.removesuffix(".index"))
    if DATA_NAME.search(name):
        return Target("v2", DATA_NAME.sub("", path))
    if name.endswith(".index"):
        prefix = path.removesuffix(".index")
        # An index begins with its empty key: shared 0, unshared 0.
        if bytes(read_bytes(source, 0, min(2, source.size))) == b"\0\0" or siblings(
            prefix, DATA_NAME
        ):
            return Target("v2", prefix)
    elif _starts_as_v1(bytes(read_bytes(source, 0, min(32, source.size)))):
        # Cut short: the table's end is missing. Opening says so.
        return Target("v1", path)
    elif name.endswith(".meta"):
        prefix = path.removesuffix(".meta")
        if os.path.exists(prefix + ".index"):
            return Target("v2", prefix)
    elif name in GRAPH_NAMES:
        return Target("saved_model", os.path.join(directory, VARIABLES), directory)
    elif name == STATE_NAME and _is_state(source):
        return _from_state(path)
    return None


def _in_directory(path: str) -> Target | None:
    variables = os.path.join(path, VARIABLES)
    if os.path.exists(variables + ".index") or any(
        os.path.isfile(os.path.join(path, name)) for name in GRAPH_NAMES
    ):
        return Target("saved_model", variables, path)
    state = os.path.join(path, STATE_NAME)
    if os.path.isfile(state) and _is_state(FileSource(state)):
        return _from_state(state)
    indexes = siblings(os.path.join(path, ""), re.compile(r".+\.index"))
    prefixes = [name.removesuffix(".index") for name in indexes]
    prefixes = [prefix for prefix in prefixes if siblings(prefix, DATA_NAME)]
    if len(prefixes) > 1:
        raise UsageError(
            f"directory holds {len(prefixes)} TensorFlow checkpoints and no 'checkpoint' file",
            path=path,
            hint=f"name one of them, for example {prefixes[-1]}",
        )
    return Target("v2", prefixes[0]) if prefixes else None


def _at_prefix(path: str) -> Target | None:
    if os.path.lexists(path + ".index") or siblings(path, DATA_NAME):
        return Target("v2", path)
    prefix = V1_SHARD_PATTERN.sub("", path)
    return Target("v1", prefix) if siblings(prefix, V1_SHARD_NAME) else None


def _from_state(path: str) -> Target:
    from wtool.dialects.tf_state import read_state, state_prefix

    state = read_state(path)
    prefix, note = state_prefix(state, path)
    prefix = V1_SHARD_PATTERN.sub("", prefix)
    notes = [] if note is None else [note]
    if len(state.all) > 1:
        notes.append(
            f"the newest of {len(state.all)} checkpoints, {os.path.basename(prefix)}, was opened"
        )
    is_v1 = not os.path.exists(prefix + ".index") and (
        os.path.isfile(prefix) or siblings(prefix, V1_SHARD_NAME)
    )
    return Target("v1" if is_v1 else "v2", prefix, notes=tuple(notes))


def _starts_as_v1(head: bytes) -> bool:
    """Whether a file begins as a V1 table: empty key, list of tensors, first tensor."""
    if head[:2] != b"\0\0":
        return False
    try:
        _, position = read_varint(head, 2, len(head))
        if head[position : position + 1] != V1_FIRST_BYTE:
            return False
        _, position = read_varint(head, position + 1, len(head))
    except WtoolError:
        return False
    return head[position : position + 1] == V1_FIRST_BYTE


def _is_state(source: Source) -> bool:
    """Whether the file names a checkpoint, as opposed to any other file called `checkpoint`."""
    from wtool.dialects.tf_state import MODEL_FIELD

    head = bytes(read_bytes(source, 0, min(source.size, 65536)))
    return MODEL_FIELD.encode() in head
