"""`wtool ls`: what is in the file."""

from __future__ import annotations

import os

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import opened, report_command
from wtool.commands.grouping import join_names
from wtool.errors import counted
from wtool.extents import Geometry, Strided
from wtool.report import Column, Report, human_bytes
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
    facts: dict[Geometry, tuple[str, list[int], int, int]] = {}
    rows = []
    total_count = total_nbytes = 0
    for tensor in checkpoint:
        name, extent = tensor.name, tensor.extent
        if isinstance(extent, Strided):
            place: Source | tuple[str, ...] = extent.source
            known = facts.get(extent.geometry)
            if known is None:
                known = facts[extent.geometry] = _facts(tensor)
            dtype, shape, count, nbytes = known
        else:
            place = tensor.files
            dtype, shape, count, nbytes = _facts(tensor)
        alias = aliases.get(name)
        if alias is None:
            total_count += count
            total_nbytes += nbytes
        file = file_names.get(place)
        if file is None:
            paths = place if isinstance(place, tuple) else (absolute(place, 0)[0].name,)
            file = file_names[place] = join_names(paths or (default_file,))
        rows.append(
            {
                "name": name,
                "dtype": dtype,
                "shape": shape,
                "count": count,
                "nbytes": nbytes,
                "role": tensor.role or "unknown",
                "alias": alias,
                "file": file,
                "key": tensor.key,
            }
        )
    totals = {"tensors": len(checkpoint), "count": total_count, "nbytes": total_nbytes}
    tied = f", {len(aliases)} tied" if aliases else ""
    parts = f", {len(checkpoint.files)} files" if several else ""
    footer = (
        f"{checkpoint.format}{parts}: {counted(totals['tensors'], 'tensor')}{tied}, "
        f"{counted(totals['count'], 'element')}, {human_bytes(totals['nbytes'])}"
    )
    return Report(
        command="ls",
        columns=[
            Column(c.name, c.unit, hidden=c.hidden and not (several and c.name == "file"))
            for c in _COLUMNS
        ],
        rows=rows,
        totals=totals,
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=[footer],
    )


def _facts(tensor: Tensor) -> tuple[str, list[int], int, int]:
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
