"""A folder that holds one model, as Hugging Face and others lay it out.

Known names come first, in the order in which the libraries themselves look (transformers 4.57: one
file before its shards, safetensors before PyTorch). Otherwise a folder with exactly one weight file
is opened through it. Folders of TensorFlow and torch.distributed have formats of their own and are
left to them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.encodings import strict_json
from wtool.errors import InputError, MissingInput, UnknownFormat
from wtool.formats import Format, Probe, open_probe
from wtool.sources import FileSource, read_bytes

MAX_ENTRIES = 100_000
MAX_CONFIG_NBYTES = 1 << 20
MAX_LISTED = 8

# One row is one model under all the names that it may have, the preferred first.
KNOWN_NAMES: tuple[tuple[str, ...], ...] = (
    (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin.index.json",
    ),
    ("adapter_model.safetensors", "adapter_model.bin"),
)
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json", ".weights.json")
WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".pt2", ".ckpt"),
    *(".h5", ".hdf5", ".keras", ".npz", ".npy"),
)
# What a training run keeps beside its model.
TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")
# What HuggingFaceStorageWriter of torch.distributed writes, a file for each rank.
RANK_NAME = re.compile(r"shard-\d{5}-.+\.safetensors")
SHARD_NAME = re.compile(r"(.+?)[-_]\d{5}(-of-\d{5})?(\.weights)?\.(safetensors|bin|h5)")


def claims(probe: Probe) -> bool:
    """A directory with weight files, and without the marks of TensorFlow or torch.distributed."""
    if not probe.is_directory:
        return False
    names = file_names(probe.path)
    return bool(weight_files(names)) and not is_claimed_elsewhere(probe.path, names)


def is_claimed_elsewhere(path: str, names: Sequence[str]) -> bool:
    """Whether the folder is a TensorFlow checkpoint or SavedModel, or a distributed checkpoint."""
    marks = {"checkpoint", "saved_model.pb", "saved_model.cpb", ".metadata"}
    return (
        any(name in marks or name.endswith((".index", ".distcp")) for name in names)
        or os.path.isfile(os.path.join(path, "variables", "variables.index"))
    )  # fmt: skip


def file_names(path: str) -> list[str]:
    """Names of the regular files in a folder, sorted; at most MAX_ENTRIES are looked at."""
    names = []
    try:
        with os.scandir(path) as entries:
            for _, entry in zip(range(MAX_ENTRIES), entries, strict=False):
                if entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot read the folder: {reason}", path=path) from error
    return sorted(names)


def weight_files(names: Sequence[str]) -> list[str]:
    """The files that may each be a whole model: indexes, and weight files that are no shard."""
    indexes = [name for name in names if name.endswith(INDEX_SUFFIXES)]
    stems = {re.sub(r"\.(safetensors\.index|bin\.index|weights)\.json$", "", i) for i in indexes}
    single = []
    for name in names:
        shard = SHARD_NAME.fullmatch(name)
        if name.endswith(WEIGHT_SUFFIXES) and not (shard and shard.group(1) in stems):
            single.append(name)
    models = [name for name in single if not TRAINING_STATE.fullmatch(name)]
    return indexes + (models or ([] if indexes else single))


def choose(path: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """(the file to open, other forms of the same model that are left aside).

    UnknownFormat, listing them, where the folder holds several models.
    """
    found = set(names)
    known = [present for row in KNOWN_NAMES if (present := [n for n in row if n in found])]
    if len(known) == 1:
        return known[0][0], known[0][1:]
    candidates = [row[0] for row in known] if known else weight_files(names)
    if len(candidates) == 1:
        return candidates[0], []
    shards = [SHARD_NAME.fullmatch(name) for name in candidates]
    if all(shards) and len({shard.group(1) for shard in shards if shard}) == 1:
        raise MissingInput(
            f"the folder holds {len(candidates)} shards of one model without their index",
            path=path,
            found=f"{candidates[0]}, ...",
            hint="fetch the .index.json file",
        )
    if all(RANK_NAME.fullmatch(name) for name in candidates):
        raise UnknownFormat(
            f"the folder holds the parts of {len(candidates)} ranks of torch.distributed",
            path=path,
            found=f"{candidates[0]}, ...",
            hint="join them with torch's consolidate_safetensors_files",
        )
    shown = ", ".join(candidates[:MAX_LISTED])
    more = f" and {len(candidates) - MAX_LISTED} more" if len(candidates) > MAX_LISTED else ""
    raise UnknownFormat(
        "the folder holds several models",
        path=path,
        expected="one",
        found=f"{shown}{more}",
        hint="name the file to open",
    )


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The model of the folder; `path` stays the folder, `config.json` becomes extras `config.*`."""
    names = file_names(probe.path)
    chosen, left = choose(probe.path, names)
    inner = Probe(os.path.join(probe.path, chosen))
    checkpoint = open_probe(inner, root=root)
    notes = [f"opened {chosen}"]
    if left:
        notes[0] += f"; the same model in another form is left aside: {', '.join(left)}"
    extras = dict(checkpoint.extras)
    if "config.json" in names:
        config = read_config(os.path.join(probe.path, "config.json"))
        if config is None:
            notes.append("config.json is not used: it is too long or not a JSON object")
        else:
            extras.update(config)
    return dataclasses.replace(
        checkpoint, path=probe.path, extras=extras, notes=(*notes, *checkpoint.notes)
    )


def read_config(path: str) -> dict[str, Any] | None:
    """The plain values of a `config.json` as {"config.key": value}; None where it is unusable."""
    try:
        source = FileSource(path)
        if source.size > MAX_CONFIG_NBYTES:
            return None
        config = strict_json.loads(read_bytes(source, 0, source.size))
    except InputError:
        return None
    if type(config) is not dict:
        return None
    return {
        f"config.{key}": value
        for key, value in config.items()
        if value is None or isinstance(value, str | int | bool)
    }


FORMAT = Format(
    name="model_directory",
    title="model folder",
    suffixes=(),
    claims=claims,
    open_file=open_file,
)
