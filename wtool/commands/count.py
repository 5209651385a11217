"""`wtool count`: how many parameters, honestly."""

from __future__ import annotations

import os

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import opened, report_command
from wtool.commands.grouping import group_of
from wtool.errors import counted
from wtool.report import Column, Report, human_bytes

_CHOICES = ("layer", "depth:N", "kind", "role", "dtype", "tensor", "shard")
# Columns after the group's name; `other` holds all that is neither parameter nor buffer.
_NUMBERS = ("parameters", "weights", "biases", "buffers", "other", "shared", "tensors", "nbytes")
_APART = ("optimizer", "ema")
_UNITS = {"tensors": "tensors", "nbytes": "bytes"}
_COLUMN_OF_ROLE = {"weight": "weights", "bias": "biases", "buffer": "buffers"}


def count(checkpoint: Checkpoint | str | os.PathLike[str], *, by: str = "depth:1") -> Report:
    """Count parameters: weights and biases, apart from buffers, optimizer and EMA copies.

    parameters = weights + biases, what a model learns. buffers: state that is not learned
    (BatchNorm running statistics, position ids). other: optimizer state, EMA copies and what is
    neither. Tied tensors count once; `shared` says how many elements were not counted again.

    \b
    Example:
      wtool count fixtures/digits-cnn.pth
      wtool count fixtures/digits-cnn.pth --by kind
    """
    checkpoint = opened(checkpoint)
    group = group_of(by, allowed=_CHOICES)
    aliases = checkpoint.aliases
    rows: dict[str, dict[str, int | str]] = {}
    totals = dict.fromkeys((*_NUMBERS, *_APART), 0)
    for tensor in checkpoint:
        key = group(tensor)
        row = rows.get(key)
        if row is None:
            row = rows[key] = {"group": key, **dict.fromkeys((*_NUMBERS, *_APART), 0)}
        for column, amount in _amounts(tensor, tied=tensor.name in aliases):
            row[column] += amount  # type: ignore[operator]
            totals[column] += amount
    other = totals["other"] and (
        f"; {totals['other']:,} other (optimizer {totals['optimizer']:,}, EMA {totals['ema']:,})"
    )
    shared = totals["shared"] and f"; {totals['shared']:,} shared by tied tensors, counted once"
    footer = (
        f"{counted(totals['parameters'], 'parameter')} ({counted(totals['weights'], 'weight')}, "
        f"{counted(totals['biases'], 'bias', 'biases')}); "
        f"{counted(totals['buffers'], 'buffer element')}{other or ''}{shared or ''}; "
        f"{counted(totals['tensors'], 'tensor')}, {human_bytes(totals['nbytes'])}"
    )
    return Report(
        command="count",
        columns=[
            Column("group"),
            *(Column(name, _UNITS.get(name, "elements")) for name in _NUMBERS),
            *(Column(name, "elements", hidden=True) for name in _APART),
        ],
        rows=list(rows.values()),
        totals=totals,
        notes=checkpoint.notes,
        sources=[checkpoint.path],
        footer=[footer],
    )


def _amounts(tensor: Tensor, *, tied: bool) -> list[tuple[str, int]]:
    """(column, amount) that one tensor adds."""
    if tied:
        return [("tensors", 1), ("shared", tensor.count)]
    amounts = [("tensors", 1), ("nbytes", tensor.nbytes)]
    role = tensor.role or "unknown"
    if role in ("weight", "bias"):
        amounts.append(("parameters", tensor.count))
    if role in _APART:
        amounts.append((role, tensor.count))
    amounts.append((_COLUMN_OF_ROLE.get(role, "other"), tensor.count))
    return amounts


COMMAND = report_command(
    count,
    click.Option(
        ["--by"],
        default="depth:1",
        metavar="|".join(_CHOICES),
        show_default=True,
        help="What a row stands for.",
    ),
)
