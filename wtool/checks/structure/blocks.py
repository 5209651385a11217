"""Numbered blocks of a model ("layers.0", "layers.1") and the names below each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from wtool.checkpoint import BESIDE_MODEL
from wtool.checks.subject import Subject

_NUMBERED = re.compile(r"(\d+)|([A-Za-z_]\w*?_)(\d+)", re.ASCII)


@dataclass(eq=False)
class Family:
    """Blocks that differ in their number only.

    prefix: what stands before the number. below: by the number of each block, the names within it
    and how many dimensions each has.
    plain: whether the number is a component of its own.
    """

    prefix: str
    plain: bool
    below: dict[int, dict[str, int]] = field(default_factory=dict)

    def common(self, share: float) -> set[str]:
        """Names that at least this share of the blocks has."""
        counts: dict[str, int] = {}
        for names in self.below.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        return {name for name, n in counts.items() if n >= share * len(self.below)}

    def siblings(self, number: int) -> list[int]:
        """The other blocks that are of one kind with this: what both have is equally deep in both.

        In a plain sequence a convolution, a norm and a dense layer all hold `weight`.
        """
        mine = self.below[number].items()
        return [
            other
            for other, names in self.below.items()
            if other != number and all(names.get(name, ndim) == ndim for name, ndim in mine)
        ]

    def block(self, number: int) -> str:
        """The path of one block."""
        return f"{self.prefix}{number}"


def families(subject: Subject) -> Iterator[Family]:
    """Every family of blocks among the model's own tensors, in stored order."""
    found: dict[tuple[str, bool], Family] = {}
    for tensor in subject.checkpoint:
        if tensor.role in BESIDE_MODEL:
            continue
        separator = "/" if "/" in tensor.name else "."
        parts = tensor.name.split(separator)
        for place, part in enumerate(parts[:-1]):
            match = _NUMBERED.fullmatch(part)
            # Keras counts layers of a kind over the whole program: only bare numbers mean blocks.
            if match is None or len(part) > 40 or (separator == "/" and match[1] is None):
                continue
            plain = match[1] is not None
            head = separator.join(parts[:place])
            prefix = (head + separator if head else "") + ("" if plain else match[2])
            family = found.get((prefix, plain))
            if family is None:
                family = found[prefix, plain] = Family(prefix, plain)
            number = int(match[1] if plain else match[3])
            rest = separator.join(parts[place + 1 :])
            family.below.setdefault(number, {})[rest] = len(tensor.shape)
    yield from found.values()
