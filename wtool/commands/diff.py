"""`wtool diff`: what changed between two models."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import PATH, as_text, open_model, report_command
from wtool.commands.diff_manifests import diff_manifests
from wtool.commands.diff_rows import (
    ARCHITECTURE,
    GROUP_COLUMNS,
    TENSOR_COLUMNS,
    Change,
    group_rows,
    is_same,
    rank,
    summary,
    tensor_row,
)
from wtool.commands.grouping import group_of
from wtool.commands.selection import choose, keep_names
from wtool.errors import UsageError
from wtool.extents import Absent
from wtool.report import Column, Report

if TYPE_CHECKING:
    from wtool.kernels.compare import Difference

# What comparing two tensors costs beside their values, in bytes read.
WORTH_NBYTES = 64 << 10
BLOCK_BYTES = 1 << 20
_BY = ("tensor", "layer", "depth:N", "kind")


def diff(
    a: Checkpoint | str | os.PathLike[str],
    b: Checkpoint | str | os.PathLike[str],
    *,
    by: str = "tensor",
    tolerance: float = 0.0,
    show_all: bool = False,
    ignore_dtype: bool = False,
    select: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Compare two models: tensors added, removed, renamed, reshaped, retyped, values changed.

    Works across containers and types. `max_rel` is relative to A; `rel_l2` is the norm of the
    change over the norm of A. Rows are sorted by how much changed; equal tensors are left out
    (--all shows them). Groups measure floating tensors only: a step counter would drown them.
    A manifest may stand for a model: structure and digests are compared, not by how much values
    differ. A complex number counts as two real ones. Exit code 0: the same; 1: different.

    \b
    Example:
      wtool diff fixtures/digits-cnn.pth fixtures/digits-cnn.safetensors
      wtool diff fixtures/digits-cnn-fresh.pth fixtures/digits-cnn.pth --by layer
    """
    if not tolerance >= 0:
        raise UsageError("bad tolerance", expected="a number from 0 on", found=tolerance)
    a, b = as_text(a), as_text(b)
    group = group_of(by, allowed=_BY)
    if _is_manifest(a) or _is_manifest(b):
        if by != "tensor" or tolerance or show_all:
            raise UsageError(
                "a manifest has no values: --by, --tolerance and --all need two models"
            )
        return diff_manifests(
            a,
            b,
            keep=keep_names(select, exclude),
            ignore_dtype=ignore_dtype,
            root=root,
            jobs=jobs,
            progress=progress,
        )
    old = a if isinstance(a, Checkpoint) else open_model(a, root=root)
    new = b if isinstance(b, Checkpoint) else open_model(b, root=root)
    old, new = _choose_in_either(old, new, select, exclude)
    changes = list(_pair(old, new, ignore_dtype, jobs, progress))
    different = [c for c in changes if not is_same(c, tolerance)]
    if by == "tensor":
        shown = changes if show_all else different
        rows = [tensor_row(c, tolerance) for c in sorted(shown, key=rank)]
        columns: tuple[Column, ...] = TENSOR_COLUMNS
    else:
        rows = group_rows(changes, group, tolerance, show_all=show_all)
        columns = GROUP_COLUMNS
    counts = {kind: sum(c.change == kind for c in different) for kind in (*ARCHITECTURE, "changed")}
    totals = {
        **counts,
        "same": len(changes) - len(different),
        "tensors": len(changes),
        "max_abs": max((c.difference.max_abs for c in changes if c.difference), default=0.0),
    }
    return Report(
        command="diff",
        columns=columns,
        rows=rows,
        totals=totals,
        ok=not different,
        notes=[*old.notes, *(note for note in new.notes if note not in old.notes)],
        sources=[old.path, new.path],
        footer=[summary(counts, totals, tolerance)],
    )


def _is_manifest(side: Checkpoint | str) -> bool:
    from wtool.manifests.document import is_manifest

    return isinstance(side, str) and is_manifest(side)


def _choose_in_either(
    old: Checkpoint, new: Checkpoint, select: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[Checkpoint, Checkpoint]:
    """Both restricted to the patterns; a pattern must match in one of the two, not in each."""
    if not select and not exclude:
        return old, new
    both = Checkpoint("", "", {**old.tensors, **new.tensors})
    names = choose(both, select, exclude).tensors
    return tuple(  # type: ignore[return-value]
        Checkpoint(
            c.path, c.format, {n: t for n, t in c.tensors.items() if n in names}, notes=c.notes
        )
        for c in (old, new)
    )


def _pair(
    old: Checkpoint,
    new: Checkpoint,
    ignore_dtype: bool,
    jobs: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Change]:
    """Every tensor of either model once: by name, then what is left by equal content."""
    pairs = [(t, new[t.name]) for t in old if t.name in new.tensors]
    gone = [t for t in old if t.name not in new.tensors]
    come = [t for t in new if t.name not in old.tensors]
    comparable = [(x, y) for x, y in pairs if _can_compare(x, y)]
    total = sum(x.nbytes + y.nbytes for x, y in comparable)
    # Small tensors are mostly Python's work: threads would only wait for each other.
    jobs = jobs or (os.cpu_count() or 1 if total > WORTH_NBYTES * len(comparable) else 1)
    with ThreadPoolExecutor(jobs) as pool:
        done = 0
        results = dict.fromkeys(x.name for x, _ in pairs)
        differences = (map if jobs == 1 else pool.map)(_compare, comparable)
        for (x, y), difference in zip(comparable, differences, strict=True):
            results[x.name] = difference
            done += x.nbytes + y.nbytes
            if progress is not None:
                progress(done, total)
    for x, y in pairs:
        if x.shape != y.shape:
            change = "reshaped"
        elif x.dtype is not y.dtype and not ignore_dtype:
            change = "retyped"
        else:
            change = "changed"
        yield Change(change, x, y, results[x.name])
    renamed = _match_by_content(gone, come)
    for x in gone:
        if x.name not in renamed:
            yield Change("removed", x, None)
    before = {y.name: x for x, y in renamed.values()}
    for y in come:
        yield Change("renamed", before[y.name], y) if y.name in before else Change("added", None, y)


def _can_compare(x: Tensor, y: Tensor) -> bool:
    has_values = not isinstance(x.extent, Absent) and not isinstance(y.extent, Absent)
    return x.shape == y.shape and has_values


def _compare(pair: tuple[Tensor, Tensor]) -> Difference:
    """The difference of two tensors of one shape, in blocks of BLOCK_BYTES."""
    from wtool.kernels.compare import Difference, compare, merge

    x, y = pair
    for tensor in pair:
        tensor.refuse_expansion()
    whole = Difference()
    step = max(1, BLOCK_BYTES // max(x.dtype.carrier.itemsize, y.dtype.carrier.itemsize))
    for start in range(0, x.count, step):
        stop = min(x.count, start + step)
        whole = merge(whole, compare(x.read(start, stop), y.read(start, stop)))
    return whole


def _match_by_content(gone: list[Tensor], come: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Old name -> (old, new) for tensors that kept type, shape and every value under another name.

    Only content that is unique on both sides decides: equal zeros prove nothing.
    """

    def signature(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
        return tensor.dtype.name, tensor.shape

    shared = {signature(t) for t in gone} & {signature(t) for t in come}
    by_content: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for side, tensors in enumerate((gone, come)):
        for tensor in tensors:
            if signature(tensor) in shared and not isinstance(tensor.extent, Absent):
                key = (*signature(tensor), _digest(tensor))
                by_content.setdefault(key, ([], []))[side].append(tensor)
    return {
        old[0].name: (old[0], new[0])
        for old, new in by_content.values()
        if len(old) == len(new) == 1
    }


def _digest(tensor: Tensor) -> bytes:
    digest = hashlib.sha256()
    for block in tensor.blocks(BLOCK_BYTES):
        if block.dtype == object:
            for text in block:
                digest.update(len(text).to_bytes(8, "little") + text)
        else:
            digest.update(block.view("uint8").data)
    return digest.digest()


COMMAND = report_command(
    diff,
    click.Argument(["a"], type=PATH),
    click.Argument(["b"], type=PATH),
    click.Option(
        ["--by"], default="tensor", metavar="|".join(_BY), show_default=True, help="Rows."
    ),
    click.Option(
        ["--tolerance"],
        type=float,
        default=0.0,
        metavar="X",
        help="Largest absolute difference of a value that counts as the same.",
    ),
    click.Option(["--all", "show_all"], is_flag=True, help="Show equal tensors too."),
    click.Option(["--ignore-dtype"], is_flag=True, help="Another type alone is no difference."),
    models="none",
)
