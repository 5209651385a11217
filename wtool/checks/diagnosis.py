"""Why a model does not load where another does: names, shapes, types and ties compared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL
from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput, counted, shorten
from wtool.extents import Strided
from wtool.sources import FileSource, read_bytes

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint

# Rows of one kind; the last says how many more there are.
MOST = 8
MAX_LIST_NBYTES = 64 << 20
_LINE = re.compile(r"(\S+)(?:\s+(scalar|\d+(?:x\d+)*))?(?:\s+([a-z]\w*))?")


@dataclass(frozen=True, slots=True)
class Symptom:
    """One reason: what kind, of which tensor or name, what is there and what is expected.

    mend: the command or step that mends it.
    """

    problem: str
    where: str
    found: str
    expected: str
    mend: str


@dataclass(frozen=True)
class Expected:
    """What a loader asks for: shape and type by name, None where a list does not say; and ties.

    keeps_ties: whether a tied tensor would stand here under both names, as PyTorch saves it.
    """

    path: str
    tensors: Mapping[str, tuple[tuple[int, ...] | None, str | None]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    keeps_ties: bool = True


def expected_of(checkpoint: Checkpoint) -> Expected:
    """What a reference model holds, optimizer and copies left out."""
    kept = [t for t in checkpoint if t.role not in BESIDE_MODEL]
    return Expected(
        checkpoint.path,
        {t.name: (t.shape, t.dtype.name) for t in kept},
        checkpoint.aliases,
        keeps_ties=checkpoint.format.startswith("torch"),
    )


def read_expected(path: str) -> Expected:
    """A list of names, one a line: "fc.weight", "fc.weight 10x512" or "fc.weight 10x512 float32".

    Empty lines and lines that begin with # are skipped. MalformedInput for any other line.
    """
    source = FileSource(path)
    if source.size > MAX_LIST_NBYTES:
        raise MalformedInput("list of names too long", path=path, found=f"{source.size} bytes")
    tensors: dict[str, tuple[tuple[int, ...] | None, str | None]] = {}
    text = bytes(read_bytes(source, 0, source.size)).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or (match[3] and match[3] not in DTYPES):
            raise MalformedInput(
                f"line {number} of the list is not understood",
                path=path,
                expected="NAME, NAME SHAPE or NAME SHAPE TYPE, as in fc.weight 10x512 float32",
                found=repr(line[:80]),
            )
        shape = None
        if match[2]:
            sizes = () if match[2] == "scalar" else match[2].split("x")
            shape = tuple(int(size) for size in sizes)
        tensors[match[1]] = shape, match[3]
    return Expected(path, tensors)


def examine(checkpoint: Checkpoint) -> Iterator[Symptom]:
    """What stands in the way of any loader: the byte order, the branch that the model is in."""
    big = [t.name for t in checkpoint if isinstance(t.extent, Strided) and t.extent.big_endian]
    if big:
        yield Symptom(
            "byte order",
            shorten(big[0]),
            f"{counted(len(big), 'tensor')} stored big-endian",
            "little-endian",
            command(checkpoint.path),
        )
    renamed = (t for t in checkpoint if t.path and t.name != ".".join(t.path))
    first = next(renamed, None)
    if first is not None and checkpoint.format.startswith("torch"):
        outer = ".".join(first.path).removesuffix(first.name).rstrip(".")
        yield Symptom(
            "nested",
            outer,
            f"the model is the branch '{outer}' of the file",
            "a state dict",
            command(checkpoint.path, "--model-only"),
        )


def compare(checkpoint: Checkpoint, expected: Expected) -> Iterator[Symptom]:
    """How the model differs from what is expected, the prefix first; nothing where it fits."""
    mine = {t.name: t for t in checkpoint if t.role not in BESIDE_MODEL}
    wanted = expected.tensors
    strip, add = find_prefix(set(mine), set(wanted))
    names = {add + name.removeprefix(strip): name for name in mine}
    if strip or add:
        what = f"names begin with '{strip}'" if strip else f"names lack '{add}'"
        option = ("--strip-prefix", strip) if strip else ("--rename", f"re:^={add}")
        yield Symptom(
            "prefix",
            next(iter(mine)),
            what,
            next(iter(wanted)),
            command(checkpoint.path, *option),
        )
    if not wanted.keys() & names.keys():
        yield Symptom(
            "other names",
            next(iter(mine), checkpoint.path),
            f"none of {len(mine):,} names is expected",
            next(iter(wanted), "nothing"),
            "another model, or another framework's names: see wtool diff and wtool convert",
        )
        return
    missing = [name for name in wanted if name not in names]
    ties = {name: owner for name in missing if (owner := _tied(name, names, expected))}
    for name, owner in list(ties.items())[:MOST]:
        yield Symptom(
            "tie missing",
            name,
            f"only '{owner}' is stored",
            f"tied to '{owner}'",
            "call model.tie_weights() after loading, or load with strict=False",
        )
    if len(ties) > MOST:
        yield _more("tie missing", len(ties) - MOST)
    lost = [name for name in missing if name not in ties]
    yield from _listed("missing key", lost, "no such tensor", expected, checkpoint)
    surplus = [own for name, own in names.items() if name not in wanted]
    if not expected.keeps_ties:
        stored = _ties(checkpoint, {own for name, own in names.items() if name in wanted})
        surplus = [own for own in surplus if own not in stored]
    yield from _listed("unexpected key", surplus, "a tensor", expected, checkpoint)
    shown: dict[str, int] = {}
    for name, own in names.items():
        for symptom in _fit(checkpoint, own, *wanted[name]) if name in wanted else ():
            shown[symptom.problem] = shown.get(symptom.problem, 0) + 1
            if shown[symptom.problem] <= MOST:
                yield symptom
    for problem, number in shown.items():
        if number > MOST:
            yield _more(problem, number - MOST)


def find_prefix(mine: set[str], wanted: set[str]) -> tuple[str, str]:
    """(prefix to strip, prefix to add) that makes most names fit; "" where none is needed."""
    best = (len(mine & wanted), "", "")
    for prefix in _prefixes(mine):
        fit = sum(n.startswith(prefix) and n[len(prefix) :] in wanted for n in mine)
        best = max(best, (fit, prefix, ""), key=lambda entry: entry[0])
    for prefix in _prefixes(wanted):
        fit = sum(prefix + name in wanted for name in mine)
        best = max(best, (fit, "", prefix), key=lambda entry: entry[0])
    return best[1], best[2]


def _prefixes(names: set[str]) -> list[str]:
    """Leading components that at least half of the names share, dots included."""
    counts: dict[str, int] = {}
    for name in names:
        for place in range(min(6, name.count("."))):
            prefix = ".".join(name.split(".")[: place + 1]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(prefix for prefix, n in counts.items() if 2 * n >= len(names))


def _ties(checkpoint: Checkpoint, wanted: set[str]) -> set[str]:
    """Names of tensors that repeat a wanted one, whole: it may have been stored once for all."""
    groups: dict[str, list[str]] = {}
    for alias, owner in checkpoint.aliases.items():
        if checkpoint.tensors[alias].shape == checkpoint.tensors[owner].shape:
            groups.setdefault(owner, [owner]).append(alias)
    return {name for group in groups.values() if wanted.intersection(group) for name in group}


def _tied(name: str, names: Mapping[str, str], expected: Expected) -> str | None:
    """The stored tensor that a missing one is tied to, as the reference has it."""
    owner = expected.aliases.get(name)
    if owner is not None:
        return owner if owner in names else None
    return next((n for n, o in expected.aliases.items() if o == name and n in names), None)


def _listed(
    problem: str, names: list[str], found: str, expected: Expected, checkpoint: Checkpoint
) -> Iterator[Symptom]:
    missing = problem == "missing key"
    for name in names[:MOST]:
        shape, dtype = expected.tensors.get(name, (None, None))
        if missing:
            said = " ".join(part for part in (_shown(shape), dtype) if part) or "a tensor"
            mend = "look for it under another name with wtool ls, or fetch the whole file"
        else:
            own = checkpoint.tensors[name]
            found, said = f"{_shown(own.shape)} {own.dtype}", "no such tensor"
            mend = command(checkpoint.path, "--exclude", name)
        yield Symptom(problem, name, found, said, mend)
    if len(names) > MOST:
        yield _more(problem, len(names) - MOST)


def _more(problem: str, number: int) -> Symptom:
    return Symptom(problem, "...", f"{number:,} more", "", "wtool diff shows all")


def _fit(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...] | None, dtype: str | None
) -> Iterator[Symptom]:
    own = checkpoint.tensors[name]
    if shape is not None and own.shape != shape:
        mend = "load the model that this file is of, or another file"
        if sorted(own.shape) == sorted(shape):
            mend = "the axes are in another order: convert between frameworks with wtool convert"
        elif own.shape[1:] == shape[1:]:
            mend = "another number of classes or words: resize the layer, or " + command(
                checkpoint.path, "--exclude", name
            )
        yield Symptom("shape", name, _shown(own.shape), _shown(shape), mend)
    if dtype is not None and own.dtype.name != dtype:
        mend = "save it in that type, or load it with what converts it"
        if own.dtype.kind == DTYPES[dtype].kind == "float":
            mend = f"wtool cast {shlex.quote(checkpoint.path)} OUT.safetensors --to {dtype}"
        yield Symptom("dtype", name, own.dtype.name, dtype, mend)


def _shown(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return ""
    return "x".join(map(str, shape)) or "scalar"


def command(path: str, *options: str) -> str:
    """The `wtool convert` that mends `path`, ready for a shell."""
    words = ["wtool", "convert", path, "OUT.safetensors", *options]
    return " ".join(shlex.quote(word) for word in words)
