"""Two-way name templates: `layer{s:int}.conv{k:1..3}` <-> `conv{s+1}_{k}_conv`.

Both sides of a rule use the same variables, so one text gives a match in each direction:

- `{x}`      one component: anything without "." and "/"
- `{x:int}`  a number without leading zeros; `{x+1}`, `{x-1}` the same number moved
- `{x:letter}` that number as a letter: 0 is a, 25 is z
- `{x:1..3}` a number of that range; `{x:q|k|v}` one of these words
- `{x**}`    several components; joined by "." or "/", whichever its side uses
- `{{`, `}}` a brace
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wtool.errors import MalformedInput, UnsupportedError

# A match may try every split of a name for each of these: more would be slow on long names.
MAX_PATHS = 2
MAX_VARIABLES = 16
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(\*\*)|([+-]\d{1,6})|:(.+))?")
_RANGE = re.compile(r"(\d{1,6})\.\.(\d{1,6})")
_WORDS = re.compile(r"[^./|{}]+(\|[^./|{}]+)+")
_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_WORD = r"[^./]+"

_Side = TypeVar("_Side", bound=str)
Value = int | str | tuple[str, ...]
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Variable:
    """One place in a template. kind: "word", "int", "range", "choice", "path" or "" (said on the
    other side). limits: of a range. words: of a choice. shift: added where the name is written.
    letter: written as one.
    """

    name: str
    kind: str = ""
    limits: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()
    shift: int = 0
    letter: bool = False


Part = str | Variable


def parse(text: str) -> tuple[Part, ...]:
    """Literal texts and variables in order; MalformedInput where the text is no template."""
    parts: list[Part] = []
    literal = ""
    position = 0
    for token in _TOKEN.finditer(text):
        literal += text[position : token.start()]
        position = token.end()
        if token.group() in ("{{", "}}"):
            literal += token.group()[0]
            continue
        if token.group(1) is None:
            raise MalformedInput(f"template '{text}' has a brace without its pair")
        if literal:
            parts.append(literal)
        variable = _parse_variable(token.group(1), text)
        before = parts[-1] if parts and not literal else None
        if isinstance(before, Variable) and variable.letter == before.letter:
            # A number and a letter can be told apart; whatever else cannot.
            raise MalformedInput(f"template '{text}' has two variables with nothing between them")
        literal = ""
        parts.append(variable)
    literal += text[position:]
    if literal:
        parts.append(literal)
    if not parts:
        raise MalformedInput("a name is empty")
    variables = _variables(parts)
    if len(variables) > MAX_VARIABLES or sum(v.kind == "path" for v in variables) > MAX_PATHS:
        raise MalformedInput(
            f"template '{text}' has too many variables",
            expected=f"at most {MAX_VARIABLES}, {MAX_PATHS} of them with **",
        )
    return tuple(parts)


def _parse_variable(inner: str, text: str) -> Variable:
    match = _VARIABLE.fullmatch(inner)
    if match is None:
        raise MalformedInput(
            f"template '{text}' has no variable in '{{{inner}}}'",
            expected="{x}, {x:int}, {x:1..3}, {x:q|k|v}, {x+1} or {x**}",
        )
    name, path, shift, kind = match.groups()
    if path:
        return Variable(name, "path")
    if shift:
        return Variable(name, "", shift=int(shift))
    if kind is None:
        return Variable(name)
    if kind in ("int", "letter"):
        return Variable(name, "int", letter=kind == "letter")
    limits = _RANGE.fullmatch(kind)
    if limits:
        low, high = int(limits.group(1)), int(limits.group(2))
        if low > high:
            raise MalformedInput(f"template '{text}' has an empty range '{kind}'")
        return Variable(name, "range", (low, high))
    if _WORDS.fullmatch(kind):
        return Variable(name, "choice", words=tuple(kind.split("|")))
    raise MalformedInput(
        f"template '{text}' has an unknown type '{kind}'", expected="int, letter, 1..3 or q|k|v"
    )


class Template:
    """One side's name: matches names of that side, and writes them.

    Law: where `match(name)` gives values, `render` of them gives `name` again.
    """

    def __init__(
        self, text: str, parts: Sequence[Part], kinds: Mapping[str, Variable], separator: str
    ) -> None:
        self.text = text
        self.separator = separator
        self.parts = tuple(parts)
        self.kinds = kinds
        self.variables = frozenset(p.name for p in parts if isinstance(p, Variable))
        # Without variables a template is a name, and matching is comparing.
        self.literal = None if self.variables else "".join(map(str, parts))
        self._regex = re.compile("".join(self._pattern(i) for i in range(len(self.parts))))

    def _pattern(self, index: int) -> str:
        part = self.parts[index]
        if isinstance(part, str):
            return re.escape(part)
        kind = self.kinds[part.name]
        if part.letter:
            inner = "[a-z]"
        elif kind.kind in ("int", "range"):
            inner = _NUMBER
        elif kind.kind == "choice":
            inner = "|".join(re.escape(word) for word in sorted(kind.words, key=len, reverse=True))
        elif kind.kind == "path":
            inner = f"{_WORD}(?:{re.escape(self.separator)}{_WORD})*"
        else:
            inner = _WORD
        return f"(?P<g{index}>{inner})"

    def match(self, name: str) -> Values | None:
        """The variables' values where `name` has this form, else None."""
        if self.literal is not None:
            return {} if name == self.literal else None
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values: dict[str, Value] = {}
        for index, part in enumerate(self.parts):
            if isinstance(part, str):
                continue
            value = self._value(part, found.group(f"g{index}"))
            if value is None or values.setdefault(part.name, value) != value:
                return None
        return values

    def _value(self, part: Variable, text: str) -> Value | None:
        kind = self.kinds[part.name]
        if kind.kind in ("int", "range"):
            number = ord(text) - ord("a") if part.letter else int(text) - part.shift
            low, high = kind.limits if kind.kind == "range" else (0, number)
            return number if low <= number <= high and number >= 0 else None
        return tuple(text.split(self.separator)) if kind.kind == "path" else text

    def render(self, values: Values) -> str:
        """The name with these values."""
        return "".join(
            part if isinstance(part, str) else self._text(part, values[part.name])
            for part in self.parts
        )

    def _text(self, part: Variable, value: Value) -> str:
        if part.letter and isinstance(value, int):
            if value > 25:
                raise UnsupportedError(f"'{self.text}' has no letter for {value}")
            return chr(ord("a") + value)
        if isinstance(value, int):
            return str(value + part.shift)
        return value if isinstance(value, str) else self.separator.join(value)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def link(
    sides: Mapping[_Side, Sequence[str]],
    separators: Mapping[_Side, str],
    context: Sequence[str] = (),
) -> dict[_Side, tuple[Template, ...]]:
    """The templates of one rule, by side; MalformedInput unless all of them use the same variables
    in the same sense, which is what makes the rule work in both directions.

    context: further templates that only say what a variable is.
    """
    parsed = {side: [parse(text) for text in texts] for side, texts in sides.items()}
    kinds: dict[str, Variable] = {}
    for parts, text in [
        *(
            (parts, text)
            for side in sides
            for parts, text in zip(parsed[side], sides[side], strict=True)
        ),
        *((parse(text), text) for text in context if text),
    ]:
        for part in parts:
            if isinstance(part, Variable):
                _declare(kinds, part, text)
    if context:
        used = {p.name for side in parsed.values() for parts in side for p in _variables(parts)}
        kinds = {name: kind for name, kind in kinds.items() if name in used}
    kinds = {k: v if v.kind else Variable(k, "word") for k, v in kinds.items()}
    everywhere = frozenset(kinds)
    made: dict[_Side, tuple[Template, ...]] = {}
    for side, templates in parsed.items():
        made[side] = tuple(
            Template(text, parts, kinds, separators[side])
            for parts, text in zip(templates, sides[side], strict=True)
        )
        for template in made[side]:
            if template.variables != everywhere:
                missing = sorted(everywhere - template.variables)
                raise MalformedInput(
                    f"'{template.text}' lacks {', '.join('{' + m + '}' for m in missing)}, which "
                    "another name of the rule has: it would not work in both directions"
                )
            for part in template.parts:
                if isinstance(part, Variable) and part.shift and not _is_number(kinds[part.name]):
                    raise MalformedInput(
                        f"'{template.text}' counts with {{{part.name}}}, which is no number",
                        hint=f"declare {{{part.name}:int}} on the other side",
                    )
    return made


def _variables(parts: Sequence[Part]) -> list[Variable]:
    return [part for part in parts if isinstance(part, Variable)]


def _is_number(variable: Variable) -> bool:
    return variable.kind in ("int", "range")


def _declare(kinds: dict[str, Variable], part: Variable, text: str) -> None:
    plain = Variable(part.name, part.kind, part.limits, part.words)
    known = kinds.setdefault(part.name, plain)
    if not known.kind or (known.kind == "int" and plain.kind == "range"):
        kinds[part.name] = plain
    elif known.kind == "range" and plain.kind == "int":
        return
    elif plain.kind and plain != known:
        raise MalformedInput(f"'{text}' declares {{{part.name}}} otherwise than before")
