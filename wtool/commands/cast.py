"""`wtool cast`: the same tensors in another floating-point type, with what that damages."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint, Tensor
from wtool.commands import PATH, as_text, report_command
from wtool.commands.saving import (
    Target,
    open_source,
    prepare,
    prove_written,
    shape,
    write,
)
from wtool.commands.saving_options import saving_options, shaping_options
from wtool.commands.saving_report import loss_notes, refusal_notes, summary, with_proof
from wtool.commands.selection import each, matches
from wtool.conversion.cast_extent import CastExtent
from wtool.dtypes import DTYPES, DType
from wtool.errors import UnsupportedError, UsageError, counted
from wtool.extents import Absent
from wtool.report import Column, Report, human_bytes

if TYPE_CHECKING:
    from wtool.bridges.proving import Bound
    from wtool.kernels.cast import Damage

TYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
ON_OVERFLOW = ("fail", "clamp", "inf")

_COLUMNS = (
    Column("name"),
    Column("from"),
    Column("to"),
    Column("count", "elements"),
    Column("overflowed", "elements"),
    Column("flushed", "elements"),
    Column("subnormal", "elements"),
    Column("max_rel"),
    Column("mean_rel"),
    Column("worst"),
    Column("old"),
    Column("new"),
    Column("note"),
    Column("nbytes_before", "bytes", hidden=True),
    Column("nbytes_after", "bytes", hidden=True),
)


@dataclass(frozen=True)
class Cast:
    """A tensor before and after; note: why nothing was changed, or that nothing is lost."""

    old: Tensor
    new: Tensor
    note: str = ""


def cast(
    source: Checkpoint | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str,
    on_overflow: str = "fail",
    keep: Sequence[str] = (),
    keep_norms: bool = False,
    container: str | None = None,
    strip_prefix: Sequence[str] = (),
    rename: Sequence[str] = (),
    model_only: bool = False,
    ema: bool = False,
    max_shard_size: str | int | None = None,
    shards: int | None = None,
    template: str | os.PathLike[str] | None = None,
    state: bool = False,
    untie: bool = False,
    drop_extras: bool = False,
    allow: Sequence[str] = (),
    dry_run: bool = False,
    prove: bool = False,
    force: bool = False,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write IN with its floating-point tensors in another type, and report what that damages.

    Rounds as torch does, to nearest, ties to even. Per tensor: values that overflowed, were flushed
    to zero or turned subnormal, the largest and the mean relative error, and the worst element.
    Integers and booleans are left as they are. A value that overflows stops the work, and nothing
    is written, unless --on-overflow says clamp or inf (NaN in float8_e4m3fn, which has no
    infinity). OUT is as for `wtool convert`; --dry-run reports the damage and writes nothing.

    \b
    Example:
      wtool cast fixtures/digits-cnn.pth half.safetensors --to float16 --keep-norms
      wtool cast fixtures/digits-cnn.pth tiny.pth --to float8_e4m3fn --dry-run
    """
    if to not in TYPES:
        raise UsageError("no type to cast to", expected=f"one of {', '.join(TYPES)}", found=to)
    if on_overflow not in ON_OVERFLOW:
        raise UsageError("bad --on-overflow", expected=ON_OVERFLOW, found=on_overflow)
    opened, chosen = open_source(source, select, exclude, root)
    shaped = shape(chosen, strip_prefix=strip_prefix, rename=rename, model_only=model_only, ema=ema)
    kept = {name for pattern in each(keep) for name in matches(pattern, list(shaped.tensors))}
    if keep_norms:
        kept |= {tensor.name for tensor in shaped if _is_of_norm(tensor)}
    casts = _casts(shaped, DTYPES[to], kept, on_overflow)
    result = dataclasses.replace(shaped, tensors={c.new.name: c.new for c in casts})
    if not untie and "ties" not in allow:
        _refuse_cut_ties(shaped, result)
    wanted = Target(
        as_text(target),
        container=container,
        max_shard_size=max_shard_size,
        shards=shards,
        template=as_text(template),
        state=state,
        untie=untie,
        drop_extras=drop_extras,
        allow=allow,
        force=force,
    )
    prepared = prepare(result, wanted, source=opened)
    if dry_run:
        refusals = refusal_notes(prepared, wanted)
        for c in casts:
            if isinstance(c.new.extent, CastExtent) and c.new.name not in result.aliases:
                c.new.extent.measure()
    else:
        refusals = []
        write(prepared, wanted, prove=prove, progress=progress)
    damages = _damages(casts, result)
    overflowed = sum(damage.overflowed for damage in damages.values())
    if overflowed and on_overflow == "fail":
        refusals.append(
            f"would be refused: {counted(overflowed, 'value overflows', 'values overflow')} {to}"
        )
    report = _report(
        casts,
        result,
        damages,
        ok=not refusals,
        notes=[*opened.notes, *loss_notes(prepared), *refusals],
        sources=[opened.path],
        footer=[summary(prepared.plan, "would write" if dry_run else "wrote")],
    )
    if not prove or dry_run:
        return report
    bounds = {c.new.name: _bound(c, damages, result) for c in casts if c.new is not c.old}
    proof = prove_written(prepared, (c.old for c in casts), root=root, bounds=bounds)
    return with_proof(report, proof, within=True)


def _is_of_norm(tensor: Tensor) -> bool:
    """Whether it belongs to a normalisation layer: scale, shift, running statistics."""
    leaf = tensor.name.rpartition(".")[2].rpartition("/")[2].removesuffix(":0")
    running = leaf.startswith(("running_", "moving_"))
    return tensor.kind == "norm" or running


def _casts(shaped: Checkpoint, dtype: DType, kept: set[str], on_overflow: str) -> list[Cast]:
    """Every tensor in type `dtype`, lazily, or as it is."""
    from wtool.kernels.cast import CastLoops, is_exact

    loops = CastLoops(dtype, sum(t.count for t in shaped if t.dtype.kind == "float"))
    casts = []
    for tensor in shaped:
        note = _reason_to_leave(tensor, dtype, kept)
        if note is not None:
            casts.append(Cast(tensor, tensor, note))
            continue
        extent = CastExtent(tensor.extent, dtype, on_overflow=on_overflow, loops=loops)
        note = "exact" if is_exact(tensor.dtype, dtype) else ""
        casts.append(Cast(tensor, dataclasses.replace(tensor, extent=extent), note))
    return casts


def _reason_to_leave(tensor: Tensor, dtype: DType, kept: set[str]) -> str | None:
    """Why a tensor is not cast; None where it is. UnsupportedError where it has no values."""
    if tensor.dtype.kind != "float":
        return f"{tensor.dtype.name} is left as it is"
    if tensor.dtype is dtype:
        return "has the type"
    if tensor.name in kept:
        return "kept"
    if isinstance(tensor.extent, Absent):
        raise UnsupportedError(f"no values to cast: {tensor.extent.reason}", tensor=tensor.name)
    return None


def _refuse_cut_ties(before: Checkpoint, after: Checkpoint) -> None:
    """UnsupportedError for tensors that are parts or views of others, which a cast copies."""
    cut = [name for name in before.aliases if name not in after.aliases]
    if cut:
        raise UnsupportedError(
            "tied as a part or another view of a tensor that is cast",
            tensor=cut[0],
            found=f"{len(cut)} such tensors",
            hint="--untie writes them separately",
        )


def _damages(casts: Sequence[Cast], result: Checkpoint) -> dict[str, Damage]:
    """The damage of every cast, by the tensor's name; tied tensors once."""
    return {
        c.new.name: c.new.extent.damage
        for c in casts
        if isinstance(c.new.extent, CastExtent)
        and c.new.extent.damage is not None
        and c.new.name not in result.aliases
    }


def _bound(c: Cast, damages: dict[str, Damage], result: Checkpoint) -> Bound:
    """How far the report says that the cast moved values."""
    from wtool.bridges.proving import Bound
    from wtool.kernels.cast import rounding

    damage = damages[result.aliases.get(c.new.name, c.new.name)]
    relative, absolute = rounding(c.new.dtype)
    return Bound(relative, absolute, damage.overflowed, damage.max_rel)


def _report(
    casts: Sequence[Cast], result: Checkpoint, damages: dict[str, Damage], **rest: Any
) -> Report:
    rows = []
    totals = dict.fromkeys(("nbytes_before", "nbytes_after"), 0)
    for c in casts:
        alias = result.aliases.get(c.new.name)
        row = {
            "name": c.new.name,
            "from": c.old.dtype.name,
            "to": c.new.dtype.name,
            "count": c.new.count,
            "note": f"tied to {alias}" if alias else c.note,
            "nbytes_before": c.old.nbytes,
            "nbytes_after": c.new.nbytes,
        }
        if alias is None:
            totals["nbytes_before"] += c.old.nbytes
            totals["nbytes_after"] += c.new.nbytes
        rows.append(row | _damage_cells(damages.get(c.new.name)))
    totals |= {
        "tensors": len(casts),
        "cast": sum(c.new is not c.old for c in casts),
        "overflowed": sum(d.overflowed for d in damages.values()),
        "flushed": sum(d.flushed for d in damages.values()),
        "subnormal": sum(d.subnormal for d in damages.values()),
    }
    before, after = (human_bytes(totals[f"nbytes_{when}"]) for when in ("before", "after"))
    footer = [
        f"{totals['cast']} of {counted(len(casts), 'tensor')} cast, {before} -> {after}; "
        f"{counted(totals['overflowed'], 'value')} overflowed, "
        f"{totals['flushed']:,} flushed to zero, {totals['subnormal']:,} turned subnormal",
        *rest.pop("footer"),
    ]
    all_totals = totals | {"max_rel": max((d.max_rel for d in damages.values()), default=0.0)}
    return Report(
        command="cast", columns=_COLUMNS, rows=rows, totals=all_totals, footer=footer, **rest
    )


def _damage_cells(damage: Damage | None) -> dict[str, Any]:
    if damage is None:
        return {}
    return {
        "overflowed": damage.overflowed,
        "flushed": damage.flushed,
        "subnormal": damage.subnormal,
        "max_rel": damage.max_rel,
        "mean_rel": damage.mean_rel,
        "worst": damage.worst,
        "old": damage.old,
        "new": damage.new,
    }


COMMAND = report_command(
    cast,
    click.Argument(["source"], metavar="IN", type=PATH),
    click.Argument(["target"], metavar="OUT", type=PATH),
    click.Option(["--to"], type=click.Choice(TYPES), required=True, help="The new type."),
    click.Option(
        ["--on-overflow"],
        type=click.Choice(ON_OVERFLOW),
        default="fail",
        show_default=True,
        help="What becomes of values that the type cannot hold.",
    ),
    click.Option(
        ["--keep"], multiple=True, metavar="PATTERN", help="Leave tensors that match as they are."
    ),
    click.Option(
        ["--keep-norms"],
        is_flag=True,
        help="Leave normalisation layers and running statistics as they are.",
    ),
    *shaping_options(),
    *saving_options(),
    models="none",
)
