"""How the tensors of one model differ from those of another, by structure and digests alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from wtool.manifests.entries import Entry

# What a tensor can suffer, in the order in which it is told.
CHANGES = ("removed", "added", "renamed", "reshaped", "retyped", "changed")
ARCHITECTURAL = CHANGES[:5]


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor that is not the same: `name` is the old one, but for what was added.

    change: one of CHANGES. old, new: what it was and is; None where it was or is not there.
    new_name: set where it was renamed. twin: for changed content, the old tensor that had it.
    """

    change: str
    name: str
    old: Entry | None
    new: Entry | None
    new_name: str | None = None
    twin: str | None = None


def compare_entries(
    old: Mapping[str, Entry], new: Mapping[str, Entry], *, values: bool = True
) -> list[Change]:
    """Every difference, sorted by kind, then name; `values`: whether digests count.

    Renamed means: gone and come with equal digests, unique among the gone and among the come, as
    equal content twice says nothing.
    """
    found = list(_compare_common(old, new, values))
    gone = {name: entry for name, entry in old.items() if name not in new}
    come = {name: entry for name, entry in new.items() if name not in old}
    before, after = _unique(gone.items()), _unique(come.items())
    renamed = {before[d]: after[d] for d in before if d in after} if values else {}
    taken = set(renamed.values())
    for name, entry in gone.items():
        if name in renamed:
            found.append(Change("renamed", name, entry, come[renamed[name]], renamed[name]))
        else:
            found.append(Change("removed", name, entry, None))
    found += [
        Change("added", name, None, entry) for name, entry in come.items() if name not in taken
    ]
    return sorted(found, key=lambda change: (CHANGES.index(change.change), change.name))


def _compare_common(
    old: Mapping[str, Entry], new: Mapping[str, Entry], values: bool
) -> Iterator[Change]:
    """Differences of tensors that keep their name."""
    homes = _unique(old.items())
    for name, entry in old.items():
        other = new.get(name)
        if other is None:
            continue
        if entry.shape != other.shape:
            yield Change("reshaped", name, entry, other)
        elif entry.dtype != other.dtype:
            yield Change("retyped", name, entry, other)
        elif values and entry.digest != other.digest:
            yield Change("changed", name, entry, other, twin=homes.get(other.digest or ""))


def _unique(items: Iterable[tuple[str, Entry]]) -> dict[str, str]:
    """Digest -> name, for digests that one tensor only has."""
    names: dict[str, list[str]] = {}
    for name, entry in items:
        if entry.digest:
            names.setdefault(entry.digest, []).append(name)
    return {digest: found[0] for digest, found in names.items() if len(found) == 1}
