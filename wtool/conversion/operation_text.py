"""Operations as mapping files write them: one line of words each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wtool.conversion.cells import FoldWeightNorm, JoinCell, ShiftGate, SumBiases
from wtool.conversion.operations import (
    Flatten,
    Operation,
    Permute,
    Reshape,
    Unflatten,
    Vector,
    complete,
)
from wtool.conversion.pieces import Concat, Gates, Split, Stack
from wtool.errors import MalformedInput

# A named number, or several, that a mapping file states: heads, channels before Flatten.
Constant = int | float | Sequence[int]
Constants = Mapping[str, Constant]

# First word -> how the rest is written.
FORMS = {
    "transpose": "transpose",
    "permute": "permute AXIS... with '...' for the axes not named",
    "reshape": "reshape SIZE... to SIZE...",
    "unflatten": "unflatten AXIS SIZE...",
    "flatten": "flatten FIRST LAST, or flatten FIRST LAST of SIZE...",
    "vector": "vector SIZE...",
    "split": "split AXIS SHARE:SHARE... or PARTS",
    "concat": "concat AXIS SHARE:SHARE... or PARTS",
    "stack": "stack AXIS PARTS",
    "unstack": "unstack AXIS PARTS",
    "gates": "gates AXIS BLOCK...",
    "sum": "sum",
    "shift": "shift BLOCK BLOCKS AMOUNT",
    "join-cell": "join-cell GATES AXIS",
    "fold-weight-norm": "fold-weight-norm",
}
MAX_PARTS = 1024


def parse_operations(texts: Sequence[str], constants: Constants) -> tuple[Operation, ...]:
    """The operations; MalformedInput that quotes the text that is none, or a missing constant."""
    return complete([_parse(text, constants) for text in texts])


def _parse(text: str, constants: Constants) -> Operation:
    words = text.split()
    if not words or words[0] not in FORMS:
        raise MalformedInput(f"no operation '{text}'", expected=", ".join(FORMS))
    made = _READERS[words[0]](_Words(text, words[1:], constants))
    if made is None:
        raise MalformedInput(f"cannot read the operation '{text}'", expected=FORMS[words[0]])
    return made


class _Words:
    """The words after the first, constants put in."""

    def __init__(self, text: str, words: Sequence[str], constants: Constants) -> None:
        self.text = text
        self.words = list(words)
        self.constants = constants

    def numbers(self, words: Sequence[str] | None = None) -> list[int]:
        """All words as integers; a constant may give several."""
        numbers: list[int] = []
        for word in self.words if words is None else words:
            value = self.value(word)
            if isinstance(value, float):
                raise MalformedInput(f"'{self.text}' takes whole numbers", found=word)
            numbers.extend([value] if isinstance(value, int) else value)
        return numbers

    def value(self, word: str) -> Constant:
        """A number, or the constant of that name."""
        if word in self.constants:
            return self.constants[word]
        try:
            return int(word)
        except ValueError:
            pass
        try:
            return float(word)
        except ValueError:
            raise MalformedInput(
                f"'{self.text}' uses '{word}', which is no number and no constant",
                hint=f"give it under [const] or with --set {word}=...",
            ) from None


def _permute(words: _Words) -> Operation | None:
    if words.words.count("...") > 1:
        return None
    rest_at = words.words.index("...") if "..." in words.words else None
    axes = tuple(words.numbers([word for word in words.words if word != "..."]))
    if len(set(axes)) != len(axes) or min(axes, default=0) < 0:
        return None
    if rest_at is None and sorted(axes) != list(range(len(axes))):
        return None
    return Permute(axes, rest_at)


def _reshape(words: _Words) -> Operation | None:
    if words.words.count("to") != 1:
        return None
    middle = words.words.index("to")
    source = tuple(words.numbers(words.words[:middle]))
    target = tuple(words.numbers(words.words[middle + 1 :]))
    if source.count(-1) != target.count(-1) or not (_are_sizes(source) and _are_sizes(target)):
        return None
    if _product(source) != _product(target):
        return None
    return Reshape(source, target)


def _unflatten(words: _Words) -> Operation | None:
    axis, *sizes = words.numbers() or [-1]
    return Unflatten(axis, tuple(sizes)) if axis >= 0 and sizes and _are_sizes(sizes) else None


def _flatten(words: _Words) -> Operation | None:
    middle = words.words.index("of") if "of" in words.words else len(words.words)
    numbers = words.numbers(words.words[:middle])
    sizes = tuple(words.numbers(words.words[middle + 1 :]))
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] or not _are_sizes(sizes):
        return None
    if sizes and len(sizes) != numbers[1] - numbers[0] + 1:
        return None
    return Flatten(numbers[0], numbers[1], sizes)


def _vector(words: _Words) -> Operation | None:
    sizes = tuple(words.numbers())
    if not sizes:
        return Vector(None)
    return Vector(sizes) if _are_sizes(sizes) else None


def _shares(words: _Words) -> tuple[int, tuple[int, ...]] | None:
    if len(words.words) != 2:
        return None
    axis, *_ = words.numbers(words.words[:1])
    shares = words.words[1].split(":")
    numbers = words.numbers(shares)
    if len(numbers) == 1 and 0 < numbers[0] <= MAX_PARTS:
        numbers = [1] * numbers[0]
    if axis < 0 or min(numbers) < 1 or max(len(numbers), *numbers) > MAX_PARTS:
        return None
    return axis, tuple(numbers)


def _split(words: _Words) -> Operation | None:
    found = _shares(words)
    return Split(*found) if found else None


def _concat(words: _Words) -> Operation | None:
    found = _shares(words)
    return Concat(*found) if found else None


def _stack(words: _Words, undo: bool = False) -> Operation | None:
    numbers = words.numbers()
    if len(numbers) != 2 or numbers[0] < 0 or not 0 < numbers[1] <= MAX_PARTS:
        return None
    return Stack(numbers[0], numbers[1], undo)


def _gates(words: _Words) -> Operation | None:
    axis, *order = words.numbers() or [-1]
    if axis < 0 or not order or sorted(order) != list(range(len(order))):
        return None
    return Gates(axis, tuple(order))


def _shift(words: _Words) -> Operation | None:
    if len(words.words) != 3:
        return None
    block, blocks, *_ = words.numbers(words.words[:2])
    sign = -1 if words.words[2].startswith("-") else 1
    amount = words.value(words.words[2].lstrip("-"))
    if not isinstance(amount, int | float) or not 0 <= block < blocks:
        return None
    return ShiftGate(block, blocks, sign * float(amount))


def _join_cell(words: _Words) -> Operation | None:
    numbers = words.numbers()
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (0, 1):
        return None
    return JoinCell(numbers[0], numbers[1])


def _alone(operation: Operation) -> Callable[[_Words], Operation | None]:
    return lambda words: None if words.words else operation


def _are_sizes(sizes: Sequence[int]) -> bool:
    return list(sizes).count(-1) <= 1 and all(n >= -1 for n in sizes)


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= 1 if size == -1 else size
    return product


_READERS: dict[str, Callable[[_Words], Operation | None]] = {
    "transpose": _alone(Permute((1, 0))),
    "permute": _permute,
    "reshape": _reshape,
    "unflatten": _unflatten,
    "flatten": _flatten,
    "vector": _vector,
    "split": _split,
    "concat": _concat,
    "stack": _stack,
    "unstack": lambda words: _stack(words, undo=True),
    "gates": _gates,
    "sum": _alone(SumBiases()),
    "shift": _shift,
    "join-cell": _join_cell,
    "fold-weight-norm": _alone(FoldWeightNorm()),
}
