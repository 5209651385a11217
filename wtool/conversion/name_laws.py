"""Names as words and numbers, and the laws that relate the numbers of two families of names.

`layer{s}.{n}.conv{k}` and `conv{s+1}_block{n+1}_{k}_conv` are two families; the law between them
takes every number of a target name from one number of the source name plus a constant, or from a
constant. A law counts only where every pair that it makes may be one by shape.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

# Words that frameworks put between names and that name nothing.
_FILLERS = frozenset(("layers", "modules"))
_WORD = re.compile(r"[A-Za-z]+|\d+")
# A number, and the letter that EfficientNet counts its blocks with: block2b_expand.
_SLOT = re.compile(r"\d+|(?<=\d)[a-z](?=_)")
MAX_SLOTS = 5
# Of two families; larger ones are left to names and values.
MAX_PAIRS = 1 << 22


def normal_form(path: str) -> tuple[str, ...]:
    """The words and numbers of a path, by which a layer of both frameworks may be recognised.

    Hugging Face's TensorFlow names write `.` as `_._` and rename branches as `new___old`.
    """
    parts = [part.rpartition("___")[2] for part in path.split("/")]
    words = (word.lower() for word in _WORD.findall("/".join(parts)))
    return tuple(word for word in words if word not in _FILLERS)


def family_of(path: str) -> tuple[str, tuple[int, ...]]:
    """(the path with its numbers taken out, the numbers); letters that count are numbers from 0."""
    slots = []

    def take(match: re.Match[str]) -> str:
        text = match[0]
        slots.append(int(text) if text.isdigit() else ord(text) - ord("a"))
        return "#" if text.isdigit() else "@"

    return _SLOT.sub(take, path), tuple(slots)


@dataclass(frozen=True)
class Law:
    """The pairs that one law makes, source path -> target path, and the places it reads."""

    pairs: tuple[tuple[str, str], ...]
    relation: tuple[tuple[int | None, int], ...]


def find_laws(
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    compatible: Callable[[str, str], bool],
) -> list[Law]:
    """The laws between two families that make at least two pairs, the largest first.

    Each law covers all its sources, or all targets that agree with its constants.
    """
    xs = {family_of(path)[1]: path for path in sources}
    ys = {family_of(path)[1]: path for path in targets}
    width = len(next(iter(xs)))
    if (
        not width
        or width > MAX_SLOTS
        or len(next(iter(ys))) > MAX_SLOTS
        or min(len(xs), len(ys)) < 2
    ):
        return []
    if len(xs) * len(ys) > MAX_PAIRS:
        return []
    may_be = {x: {y for y in ys if compatible(xs[x], ys[y])} for x in xs}
    laws: dict[tuple[tuple[str, str], ...], Law] = {}
    tried: set[Hashable] = set()
    for first in _pivots(list(xs)):
        for second in may_be[first]:
            for law in _laws_through(first, second, xs, ys, may_be, tried):
                laws.setdefault(law.pairs, law)
    return sorted(laws.values(), key=lambda law: (-len(law.pairs), law.pairs))


def _pivots(xs: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Names that together show every value of every number, few of them."""
    seen: set[tuple[int, int]] = set()
    for x in xs:
        values = set(enumerate(x))
        if not values <= seen:
            seen |= values
            yield x


def _laws_through(
    x: tuple[int, ...],
    y: tuple[int, ...],
    xs: dict[tuple[int, ...], str],
    ys: dict[tuple[int, ...], str],
    may_be: dict[tuple[int, ...], set[tuple[int, ...]]],
    tried: set[Hashable],
) -> Iterator[Law]:
    """The laws not yet tried that take the numbers `x` to the numbers `y`."""
    places: list[int | None] = [None, *range(len(x))]
    for choice in itertools.product(places, repeat=len(y)):
        used = {place for place in choice if place is not None}
        if not used or len(used) != sum(place is not None for place in choice):
            continue
        relation = tuple(
            (place, y[j] if place is None else y[j] - x[place]) for j, place in enumerate(choice)
        )
        fixed = tuple((i, x[i]) for i in range(len(x)) if i not in used)
        if (relation, fixed) not in tried:
            tried.add((relation, fixed))
            pairs = _apply(relation, fixed, ys, may_be)
            if pairs:
                yield Law(tuple((xs[a], ys[b]) for a, b in pairs), relation)


def _apply(
    relation: tuple[tuple[int | None, int], ...],
    fixed: tuple[tuple[int, int], ...],
    ys: dict[tuple[int, ...], str],
    may_be: dict[tuple[int, ...], set[tuple[int, ...]]],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The pairs of a relation; none where one may not be, it covers neither side, or is single."""
    pairs = []
    missed = 0
    for numbers, allowed in may_be.items():
        if any(numbers[i] != value for i, value in fixed):
            continue
        image = tuple(c if place is None else numbers[place] + c for place, c in relation)
        if image in allowed:
            pairs.append((numbers, image))
        elif image in ys:
            return []
        else:
            missed += 1
    if len(pairs) < 2:
        return []
    constants = [(j, c) for j, (place, c) in enumerate(relation) if place is None]
    if missed and sum(all(y[j] == c for j, c in constants) for y in ys) != len(pairs):
        return []
    return pairs
