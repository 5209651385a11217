"""`wtool ls`: what is in the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import opened, report_command
from wtool.commands.grouping import join_names
from wtool.errors import counted
from wtool.extents import Geometry, Strided
from wtool.report import Column, ColumnReport, Report, human_bytes
from wtool.sources import Source, absolute

_COLUMNS = (
    Column("name"),
    Column("dtype"),
    Column("shape"),
    Column("count", "elements"),
    Column("nbytes", "bytes"),
    Column("role"),
    Column("alias"),
    Column("file", hidden=True),
    Column("key", hidden=True),
)
# dtype, shape, count, nbytes
_Facts = tuple[str, list[int], int, int]


def ls(
    checkpoint: Checkpoint | str | os.PathLike[str], *, globals: bool = False, extras: bool = False
) -> Report:
    """List the tensors of a weight file: name, dtype, shape, count, nbytes, role.

    Reads headers only: no tensor byte is touched, nothing in the file runs. A tied tensor shows in
    `alias` the tensor whose bytes it shares. The last line gives the format and the totals.

    \b
    Example:
      wtool ls fixtures/digits-cnn.pth
      wtool ls fixtures/digits-cnn.pth --format json --select '*.weight'
    """
    checkpoint = opened(checkpoint)
    if globals:
        return _globals(checkpoint)
    if extras:
        return _extras(checkpoint)
    aliases = checkpoint.aliases
    several = len(checkpoint.files) > 1
    default_file = checkpoint.files[0] if checkpoint.files else checkpoint.path
    file_names: dict[Source | tuple[str, ...], str] = {}
    known: dict[Geometry, _Facts] = {}
    facts: list[_Facts] = []
    files: list[str] = []
    for tensor in checkpoint:
        extent = tensor.extent
        if isinstance(extent, Strided):
            place: Source | tuple[str, ...] = extent.source
            found = known.get(extent.geometry)
            if found is None:
                found = known[extent.geometry] = _facts(tensor)
        else:
            place = tensor.files
            found = _facts(tensor)
        facts.append(found)
        file = file_names.get(place)
        if file is None:
            paths = place if isinstance(place, tuple) else (absolute(place, 0)[0].name,)
            file = file_names[place] = join_names(paths or (default_file,))
        files.append(file)
    names = [tensor.name for tensor in checkpoint]
    dtypes, shapes, counts, sizes = zip(*facts, strict=True) if facts else ((), (), (), ())
    values: dict[str, Sequence[Any]] = {
        "name": names,
        "dtype": dtypes,
        "shape": shapes,
        "count": counts,
        "nbytes": sizes,
        "role": [tensor.role or "unknown" for tensor in checkpoint],
        "alias": list(map(aliases.get, names)),
        "file": files,
        "key": [tensor.key for tensor in checkpoint],
    }
    owned = [name not in aliases for name in names] if aliases else repeat(True)
    totals = {
        "tensors": len(checkpoint),
        "count": sum(compress(counts, owned)),
        "nbytes": sum(compress(sizes, owned)),
    }
    tied = f", {len(aliases)} tied" if aliases else ""
    parts = f", {len(checkpoint.files)} files" if several else ""
    footer = (
        f"{checkpoint.format}{parts}: {counted(totals['tensors'], 'tensor')}{tied}, "
        f"{counted(totals['count'], 'element')}, {human_bytes(totals['nbytes'])}"
    )
    return ColumnReport(
        command="ls",
        columns=[
            Column(c.name, c.unit, hidden=c.hidden and not (several and c.name == "file"))
            for c in _COLUMNS
        ],
        values=values,
        totals=totals,
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=[footer],
    )


def _facts(tensor: Tensor) -> _Facts:
    """What tensors of one geometry have in common."""
    return tensor.dtype.name, list(tensor.shape), tensor.count, tensor.nbytes


def _globals(checkpoint: Checkpoint) -> Report:
    """What a pickle names: each global, how often, and whether `weights_only` would refuse it."""
    from wtool.dialects.torch_allowlist import is_allowed

    rows = [
        {
            "global": name,
            "times": times,
            "weights_only": "allowed" if is_allowed(name) else "refused",
        }
        for name, times in sorted(checkpoint.globals.items())
    ]
    refused = sum(row["weights_only"] == "refused" for row in rows)
    named = counted(len(rows), "global")
    text = f"{checkpoint.format}: {named} named, {refused} that weights_only refuses"
    return Report(
        command="ls",
        columns=[Column("global"), Column("times"), Column("weights_only")],
        rows=rows,
        totals={"globals": len(rows), "refused": refused},
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=[text + "; nothing was imported"],
    )


def _extras(checkpoint: Checkpoint) -> Report:
    """The values that are not tensors: epoch, hyperparameters, metadata."""
    values = {**checkpoint.metadata, **checkpoint.extras}
    rows = [{"name": name, "value": _plain(value)} for name, value in values.items()]
    found = counted(len(rows), "value that is not a tensor", "values that are not tensors")
    return Report(
        command="ls",
        columns=[Column("name"), Column("value")],
        rows=rows,
        totals={"values": len(rows)},
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=[f"{checkpoint.format}: {found}"],
    )


def _plain(value: object) -> object:
    """A value as JSON can hold it; other inert values by their short text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}... [{len(text)} characters]"


def _one_of(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    if value and context.params.get("extras" if parameter.name == "globals" else "globals"):
        raise click.UsageError("--globals and --extras are two different listings: choose one")
    return value


COMMAND = report_command(
    ls,
    click.Option(
        ["--globals"],
        is_flag=True,
        callback=_one_of,
        help="List the globals that a pickle names instead; nothing is imported.",
    ),
    click.Option(
        ["--extras"],
        is_flag=True,
        callback=_one_of,
        help="List the values that are not tensors instead.",
    ),
    kinds=False,
)
