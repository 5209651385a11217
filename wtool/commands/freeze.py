"""`wtool freeze`: a freezing manifest for transfer learning."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import PATH, PrintedHelp, as_text, opened_at, report_command
from wtool.commands.manifest import refuse_output, write_manifest
from wtool.commands.selection import compile_pattern
from wtool.errors import UsageError, counted
from wtool.kernels.digest import ALGORITHMS
from wtool.report import Column, Report, human_bytes

if TYPE_CHECKING:
    from wtool.manifests.rules import Decision

_CLASSES = ("frozen", "trained", "buffers")
_UNITS = ("tensors", "elements", "bytes")
_COLUMNS = (
    Column("layer"),
    Column("kind"),
    Column("state"),
    *(
        Column(f"{name}_{unit}" if unit != "elements" else name, unit, hidden=unit == "tensors")
        for name in _CLASSES
        for unit in ("elements", "bytes", "tensors")
    ),
    Column("buffers_frozen", "tensors", hidden=True),
    Column("replaceable", "tensors", hidden=True),
)


def freeze(
    model: Checkpoint | str | os.PathLike[str],
    *,
    rules: Sequence[tuple[str, str | None]] = (),
    output: str | os.PathLike[str] | None = None,
    digest: str = "sha256",
    force: bool = False,
    root: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write a freezing manifest: what fine-tuning may change, and digests that prove it.

    Rules apply in the order given, and the last that matches wins. What none matches is the
    opposite of the first rule: frozen where that trains. A PATTERN is a glob (or 're:' and a
    regular expression) that matches a tensor or its layer. Buffers, such as running statistics, are
    frozen unless their whole layer is trained; a pattern that matches only buffers decides them.

    The report counts what is frozen and trained, and the memory that gradients and Adam's two
    moments take for the trained part, in its own type.

    \b
    Example:
      wtool freeze fixtures/digits-cnn.pth --freeze '*' --replace fc2 -o model.freeze.json
      wtool freeze fixtures/digits-cnn.pth --train-last 2 --train-biases -o model.freeze.json
      wtool verify fixtures/digits-cnn.pth model.freeze.json
    """
    from wtool.manifests import document
    from wtool.manifests.digests import digest_model
    from wtool.manifests.entries import entries_of
    from wtool.manifests.freezing import make_manifest
    from wtool.manifests.rules import Rule, decide, model_tensors

    if output is None:
        raise UsageError("no output for the manifest", hint="-o model.freeze.json")
    output = as_text(output)
    refuse_output(output, force)
    opened = opened_at(model, root)
    given = [Rule(name, None if value is None else str(value)) for name, value in rules]
    decision = decide(opened, given, _match)
    rows, totals = _count(opened, decision)
    digests = digest_model(opened, digest, files=False, jobs=jobs, progress=progress)
    manifest = make_manifest(
        opened,
        entries_of(opened, digests.tensors),
        decision.states,
        frozenset(decision.replaceable),
        algorithm=digest,
        default=decision.default,
        rules=given,
        totals=totals,
    )
    write_manifest(output, document.dump(manifest))
    left_out = len(opened) - len(model_tensors(opened))
    others = f"{counted(left_out, 'tensor')} of optimizer, EMA and others left out"
    notes = [others] if left_out else []
    return Report(
        command="freeze",
        columns=_COLUMNS,
        rows=rows,
        totals=totals,
        notes=[*opened.notes, *notes],
        sources=[opened.path],
        footer=[*_footer(totals), f"wrote {output}"],
    )


def _match(pattern: str, names: Sequence[str]) -> list[str]:
    compiled = compile_pattern(pattern)
    return [name for name in names if compiled.fullmatch(name)]


def _count(
    checkpoint: Checkpoint, decision: Decision
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(a row for each layer, in stored order; totals). Tied tensors count once."""
    from wtool.manifests.rules import is_buffer

    aliases = checkpoint.aliases
    rows: dict[str, dict[str, Any]] = {}
    numbers = [name for column in _COLUMNS[3:] for name in (column.name,)]
    totals = dict.fromkeys(numbers, 0)
    for name, state in decision.states.items():
        tensor = checkpoint[name]
        layer = tensor.layer or name
        row = rows.get(layer)
        if row is None:
            kind = tensor.kind or "unknown"
            row = rows[layer] = {"layer": layer, "kind": kind, **dict.fromkeys(numbers, 0)}
        group = "buffers" if is_buffer(tensor) else state
        for key, amount in _amounts(tensor, group, tied=name in aliases):
            row[key] += amount
            totals[key] += amount
        if group == "buffers" and state == "frozen":
            row["buffers_frozen"] += 1
            totals["buffers_frozen"] += 1
        if name in decision.replaceable:
            row["replaceable"] += 1
            totals["replaceable"] += 1
    for row in rows.values():
        row["state"] = _state(row)
    totals["gradient_bytes"] = totals["trained_bytes"]
    totals["adam_bytes"] = 2 * totals["trained_bytes"]
    return list(rows.values()), totals


def _amounts(tensor: Tensor, group: str, *, tied: bool) -> list[tuple[str, int]]:
    amounts = [(f"{group}_tensors", 1)]
    if not tied:
        amounts += [(group, tensor.count), (f"{group}_bytes", tensor.nbytes)]
    return amounts


def _state(row: dict[str, Any]) -> str:
    """What a layer is as a whole, for people."""
    if row["frozen_tensors"] and row["trained_tensors"]:
        return "mixed"
    if row["trained_tensors"]:
        return "replaceable" if row["replaceable"] else "trained"
    if row["frozen_tensors"] or row["buffers_frozen"]:
        return "frozen"
    return "trained"


def _footer(totals: dict[str, int]) -> list[str]:
    parts = [
        f"{name} {counted(totals[f'{name}_tensors'], 'tensor')}, "
        f"{counted(totals[name], 'element')}, {human_bytes(totals[f'{name}_bytes'])}"
        for name in _CLASSES
    ]
    return [
        f"{'; '.join(parts)} ({totals['buffers_frozen']} of the buffers frozen)",
        f"training takes {human_bytes(totals['gradient_bytes'])} for gradients and "
        f"{human_bytes(totals['adam_bytes'])} for Adam's moments",
    ]


_RULE_OPTIONS = (
    click.Option(["--freeze"], multiple=True, metavar="PATTERN", help="Freeze what matches."),
    click.Option(["--train"], multiple=True, metavar="PATTERN", help="Train what matches."),
    click.Option(
        ["--replace"],
        multiple=True,
        metavar="PATTERN",
        help="Train what matches; it may get another shape or go.",
    ),
    click.Option(["--train-last"], multiple=True, metavar="N", help="Train the last N layers."),
    click.Option(
        ["--freeze-until"],
        multiple=True,
        metavar="LAYER",
        help="Freeze every layer before LAYER; LAYER itself is not frozen.",
    ),
    click.Option(
        ["--freeze-kind"], multiple=True, metavar="KIND", help="Freeze layers: conv, embedding..."
    ),
    click.Option(["--train-kind"], multiple=True, metavar="KIND", help="Train layers: norm..."),
    click.Option(["--train-biases"], is_flag=True, help="Train every bias (BitFit)."),
)


class _OrderedRules(PrintedHelp):
    """A command that hands the rule options over in the order of the command line.

    click groups values by option. Its parser knows the order of the options; the values of each
    keep theirs.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Command.parse_args; `rules` takes the place of the options of rules."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        given: dict[str, list[str | None]] = {}
        for option in _RULE_OPTIONS:
            values = ctx.params.pop(str(option.name))
            given[str(option.name)] = [None] if option.is_flag else list(values)
        if ctx.resilient_parsing or not words:
            return rest
        _, _, order = self.make_parser(ctx).parse_args(args=words)
        rules: list[tuple[str, str | None]] = []
        for parameter in order:
            left = given.get(str(parameter.name))
            if left:
                rules.append((str(parameter.name).replace("_", "-"), left.pop(0)))
        ctx.params["rules"] = rules
        return rest


COMMAND = report_command(
    freeze,
    click.Argument(["model"], type=PATH),
    *_RULE_OPTIONS,
    click.Option(
        ["--digest"],
        type=click.Choice(ALGORITHMS),
        default="sha256",
        show_default=True,
        help="blake3 is faster and needs the package blake3.",
    ),
    models="none",
    command_class=_OrderedRules,
)
