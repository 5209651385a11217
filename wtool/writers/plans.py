"""A plan, made before any byte: which files a save will write, and what it would lose."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from wtool.checkpoint import FACTS, Checkpoint, Tensor
from wtool.errors import LossError, UnsupportedError, UsageError, shorten
from wtool.extents import Absent, Strided
from wtool.writers.outputs import Output, OutputSet, refuse_targets

# What a container may be unable to hold; each is allowed by its name.
LOSSES = {
    "extras": "values that are no tensors (epoch, hyperparameters)",
    "metadata": "text that the file carries",
    "ties": "tensors that share their bytes are written separately",
    "structure": "how a nested file is nested, or a graph of objects",
    "template": "places of the template that keep its values",
    "unplaced": "tensors that the template has no place for",
}
# Extras that a reader found out about the file; they are not in it.
DERIVED_EXTRAS = frozenset(("duplicates",))
# Metadata that describes the source's container; the target has its own.
CONTAINER_FACTS = frozenset(
    (
        "torch version record",
        "byte order",
        "total_size",
        "keras_version",
        "backend",
        "tensorflow_version",
    )
)
# The names that wtool gives to facts: each container can hold them, and tell one from another.
_FACT_NAME = re.compile(re.escape(FACTS) + r"[a-z0-9_-]{1,64}")
# Readers show no longer texts; wtool writes a few lines.
MAX_FACT_BYTES = 1 << 20
# More names than this in one message help nobody.
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Loss:
    """One thing that the output will lack. kind: one of LOSSES. name: of the tensor or value."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class PlannedFile:
    """One file of a plan.

    nbytes: its size, a lower bound where the container decides. write: fills it.
    """

    path: str
    nbytes: int
    write: Callable[[Output], None] = field(repr=False)
    tensors: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What a save will do. files: in writing order; the last makes the set whole."""

    container: str
    files: tuple[PlannedFile, ...]
    losses: tuple[Loss, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    def refuse_losses(self, allow: Collection[str]) -> None:
        """LossError naming what would be lost, unless its kind is in `allow`.

        UsageError where `allow` names a kind that does not exist.
        """
        unknown = sorted(set(allow) - set(LOSSES))
        if unknown:
            raise UsageError("no such kind of loss", expected=sorted(LOSSES), found=unknown[0])
        refused = [loss for loss in self.losses if loss.kind not in allow]
        if not refused:
            return
        kinds = sorted({loss.kind for loss in refused})
        raise LossError(
            f"{self.container} cannot hold all of it: {_listing(refused)}",
            hint=f"allow the loss of {', '.join(kinds)} to go on",
        )

    def write(
        self, *, force: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> list[str]:
        """Write every file, then let all appear at once; the paths, in order.

        progress(done, total): told of bytes while they are written.
        Law: after an error, whichever, each target is what it was, and no new file is left.
        """
        paths = [file.path for file in self.files]
        refuse_targets(paths, self.nbytes, force=force)
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(done, self.nbytes)

        with OutputSet(advance) as outputs:
            for file in self.files:
                output = outputs.create(file.path)
                file.write(output)
                # Here and not at the end: a thousand shards are not kept open.
                output.sync()
        return paths


def refuse_unsupported(
    tensors: Collection[Tensor], container: str, reason_against: Callable[[Tensor], str | None]
) -> None:
    """UnsupportedError that lists every tensor the container cannot hold, with each reason once.

    reason_against(tensor): why not, or None. Tensors without values can be held by none.
    """
    refused: dict[str, list[str]] = {}
    for tensor in tensors:
        reason = (
            f"no values ({tensor.extent.reason})"
            if isinstance(tensor.extent, Absent)
            else reason_against(tensor)
        )
        if reason is not None:
            refused.setdefault(reason, []).append(tensor.name)
    if refused:
        parts = [f"{reason}: {names_of(names)}" for reason, names in refused.items()]
        raise UnsupportedError(f"{container} cannot hold {'; '.join(parts)}")


def names_of(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    shown = ", ".join(f"'{shorten(name, 80)}'" for name in names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def extras_losses(checkpoint: Checkpoint, container: str) -> list[Loss]:
    """A Loss for each value that is no tensor."""
    return [
        Loss("extras", name, f"{container} holds tensors only")
        for name in checkpoint.extras
        if name not in DERIVED_EXTRAS and not is_module_versions(name)
    ]


def is_module_versions(name: str) -> bool:
    """Whether an extra is the `_metadata` of a state dict: numbers that torch writes beside every
    one, and needs only to mend the state dicts of its own old modules.
    """
    return name == "_metadata" or name.endswith("._metadata")


def carried_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The text that somebody wrote into the source, without what describes its container.

    Ties that the source records, {removed: kept}, are tensors of the checkpoint now; each writer
    finds them anew.
    """
    tensors = checkpoint.tensors
    return {
        name: text
        for name, text in checkpoint.metadata.items()
        if name not in CONTAINER_FACTS and not (name in tensors and text in tensors)
    }


def facts_of(checkpoint: Checkpoint, *, max_bytes: int = MAX_FACT_BYTES) -> dict[str, str]:
    """The texts that wtool itself wrote when it converted the model, sorted by name.

    Without those that somebody else gave such a name, and that a container might not give back: one
    with other letters, a text with a NUL, bytes that are no text, or more than `max_bytes`.
    """
    carried = carried_metadata(checkpoint)
    return {
        name: carried[name]
        for name in sorted(carried)
        if _FACT_NAME.fullmatch(name) and _is_short_text(carried[name], max_bytes)
    }


def _is_short_text(text: str, max_bytes: int) -> bool:
    try:
        return "\0" not in text and len(text.encode()) <= max_bytes
    except UnicodeEncodeError:
        return False


def metadata_losses(
    checkpoint: Checkpoint, container: str, *, kept: Collection[str] = ()
) -> list[Loss]:
    """A Loss for each text, except `format`, which only names the library that wrote the file.

    kept: names of texts that the container has a place for.
    """
    return [
        Loss("metadata", name, f"{container} has no place for text")
        for name in carried_metadata(checkpoint)
        if name != "format" and name not in kept
    ]


def tie_losses(aliases: Collection[str], container: str) -> list[Loss]:
    """A Loss for each tensor that shares bytes and will have its own."""
    return [Loss("ties", name, f"{container} stores each tensor by itself") for name in aliases]


def same_values(alias: Tensor, owner: Tensor) -> bool:
    """Whether two tied tensors are equal element by element: same type, shape and place.

    Two extents of the same storage that are not strided bytes are the same values by contract; a
    slice or a transpose of the owner is a tie too, but other values.
    """
    if alias.dtype is not owner.dtype or alias.shape != owner.shape:
        return False
    if isinstance(alias.extent, Strided) and isinstance(owner.extent, Strided):
        return geometry(alias.extent) == geometry(owner.extent)
    return type(alias.extent) is type(owner.extent)


def geometry(extent: Strided) -> tuple[object, ...]:
    """All that decides which values a strided extent gives, beside its bytes."""
    strides = tuple(t for t, n in zip(extent.strides, extent.shape, strict=True) if n != 1)
    return extent.first, strides, extent.bits, extent.big_endian, extent.conj, extent.neg


def resolve_owner(aliases: dict[str, str], name: str) -> str:
    """The tensor at the end of a chain of aliases; `name` itself where it is none."""
    seen = {name}
    while name in aliases and aliases[name] not in seen:
        name = aliases[name]
        seen.add(name)
    return name


def _listing(losses: Sequence[Loss]) -> str:
    parts = []
    for kind in sorted({loss.kind for loss in losses}):
        names = [loss.name for loss in losses if loss.kind == kind]
        parts.append(f"{kind} {names_of(names)}")
    return "; ".join(parts)
