"""Two forms of one model lie in a folder and do not hold the same.

Why it is bad: which one is loaded depends on the library and its version: two users of one release
get two models.

Example: `pytorch_model.bin` and `model.safetensors` differ in `classifier.weight` at 0, 4.

How to mend it: write one from the other (`wtool convert`), or delete the stale one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject, is_absent, unravel

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

# One row is one model under the names that its forms have.
TWINS: tuple[tuple[str, ...], ...] = (
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
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
BLOCK = 1 << 18


def find(subject: Subject) -> Iterator[Finding]:
    """Findings for each twin: the first difference of each kind.

    A warning where only the name before the suffix says that the two are one model.
    """
    for path in twins(subject.checkpoint):
        if subject.open_model is not None:
            known = any(os.path.basename(path) in row for row in TWINS)
            for finding in _compare(subject.checkpoint, subject.open_model(path), path):
                yield finding if known else replace(finding, severity="warning")


def twins(checkpoint: Checkpoint) -> list[str]:
    """Paths of the other forms of the model in its folder."""
    opened = checkpoint.files[0] if checkpoint.files else checkpoint.path
    folder, name = os.path.split(opened)
    stem, suffix = os.path.splitext(name)
    same = tuple(stem + other for other in SUFFIXES) if suffix in SUFFIXES else ()
    row = next((row for row in TWINS if name in row), ())
    others = [os.path.join(folder, n) for n in dict.fromkeys((*row, *same)) if n != name]
    return [path for path in others if os.path.isfile(path)]


def _compare(model: Checkpoint, twin: Checkpoint, path: str) -> Iterator[Finding]:
    other = os.path.basename(path)
    # A tie may be stored in one form and left out in the other.
    missing = [n for n in model.tensors if n not in twin.tensors and n not in model.aliases]
    extra = [n for n in twin.tensors if n not in model.tensors and n not in twin.aliases]
    if missing:
        yield Finding(f"{other} lacks it and {len(missing) - 1:,} more", missing[0], file=path)
    if extra:
        yield Finding(f"only {other} has it and {len(extra) - 1:,} more", extra[0], file=path)
    different = 0
    first: Finding | None = None
    for tensor in model:
        same = twin.tensors.get(tensor.name)
        if same is None or is_absent(tensor) or is_absent(same):
            continue
        fault = _difference(tensor, same, other)
        if fault is not None:
            different += 1
            first = first or Finding(fault[0], tensor.name, fault[1], file=path)
    if first is not None:
        more = f" (and {different - 1:,} more tensors)" if different > 1 else ""
        yield Finding(first.message + more, first.tensor, first.index, file=path)


def _difference(a: Tensor, b: Tensor, other: str) -> tuple[str, tuple[int, ...] | None] | None:
    """(what differs, where) between two tensors, bit by bit; None where they are the same."""
    if a.dtype is not b.dtype or a.shape != b.shape:
        return f"{other} has {b.dtype} {list(b.shape)}, this {a.dtype} {list(a.shape)}", None
    for start in range(0, a.count, BLOCK):
        stop = min(a.count, start + BLOCK)
        left, right = a.read(start, stop), b.read(start, stop)
        if left.tobytes() != right.tobytes():
            import numpy as np

            size = left.dtype.itemsize
            rows = left.view(np.uint8).reshape(-1, size) != right.view(np.uint8).reshape(-1, size)
            at = int(np.argmax(rows.any(axis=1)))
            index = unravel(start + at, a.shape)
            return f"{other} has {right[at].item()!r} here, this {left[at].item()!r}", index
    return None


RULE = Rule(
    "WT055",
    "twins-differ",
    "error",
    "write one from the other by wtool convert, or delete the stale one",
    find,
    __doc__,
)
