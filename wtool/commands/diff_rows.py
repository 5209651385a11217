"""The rows of `wtool diff`: how a change is ordered, described, and added up in a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Tensor
from wtool.errors import counted
from wtool.report import Column

if TYPE_CHECKING:
    from wtool.kernels.compare import Difference

# What changes the architecture, in the order of rows.
ARCHITECTURE = ("removed", "added", "renamed", "reshaped", "retyped")
TENSOR_COLUMNS = (
    Column("name"),
    Column("change"),
    Column("old"),
    Column("new"),
    Column("max_abs"),
    Column("max_rel"),
    Column("rel_l2"),
    Column("cosine"),
    Column("changed", "elements"),
    Column("count", "elements"),
    Column("worst", hidden=True),
    Column("not_finite", "elements", hidden=True),
)
GROUP_COLUMNS = (
    Column("group"),
    Column("change"),
    Column("tensors", "tensors"),
    Column("max_abs"),
    Column("max_rel"),
    Column("rel_l2"),
    Column("cosine"),
    Column("changed", "elements"),
    Column("count", "elements"),
)


@dataclass(frozen=True)
class Change:
    """One tensor's fate: `change` is one of ARCHITECTURE, "changed" or "same"."""

    change: str
    old: Tensor | None
    new: Tensor | None
    difference: Difference | None = None

    @property
    def name(self) -> str:
        """The new name, or the old one of what was removed."""
        tensor = self.new or self.old
        return tensor.name if tensor else ""


def is_same(change: Change, tolerance: float) -> bool:
    """Whether all values agree within `tolerance`, and nothing else changed."""
    difference = change.difference
    if change.change != "changed":
        return False
    if difference is None:
        return True  # neither side has values
    return difference.broken == 0 and difference.max_abs <= tolerance


def rank(change: Change) -> tuple[int, float, str]:
    """What rows are sorted by: the architecture first, then values by how much they changed."""
    if change.change in ARCHITECTURE:
        return ARCHITECTURE.index(change.change), 0.0, change.name
    difference = change.difference
    amount = 0.0 if difference is None else difference.relative_l2
    if difference is not None and difference.broken:
        amount = math.inf
    return len(ARCHITECTURE), -amount, change.name


def tensor_row(change: Change, tolerance: float) -> dict[str, Any]:
    """The row of one tensor, by TENSOR_COLUMNS."""
    row: dict[str, Any] = {
        "name": change.name,
        "change": "same" if is_same(change, tolerance) else change.change,
        "count": _size(change),
    }
    if change.change == "renamed" and change.old and change.new:
        row |= {"old": change.old.name, "new": change.new.name}
    elif change.change in ARCHITECTURE:
        row |= {"old": _describe(change.old), "new": _describe(change.new)}
    return row | _numbers(change.difference)


def _describe(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    return f"{tensor.dtype.name} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def _numbers(difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    return {
        "max_abs": difference.max_abs,
        "max_rel": difference.max_rel,
        "rel_l2": difference.relative_l2,
        "cosine": difference.cosine,
        "changed": difference.changed,
        "worst": difference.worst,
        "not_finite": difference.broken,
    }


def group_rows(
    changes: list[Change], group: Callable[[Tensor], str], tolerance: float, *, show_all: bool
) -> list[dict[str, Any]]:
    """One row per group, by GROUP_COLUMNS: its differences merged, and which changes happened."""
    from wtool.kernels.compare import Difference, merge

    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(group(change.new or change.old), []).append(change)  # type: ignore[arg-type]
    rows = []
    for name, members in groups.items():
        different = [c for c in members if not is_same(c, tolerance)]
        if not different and not show_all:
            continue
        whole = Difference()
        for change in members:
            if change.difference is not None and _is_floating(change):
                whole = merge(whole, change.difference)
        kinds = [k for k in (*ARCHITECTURE, "changed") if any(c.change == k for c in different)]
        numbers = {k: v for k, v in _numbers(whole).items() if k not in ("worst", "not_finite")}
        rows.append(
            {
                "group": name,
                "change": ", ".join(kinds) or "same",
                "tensors": len(members),
                **numbers,
                "changed": sum(c.difference.changed for c in members if c.difference),
                "count": sum(_size(c) for c in members),
            }
        )
    return sorted(rows, key=lambda row: (-row["rel_l2"], row["group"]))


def _size(change: Change) -> int:
    tensor = change.new or change.old
    return tensor.count if tensor else 0


def _is_floating(change: Change) -> bool:
    return all(t is None or t.dtype.kind in ("float", "complex") for t in (change.old, change.new))


def summary(counts: Mapping[str, int], totals: Mapping[str, Any], tolerance: float) -> str:
    """What the rows add up to, in one line."""
    parts = [f"{number} {kind}" for kind, number in counts.items() if number]
    within = f" within {tolerance:g}" if tolerance else ""
    are = "is" if totals["same"] == 1 else "are"
    same = f"{totals['same']} of {counted(totals['tensors'], 'tensor')} {are} the same{within}"
    return f"{', '.join(parts)}; {same}" if parts else f"{same}: no difference"
