"""Mapping files: TOML that says how the tensors of two frameworks become each other.

    [mapping]            name, schema = 1, a and b = { framework, sep }, notes
    [const]              numbers that no weight file says: heads, channels before Flatten
    [[layer]]            kind, a, b, options of the kind: expands by the table of layers
    [[rule]]             a, b (a name or a list), op = [...], lossy = "..."
                         (note = TEXT in a layer or a rule is printed with the notes)
    [[tied]]             side, name, same_as: compared before it is dropped, made on the way back
                         (when = NAME: only for a model that has the tensor of that name)
    [[ignore]]           side, name, reason
    [[make]]             side, name, reason, dtype, shape, fill or values, or from_template = true
                         (also = NAME: what a file may call it instead)

A file is read whole or refused with the line and the rule that is wrong.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from collections.abc import Mapping as Dict
from typing import Any, TypeVar

from wtool.conversion.layer_blocks import expand_layer
from wtool.conversion.layer_options import refuse_unused
from wtool.conversion.operation_text import Constant, parse_operations
from wtool.conversion.operations import invert_all
from wtool.conversion.rules import (
    FRAMEWORKS,
    Block,
    Ignored,
    Made,
    Mapping,
    Part,
    Side,
    SideName,
    Tied,
)
from wtool.conversion.templates import Template, link
from wtool.conversion.toml_text import header_lines
from wtool.conversion.toml_values import (
    check_keys,
    made_values,
    side_name,
    switch_of,
    text_of,
    texts_of,
)
from wtool.errors import MalformedInput, UnsafeInput
from wtool.sources import FileSource, read_bytes

SCHEMA = 1
MAX_BYTES = 16 << 20
_TABLES = ("mapping", "const", "layer", "rule", "tied", "ignore", "make")
_T = TypeVar("_T")


def read_mapping(
    path: str | os.PathLike[str], *, constants: Dict[str, Constant] | None = None
) -> Mapping:
    """The mapping of a file; constants: take the place of those under [const].

    Raises MissingInput, or MalformedInput with the line and the rule.
    """
    source = FileSource(path)
    if source.size > MAX_BYTES:
        raise UnsafeInput(
            "mapping file too large", path=path, expected=f"at most {MAX_BYTES}", found=source.size
        )
    data = bytes(read_bytes(source, 0, source.size))
    source.close()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput("mapping file is not UTF-8", path=path, offset=error.start) from error
    return parse_mapping(text, path=os.fspath(path), constants=constants)


def parse_mapping(
    text: str, *, path: str = "", constants: Dict[str, Constant] | None = None
) -> Mapping:
    """The mapping that `text` is; path: what errors call it. See `read_mapping`."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MalformedInput(f"not TOML: {error}".lower(), path=path or None) from error
    try:
        return _Loader(text, tables, path, constants or {}).load()
    except MalformedInput as error:
        raise error.locate(path=path or None) from error.__cause__


class _Loader:
    """One file's tables, with the lines they begin at."""

    def __init__(
        self, text: str, tables: dict[str, Any], path: str, constants: Dict[str, Constant]
    ) -> None:
        self.tables = tables
        self.path = path
        self.lines = header_lines(text)
        self.constants: dict[str, Constant] = {}
        self.sides: dict[SideName, Side] = {}
        self.overrides = constants
        self.notes: list[str] = []

    def load(self) -> Mapping:
        unknown = sorted(set(self.tables) - set(_TABLES))
        if unknown:
            raise MalformedInput(
                f"no table '{unknown[0]}'{self._at(unknown[0])}", expected=", ".join(_TABLES)
            )
        head = self._table("mapping")
        check_keys(head, "mapping", {"name", "a", "b"}, {"schema", "notes", "about"})
        if head.get("schema", SCHEMA) != SCHEMA:
            raise MalformedInput("unknown schema", expected=SCHEMA, found=head["schema"])
        self.sides = {"a": self._side(head["a"], "a"), "b": self._side(head["b"], "b")}
        self._read_constants()
        blocks = [
            *self._each("layer", self._layer),
            *(block for pair in self._each("rule", self._rule) for block in pair),
        ]
        if not blocks:
            raise MalformedInput("mapping has no [[layer]] and no [[rule]]")
        self._refuse_unused(blocks)
        return Mapping(
            text_of(head["name"], "name"),
            self.sides,
            tuple(blocks),
            tuple(self._each("tied", self._tied)),
            tuple(self._each("ignore", self._ignored)),
            tuple(self._each("make", self._made)),
            notes=(*texts_of(head.get("notes", []), "notes"), *self.notes),
            constants=dict(self.constants),
            path=self.path,
            about=text_of(head.get("about", ""), "about"),
        )

    def _refuse_unused(self, blocks: list[Block]) -> None:
        """Constants of the caller are the file's own, options of its layers, or in its rules."""
        rules = (row for row in self.tables.get("rule", []))
        words = {
            word for row in rules for op in texts_of(row.get("op", []), "op") for word in op.split()
        }
        words |= {part for word in words for part in word.lstrip("-").split(":")}
        stated = self.tables.get("const", {})
        refuse_unused(self.overrides, (block.kind for block in blocks), {*stated, *words})

    def _at(self, table: str) -> str:
        """Where the table begins, as far as its header stands on a line of its own."""
        lines = self.lines.get(table)
        return f" at line {lines[0]}" if lines else ""

    def _table(self, name: str) -> dict[str, Any]:
        table = self.tables.get(name, {})
        if not isinstance(table, dict):
            raise MalformedInput(f"[{name}] is written once, in single brackets")
        return table

    def _side(self, given: Any, side: SideName) -> Side:
        framework = given.get("framework") if isinstance(given, dict) else None
        if not isinstance(framework, str) or framework not in FRAMEWORKS:
            raise MalformedInput(
                f"[mapping] {side} names no framework",
                expected=f"{{ framework = ... }} of {', '.join(FRAMEWORKS)}",
            )
        check_keys(given, f"mapping] [{side}", {"framework"}, {"sep"})
        separator = given.get("sep", FRAMEWORKS[framework])
        if separator not in (".", "/"):
            raise MalformedInput(f"[mapping] {side} sep", expected="'.' or '/'", found=separator)
        return Side(framework, separator)

    def _read_constants(self) -> None:
        stated = self._table("const")
        for name, value in {**stated, **self.overrides}.items():
            items = list(value) if isinstance(value, list | tuple) else [value]
            if not items or not all(type(item) in (int, float) for item in items):
                raise MalformedInput(
                    f"constant '{name}'{self._at('const')} is a number or a list of them"
                )
            self.constants[name] = value

    def _each(self, table: str, read: Callable[[dict[str, Any], str], _T]) -> list[_T]:
        """`read` of every block of a table; errors say which one, and its line."""
        rows = self.tables.get(table, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise MalformedInput(f"[[{table}]] is a list of tables, in double brackets")
        made = []
        for index, row in enumerate(rows):
            lines = self.lines.get(table, [])
            line = f"line {lines[index]}" if index < len(lines) else f"number {index + 1}"
            label = f"[[{table}]] at {line}"
            try:
                made.append(read(row, label))
            except MalformedInput as error:
                error.message = f"{label}: {error.message}"
                raise
        return made

    def _layer(self, row: dict[str, Any], label: str) -> Block:
        check_keys(row, "layer", {"kind", "a", "b"}, None)
        fixed = {"kind", "a", "b", "lossy", "evidence", "note"}
        block = expand_layer(
            row["kind"],
            {"a": texts_of(row["a"], "a"), "b": texts_of(row["b"], "b")},
            self.sides,
            options={k: v for k, v in row.items() if k not in fixed},
            constants=self.constants,
            label=f"{label} ({row['kind']})",
            evidence=text_of(row.get("evidence", "mapping"), "evidence"),
        )
        self._check_lossy(row, block, declared_by_kind=True)
        self._keep_note(row)
        return block

    def _rule(self, row: dict[str, Any], label: str) -> list[Block]:
        check_keys(
            row, "rule", {"a", "b"}, {"op", "lossy", "evidence", "note", "optional", "reverse"}
        )
        texts: dict[SideName, list[str]] = {
            "a": texts_of(row["a"], "a"),
            "b": texts_of(row["b"], "b"),
        }
        names = link(texts, {side: self.sides[side].separator for side in texts})
        forward = parse_operations(texts_of(row.get("op", []), "op"), self.constants)
        both_ways = switch_of(row, "reverse", True)
        backward = invert_all(forward) if both_ways else None
        if backward is None and both_ways:
            raise MalformedInput(
                f"op = {[op.text for op in forward]} cannot be undone",
                hint="give the sizes (flatten FIRST LAST of SIZE...), or say reverse = false",
            )
        part = Part(
            "tensor",
            names,
            {"b": forward, "a": backward},
            required=not switch_of(row, "optional", False),
        )
        block = Block(label, "rule", (part,), text_of(row.get("evidence", "mapping"), "evidence"))
        self._check_lossy(row, block, declared_by_kind=False)
        self._keep_note(row)
        return [block]

    def _keep_note(self, row: dict[str, Any]) -> None:
        """A note of one block, under the name that it is about."""
        if "note" in row:
            note = text_of(row["note"], "note")
            self.notes.append(f"{', '.join(texts_of(row['a'], 'a'))}: {note}")

    def _check_lossy(self, row: dict[str, Any], block: Block, *, declared_by_kind: bool) -> None:
        """What a rule loses is declared; what is declared is lost."""
        sides: tuple[SideName, ...] = ("a", "b")
        lost = {
            word
            for part in block.parts
            for side in sides
            for word in part.lossy(side).split(", ")
            if word
        }
        declared = {
            word.strip()
            for word in text_of(row.get("lossy", ""), "lossy").split(",")
            if word.strip()
        }
        if declared - lost:
            raise MalformedInput(
                "declares a loss that its operations do not have",
                expected=", ".join(sorted(lost)) or "none",
                found=", ".join(sorted(declared)),
            )
        if lost - declared and not declared_by_kind:
            raise MalformedInput(
                f"loses {', '.join(sorted(lost))} and does not declare it",
                hint=f'add lossy = "{", ".join(sorted(lost))}"',
            )

    def _tied(self, row: dict[str, Any], label: str) -> Tied:
        check_keys(row, "tied", {"side", "name", "same_as"}, {"reason", "when"})
        side = side_name(row)
        separators = {side: self.sides[side].separator}
        texts = texts_of([row["name"], row["same_as"]], "name")
        (name,) = link({side: texts[:1]}, separators, texts[1:])[side]
        (same_as,) = link({side: texts[1:]}, separators, texts[:1])[side]
        if not same_as.variables <= name.variables:
            raise MalformedInput(f"'{same_as.text}' has variables that '{name.text}' does not tell")
        return Tied(label, side, name, same_as, text_of(row.get("when", ""), "when"))

    def _ignored(self, row: dict[str, Any], label: str) -> Ignored:
        check_keys(row, "ignore", {"side", "name", "reason"}, set())
        side = side_name(row)
        (name,) = self._templates(side, [row["name"]])
        reason = text_of(row["reason"], "reason")
        if not reason.strip():
            raise MalformedInput("leaves a tensor out and gives no reason", found=row["name"])
        return Ignored(label, side, name, reason)

    def _made(self, row: dict[str, Any], label: str) -> Made:
        optional = {"reason", "dtype", "shape", "fill", "values", "from_template", "also"}
        check_keys(row, "make", {"side", "name"}, optional)
        if ("fill" in row) + ("values" in row) + (row.get("from_template") is True) != 1:
            raise MalformedInput("says one of fill, values and from_template = true")
        (name,) = self._templates(side_name(row), [row["name"]])
        if name.literal is None:
            raise MalformedInput("makes one tensor, with one name", found=row["name"])
        also = (
            self._templates(side_name(row), [text_of(row["also"], "also")])[0]
            if "also" in row
            else None
        )
        dtype, shape, values = made_values(row)
        return Made(
            label,
            side_name(row),
            name.literal,
            text_of(row.get("reason", "the other side has none"), "reason"),
            dtype,
            shape,
            values,
            also,
        )

    def _templates(self, side: SideName, texts: list[Any]) -> tuple[Template, ...]:
        return link({side: texts_of(texts, "name")}, {side: self.sides[side].separator})[side]
