"""Which unit of one checkpoint is which of the other, and how well that is known.

Evidence, strongest first: the same values; the same name; the only one of its kind and shape; a
law between numbered names; the order among equals. What nothing decides stays open. No step
overrules a stronger one, and order alone never makes a match certain.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wtool.conversion.name_laws import Law, family_of, find_laws
from wtool.conversion.unit_names import (
    forms_of,
    keras_form,
    numbers_of,
    torch_form,
    without_numbers,
)
from wtool.conversion.units import Trait, Unit


@dataclass(frozen=True)
class Match:
    """A unit of side a (PyTorch) and its counterpart on side b; kind: what both may be."""

    a: Unit
    b: Unit
    kind: str
    grade: str
    evidence: str


@dataclass
class Pairing:
    """matches: as far as they are known. groups: what may still be what, as (units a, units b)."""

    matches: list[Match] = field(default_factory=list)
    groups: list[tuple[list[Unit], list[Unit]]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every unit of both sides has its certain counterpart."""
        return not self.groups and all(match.grade == "certain" for match in self.matches)


class _Matcher:
    """The units that are still open, and the matches found so far."""

    def __init__(self, a: Sequence[Unit], b: Sequence[Unit]) -> None:
        self.a = {unit.label: unit for unit in a}
        self.b = {unit.label: unit for unit in b}
        self.open_a = dict(self.a)
        self.open_b = dict(self.b)
        self.found: dict[str, Match] = {}
        # Of the laws found: how they count, and the names up to their last words.
        self.stems: set[tuple[object, str, str]] = set()

    def compatible(self, a: str, b: str) -> bool:
        """Whether the two may be the same by kind and shape, and are not matched to others."""
        if (a in self.open_a) != (b in self.open_b):
            return False
        if a not in self.open_a and self.found[a].b.label != b:
            return False
        return bool(self.a[a].traits & self.b[b].traits)

    def pair(self, a: str, b: str, grade: str, evidence: str) -> None:
        """Record a match of two open units."""
        one, other = self.open_a.pop(a), self.open_b.pop(b)
        shared = sorted(one.traits & other.traits)
        self.found[a] = Match(one, other, shared[0][0] if shared else "", grade, evidence)


def pair_units(
    a: Sequence[Unit],
    b: Sequence[Unit],
    *,
    same_values: Iterable[tuple[str, str]] = (),
    ordered: bool = True,
) -> Pairing:
    """The pairing of the units of a PyTorch side `a` and a Keras or TensorFlow side `b`.

    same_values: labels of units whose values have been compared and are equal.
    ordered: whether both sides are stored in the order in which their models define them.
    """
    matcher = _Matcher(a, b)
    for one, other in same_values:
        matcher.pair(one, other, "certain", "same values")
    _pair_names(matcher)
    while _pair_unique(matcher) or _pair_laws(matcher) or _pair_siblings(matcher):
        pass
    groups = _pair_ordered(matcher) if ordered else _open_groups(matcher)
    return Pairing(sorted(matcher.found.values(), key=lambda m: m.a.number), groups)


def _pair_names(matcher: _Matcher) -> None:
    """Units with the same words and numbers in their names, alone on both sides.

    Not where the two sides count otherwise: of layers 0 to 2 and 1 to 3, none has the same name.
    """
    forms_a, forms_b = forms_of(matcher.a, torch_form), forms_of(matcher.b, keras_form)
    counts_a, counts_b = numbers_of(forms_a), numbers_of(forms_b)
    for form in forms_a:
        ones = [label for label in forms_a[form] if label in matcher.open_a]
        others = [label for label in forms_b.get(form, ()) if label in matcher.open_b]
        if (
            len(ones) == len(others) == 1
            and counts_a[without_numbers(form)] == counts_b[without_numbers(form)]
            and matcher.compatible(ones[0], others[0])
        ):
            matcher.pair(ones[0], others[0], "certain", "same name")


def _pair_unique(matcher: _Matcher) -> bool:
    """Pair the units that are the only ones of their kind and shape on both sides."""
    by_a, by_b = _by_trait(matcher.open_a), _by_trait(matcher.open_b)
    progress = False
    for label, unit in list(matcher.open_a.items()):
        other = _only(unit, by_b)
        if other in matcher.open_b and _only(matcher.open_b[other], by_a) == label:
            matcher.pair(label, other, "certain", "only one of its kind and shape")
            progress = True
    return progress


def _by_trait(units: Mapping[str, Unit]) -> dict[Trait, list[str]]:
    """What units may be -> their labels."""
    found: dict[Trait, list[str]] = {}
    for label, unit in units.items():
        for trait in unit.traits:
            found.setdefault(trait, []).append(label)
    return found


def _only(unit: Unit, others: Mapping[Trait, list[str]]) -> str:
    """The label of the only unit of the other side that this one may be, "" for none or several."""
    found: set[str] = set()
    for trait in unit.traits:
        labels = others.get(trait, ())
        if len(labels) > 1:
            return ""
        found.update(labels)
    return found.pop() if len(found) == 1 else ""


def _pair_laws(matcher: _Matcher) -> bool:
    """Pair by the laws that no other law contradicts."""
    laws = _all_laws(matcher)
    progress = False
    for law in laws:
        fresh = [(s, t) for s, t in law.pairs if s in matcher.open_a]
        if not fresh or not all(matcher.compatible(s, t) for s, t in law.pairs):
            continue
        if any(_contradicts(law, other) for other in laws if other is not law):
            continue
        if not _has_direction(law, matcher) and _stem(law) not in matcher.stems:
            continue
        matcher.stems.add(_stem(law))
        for source, target in fresh:
            matcher.pair(source, target, "certain", "numbers in names follow one law")
        progress = True
    return progress


def _all_laws(matcher: _Matcher) -> list[Law]:
    """The laws between all families that may belong together, the largest first."""
    families_a = _families(matcher.a)
    families_b = _families(matcher.b)
    laws: list[Law] = []
    for (_, kinds_a), sources in families_a.items():
        if not any(source in matcher.open_a for source in sources):
            continue
        for (_, kinds_b), targets in families_b.items():
            if kinds_a & kinds_b:
                laws.extend(find_laws(sources, targets, compatible=matcher.compatible))
    return sorted(laws, key=lambda law: -len(law.pairs))


def _families(units: Mapping[str, Unit]) -> dict[tuple[str, frozenset[str]], list[str]]:
    families: dict[tuple[str, frozenset[str]], list[str]] = {}
    for label, unit in units.items():
        kinds = frozenset(kind for kind, _ in unit.traits)
        if kinds:
            families.setdefault((family_of(label)[0], kinds), []).append(label)
    return families


def _contradicts(law: Law, other: Law) -> bool:
    """Whether `other`, of at least half the size, takes a source or a target of `law` elsewhere.

    Two or three names out of fifty agree by chance with one law or another.
    """
    if 2 * len(other.pairs) < len(law.pairs):
        return False
    forward, backward = dict(law.pairs), {t: s for s, t in law.pairs}
    return any(forward.get(s, t) != t or backward.get(t, s) != s for s, t in other.pairs)


def _has_direction(law: Law, matcher: _Matcher) -> bool:
    """Whether shapes forbid to count backwards: else the law rests on the order of numbers alone.

    Each number that the law reads is turned round among the names that differ in it alone.
    """
    slots = {family_of(s)[1]: t for s, t in law.pairs}
    sources = {family_of(s)[1]: s for s, _ in law.pairs}
    for place in {place for place, _ in law.relation if place is not None}:
        rows: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for numbers in slots:
            rows.setdefault((*numbers[:place], *numbers[place + 1 :]), []).append(numbers)
        turned = [
            (sources[x], slots[y])
            for row in rows.values()
            for x, y in zip(sorted(row), sorted(row)[::-1], strict=True)
        ]
        moved = any(slots[family_of(s)[1]] != t for s, t in turned)
        if moved and all(matcher.a[s].traits & matcher.b[t].traits for s, t in turned):
            return False
    return True


def _stem(law: Law) -> tuple[object, str, str]:
    """How a law counts, and its two names up to their last words: what `conv1` and `bn1` share."""
    source, target = law.pairs[0]
    return (
        law.relation,
        re.sub(r"[^._/]*$", "", family_of(source)[0]),
        re.sub(r"[^._/]*$", "", family_of(target)[0]),
    )


def _pair_siblings(matcher: _Matcher) -> bool:
    """Pair the companion of a matched layer, where each of the two has exactly one beside it."""
    beside_a = _companions(matcher.a, ".")
    beside_b = _companions(matcher.b, "/_")
    progress = False
    for label, match in list(matcher.found.items()):
        if match.grade != "certain":
            continue
        one, other = beside_a.get(label), beside_b.get(match.b.label)
        if one in matcher.open_a and other in matcher.open_b and matcher.compatible(one, other):
            matcher.pair(one, other, "certain", f"beside {match.a.path}, which is {match.b.path}")
            progress = True
    return progress


def _companions(units: Mapping[str, Unit], separators: str) -> dict[str, str]:
    """Unit -> the only other unit that shares its name up to the last component.

    `block_3_expand` shares it with `block_3_expand_BN` too.
    """
    groups: dict[str, list[str]] = {}
    for label, unit in units.items():
        groups.setdefault(label, []).append(label)
        cut = max(unit.path.rfind(separator) for separator in separators)
        if cut > 0:
            groups.setdefault(unit.path[:cut], []).append(label)
    pairs = [group for group in groups.values() if len(group) == 2]
    counts = Counter(label for pair in pairs for label in pair)
    found = {}
    for one, other in pairs:
        if counts[one] == counts[other] == 1:
            found[one], found[other] = other, one
    return found


def _open_groups(matcher: _Matcher) -> list[tuple[list[Unit], list[Unit]]]:
    """The open units as groups within which each may be each; alone where nothing is like it."""
    parents: dict[Trait, Trait] = {}

    def root(trait: Trait) -> Trait:
        while parents.setdefault(trait, trait) != trait:
            parents[trait] = trait = parents[parents[trait]]
        return trait

    sides = (matcher.open_a, matcher.open_b)
    for side in sides:
        for unit in side.values():
            first, *rest = sorted(unit.traits) or [("raw", (-1,))]
            for trait in rest:
                parents[root(trait)] = root(first)
    groups: dict[object, tuple[list[Unit], list[Unit]]] = {}
    for place, side in enumerate(sides):
        for unit in side.values():
            key = root(min(unit.traits)) if unit.traits else unit.label
            groups.setdefault(key, ([], []))[place].append(unit)
    found: list[tuple[list[Unit], list[Unit]]] = []
    for ones, others in groups.values():
        if ones and others:
            found.append((ones, others))
        else:
            found += [([unit], []) for unit in ones] + [([], [unit]) for unit in others]
    return found


def _pair_ordered(matcher: _Matcher) -> list[tuple[list[Unit], list[Unit]]]:
    """Pair groups of equals, as many on both sides, in stored order; returns what stays open."""
    left = []
    for ones, others in _open_groups(matcher):
        traits = {unit.traits for unit in ones} | {unit.traits for unit in others}
        shared = frozenset.intersection(*traits) if traits else frozenset()
        if len(ones) != len(others) or not shared:
            left.append((ones, others))
            continue
        ones, others = (sorted(side, key=lambda unit: unit.number) for side in (ones, others))
        for one, other in zip(ones, others, strict=True):
            matcher.pair(one.label, other.label, "ordered", f"order among {len(ones)} equals")
    return left
