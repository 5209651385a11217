"""What `convert` and `cast` share: the plan of the output, the write, the proof."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands.selection import choose, each
from wtool.errors import LossError, OutputError, UsageError, shorten
from wtool.sources import describe_mode

if TYPE_CHECKING:
    from wtool.bridges.proving import Bound, Proof
    from wtool.writers.plans import Loss, Plan

# TensorFlow's object graph, a tensor of text that only its own checkpoints can hold.
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Which options a container's writer takes, beside `untie`.
_TAKES = {
    "safetensors": {"max_shard_bytes"},
    "torch": {"max_shard_bytes"},
    "tensorflow": {"max_shard_bytes", "template", "state"},
    "npz": set(),
    "keras": {"template"},
}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# More digits than these are no size of a file.
_SIZE = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([KMGT]?|[KMGT]i)B?", re.IGNORECASE | re.ASCII
)
# Searching a shard size for `--shards N` stops when the bounds differ by so small a part of it.
_SHARD_PRECISION = 256


@dataclass(frozen=True)
class Target:
    """The output as asked for; the options of both commands, see `saving_options`."""

    path: str
    container: str | None = None
    max_shard_size: str | int | None = None
    shards: int | None = None
    template: str | None = None
    state: bool = False
    untie: bool = False
    drop_extras: bool = False
    allow: Sequence[str] = ()
    force: bool = False

    @property
    def allowed(self) -> set[str]:
        """Kinds of loss to accept."""
        return {*each(self.allow), *(("extras",) if self.drop_extras else ())}


@dataclass(frozen=True)
class Prepared:
    """A plan; of its losses, those that nobody allowed; the template where there is one."""

    plan: Plan
    refused: tuple[Loss, ...]
    accepted: tuple[Loss, ...]
    template: str | None = None

    @property
    def path(self) -> str:
        """What opens the output: its file, the index of its shards, or TensorFlow's prefix."""
        paths = [file.path for file in self.plan.files]
        if self.plan.container != "tensorflow":
            return paths[-1]
        # The `checkpoint` file comes behind the index where it is written.
        return [path for path in paths if path.endswith(".index")][-1].removesuffix(".index")

    def refuse(self) -> None:
        """LossError where something would be lost that nobody allowed; names the options."""
        try:
            self.plan.refuse_losses({loss.kind for loss in self.accepted})
        except LossError as error:
            kinds = sorted({loss.kind for loss in self.refused})
            error.hint = f"{', '.join(map(_option_for, kinds))} goes on"
            raise


def prepare(
    checkpoint: Checkpoint, target: Target, *, source: Checkpoint | None = None
) -> Prepared:
    """The plan of writing `checkpoint`; nothing is read or written yet.

    source: what was opened; where `checkpoint` is still all of it, a container that is written on a
    template takes the source as one.
    """
    from wtool.writers import plan
    from wtool.writers.plans import Loss

    container = container_of(target.path, target.container)
    lost: list[Loss] = []
    template = target.template or _own_template(checkpoint, source, container)
    if GRAPH_KEY in checkpoint.tensors and container != "tensorflow":
        kept = {name: t for name, t in checkpoint.tensors.items() if name != GRAPH_KEY}
        checkpoint = dataclasses.replace(checkpoint, tensors=kept)
        reason = "the graph of objects is TensorFlow's own"
        lost.append(Loss("structure", GRAPH_KEY, reason))
    options = {
        "max_shard_bytes": parse_size(target.max_shard_size),
        "template": template,
        "state": target.state or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - _TAKES.get(container, given.keys()):
        raise UsageError(f"{container} has no {name.replace('_bytes', '_size')}", path=target.path)
    if target.shards is not None:
        if target.shards < 1:
            raise UsageError("bad number of shards", expected="1 or more", found=target.shards)
        if "max_shard_bytes" not in _TAKES[container] or "max_shard_bytes" in given:
            raise UsageError("--shards goes with a container in shards, and no --max-shard-size")

        def planned(limit: int) -> Plan:
            return plan(
                checkpoint,
                target.path,
                container=container,
                untie=target.untie,
                **given,
                max_shard_bytes=limit,
            )

        given["max_shard_bytes"] = _size_for(planned, target.shards, checkpoint)
    made = plan(checkpoint, target.path, container=container, untie=target.untie, **given)
    made = dataclasses.replace(made, losses=(*made.losses, *lost))
    return Prepared(
        made,
        tuple(loss for loss in made.losses if loss.kind not in target.allowed),
        tuple(loss for loss in made.losses if loss.kind in target.allowed),
        template,
    )


def write(
    prepared: Prepared,
    target: Target,
    *,
    prove: bool,
    progress: Callable[[int, int], None] | None = None,
    beside: Plan | None = None,
) -> None:
    """Write what is planned; where a proof is wanted, not before its library is known to be there.

    beside: files that appear with the target or not at all.
    Raises LossError, UsageError, OutputError; the target is then what it was.
    """
    from wtool.bridges.proving import require_library

    prepared.refuse()
    if prove:
        require_library(prepared.plan.container)
    planned = prepared.plan
    if beside is not None:
        # First: the target's last file is the one that makes the set whole.
        planned = dataclasses.replace(planned, files=(*beside.files, *planned.files))
    planned.write(force=target.force, progress=progress)


def prove_written(
    prepared: Prepared,
    expected: Iterable[Tensor],
    *,
    root: str | None = None,
    bounds: Mapping[str, Bound] | None = None,
) -> Proof:
    """The proof that the output's own library finds in it the values of `expected`.

    expected: tensors of the source under the names of the output. bounds: by name, what casts may
    have changed.
    """
    from wtool.bridges.proving import Claim, Proof, prove
    from wtool.commands import open_model

    written = open_model(prepared.path, root=root)
    by_key = {tensor.key: tensor for tensor in written}
    claims, faults = [], []
    for tensor in expected:
        if tensor.name == GRAPH_KEY or (tensor.dtype.kind == "opaque" and not tensor.dtype.bits):
            continue
        found = written.tensors.get(tensor.name) or by_key.get(tensor.name)
        if found is None:
            faults.append(f"tensor '{shorten(tensor.name)}' is not in the output")
        else:
            claims.append(Claim(tensor, found, (bounds or {}).get(tensor.name)))
    complete = prepared.template is None
    proof = prove(prepared.path, prepared.plan.container, claims, complete=complete)
    return Proof(proof.library, proof.tensors, proof.nbytes, (*faults, *proof.faults))


def container_of(path: str, container: str | None = None) -> str:
    """The container named, or by the ending of `path`; no ending is a TensorFlow prefix."""
    from wtool.writers import container_of as by_suffix

    if container is not None:
        return container
    if os.path.isdir(path):
        raise OutputError(
            "cannot write: this is a folder",
            path=path,
            hint=f"name a file in it, as {os.path.join(path, 'model.safetensors')}",
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(
            "cannot write",
            path=path,
            expected="a regular file",
            found=describe_mode(os.stat(path).st_mode),
            hint="name another",
        )
    if not os.path.splitext(path)[1]:
        return "tensorflow"
    if path.lower().endswith(".keras"):
        raise UsageError(
            "wtool does not write .keras archives",
            path=path,
            expected="OUT.weights.h5 with --template MODEL.keras",
            hint="load_weights of the model reads that, and save then makes the archive",
        )
    try:
        return by_suffix(path)
    except UsageError as error:
        error.hint = "--container names it"
        raise


def parse_size(text: str | int | None) -> int | None:
    """Bytes of "5GB", "500MB", "2GiB" or a plain number; UsageError for anything else."""
    if text is None or isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError("bad size", expected="a number of bytes, or 500MB, 5GB, 2GiB", found=text)
    unit = match[2].capitalize()
    return int(Fraction(match[1]) * (_UNITS | _BINARY_UNITS)[unit])


def _option_for(kind: str) -> str:
    return {"extras": "--drop-extras", "ties": "--untie"}.get(kind, f"--allow {kind}")


def _own_template(checkpoint: Checkpoint, source: Checkpoint | None, container: str) -> str | None:
    """The source's path where it has the container's structure, and all its tensors are there."""
    if source is None or list(checkpoint.tensors) != list(source.tensors):
        return None
    if any(checkpoint[t.name].dtype is not t.dtype for t in source):
        return None
    if container == "tensorflow" and GRAPH_KEY in source.tensors:
        return source.path
    if container == "keras" and source.format in ("keras_weights_h5", "keras_h5", "keras_archive"):
        return source.path
    return None


def _size_for(plan: Callable[[int], Plan], shards: int, checkpoint: Checkpoint) -> int:
    """The smallest shard size, nearly, that gives at most `shards` files with tensors."""

    def count(limit: int) -> int:
        return sum(bool(file.tensors) for file in plan(limit).files)

    total = sum(tensor.nbytes for tensor in checkpoint)
    low, high = max(1, total // shards), max(1, total)
    while high - low > low // _SHARD_PRECISION:
        middle = (low + high) // 2
        if count(middle) <= shards:
            high = middle
        else:
            low = middle + 1
    return high


def shape(
    checkpoint: Checkpoint,
    *,
    strip_prefix: Sequence[str] = (),
    rename: Sequence[str] = (),
    model_only: bool = False,
    ema: bool = False,
) -> Checkpoint:
    """The tensors that are asked for, under the names that are asked for."""
    from wtool.conversion import naming, shaping

    if model_only and ema:
        raise UsageError("--model-only and --ema exclude each other")
    if model_only:
        checkpoint = shaping.model_only(checkpoint)
    if ema:
        checkpoint = shaping.averaged(checkpoint)
    return naming.rename(naming.strip_prefixes(checkpoint, each(strip_prefix)), each(rename))


def open_source(
    source: Checkpoint | str | os.PathLike[str],
    select: Sequence[str],
    exclude: Sequence[str],
    root: str | None,
) -> tuple[Checkpoint, Checkpoint]:
    """(what was opened, what of it is selected)."""
    from wtool.commands import opened_at
    from wtool.conversion.shaping import with_tensors

    opened = opened_at(source, root)
    chosen = choose(opened, select, exclude)
    if len(chosen) == len(opened):
        return opened, opened
    return opened, with_tensors(opened, chosen)
