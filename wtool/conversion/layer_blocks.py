"""A kind of layer and the paths of its two sides, expanded to a block of parts by the table."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wtool.conversion.layer_options import check_names, check_value
from wtool.conversion.layer_rules import (
    CELLS,
    ELEMENTS,
    IMPOSSIBLE,
    INPUTS,
    KINDS,
    NORMS,
    TABLES,
    TORCH_KERAS,
    TORCH_TF1,
    WEIGHT_NORM_KINDS,
    WEIGHT_NORM_LEAVES,
    Column,
    Layer,
    Row,
)
from wtool.conversion.operation_text import Constant, parse_operations
from wtool.conversion.operations import invert_all
from wtool.conversion.rules import Block, Part, Side, SideName, other
from wtool.conversion.templates import link
from wtool.errors import MalformedInput

COLUMNS: dict[str, Column] = {
    "torch": "torch",
    "keras": "keras",
    "tf_keras": "keras",
    "tensorflow": "keras",
    "tf1": "tf1",
}
# Part that tells the width -> parts that are as long, where it is not the bias alone.
_AS_LONG = {"mean": ("weight", "bias", "variance")}
# Kinds that take chw where their vectors, or their inputs, are flattened pictures.
WITH_ORDER = (*NORMS, *CELLS)
# Options that every kind has, beside its own.
COMMON = ("a_names", "b_names", "scale", "center", "weight_norm")


def expand_layer(
    kind: str,
    paths: Dict[SideName, Sequence[str]],
    sides: Dict[SideName, Side],
    *,
    options: Dict[str, object],
    constants: Dict[str, Constant],
    label: str,
    evidence: str = "mapping",
) -> Block:
    """The block of one layer; paths: by side, templates of the module's name.

    options: of the layer, as its mapping file writes them. Raises MalformedInput for an unknown
    kind or option, a missing one, or a kind that has no counterpart on the other side.
    """
    left, layer = _choose(kind, sides)
    names = {row.part for row in layer.rows}
    known = {*COMMON, *names, *dict(layer.options), *(("chw",) if kind in WITH_ORDER else ())}
    unknown = sorted(set(options) - known)
    if unknown:
        raise MalformedInput(
            f"a layer of kind '{kind}' has no option '{unknown[0]}'",
            expected=", ".join(sorted(known)),
        )
    for side, count in ((left, layer.paths), (other(left), 1)):
        if len(paths[side]) != count:
            raise MalformedInput(
                f"side {side} of kind '{kind}' takes {count} names", found=len(paths[side])
            )
    for name in ("scale", "center", "weight_norm"):
        if name in options:
            check_value(name, options[name])
    settings = _settings(kind, layer, options, constants)
    rows = _rows(kind, layer, options)
    sides_in_order: tuple[SideName, SideName] = ("a", "b")
    for side in sides_in_order:
        check_names(side, _names_option(side, options), rows, left=side == left)
    chw = settings["chw"] if "rank" in settings else ()
    parts = tuple(_part(row, left, paths, sides, options, settings, layer) for row in rows)
    present = {part.name for part in parts if part.only is None}
    lengths = tuple(
        (layer.width[0], layer.width[1], row.part)
        for row in rows
        if layer.width is not None
        and row.part in present
        and row.part != layer.width[0]
        and row.part in _AS_LONG.get(layer.width[0], ("bias",))
        and len(row.left) == 1
    )
    return Block(label, kind, parts, evidence, lengths, left, tuple(chw))  # type: ignore[arg-type]


def _choose(kind: str, sides: Dict[SideName, Side]) -> tuple[SideName, Layer]:
    """(the side that is the table's left, the kind's layer between the two frameworks)."""
    if kind not in KINDS:
        raise MalformedInput(f"no kind of layer '{kind}'", expected=", ".join(KINDS))
    a, b = (COLUMNS[sides[side].framework] for side in ("a", "b"))
    for left, pair in (("a", (a, b)), ("b", (b, a))):
        if (kind, *pair) in IMPOSSIBLE:
            raise MalformedInput(f"kind '{kind}': {IMPOSSIBLE[(kind, *pair)]}")
        table = TABLES.get(pair)
        if table is not None and kind in table:
            return ("a" if left == "a" else "b"), table[kind]
    return "a", _same_layout(kind, a, b)


def _same_layout(kind: str, a: Column, b: Column) -> Layer:
    """Between two frameworks of one layout: the same tensors, under the same names or others."""
    table = {**TORCH_KERAS, **TORCH_TF1} if a == "tf1" and b == "tf1" else TORCH_KERAS
    layer = table[kind]
    if a == "torch":
        rows = [replace(row, right=row.left, steps=(), only=None) for row in layer.rows]
        return replace(layer, rows=tuple(rows), paths=1) if layer.paths == 1 else layer
    rows = [
        replace(row, left=row.right, right=row.right, steps=())
        for row in layer.rows
        if row.only is None
    ]
    return Layer(tuple(rows), None, tuple((name, ()) for name, _ in layer.options))


def _settings(
    kind: str, layer: Layer, options: Dict[str, object], constants: Dict[str, Constant]
) -> dict[str, Constant]:
    """Numbers for the operations: constants, and the layer's own options above them."""
    settings: dict[str, Constant] = dict(constants)
    for name, default in layer.options:
        value = options.get(name, constants.get(name, default))
        if isinstance(value, str) and name != "suffix":
            if value not in constants:
                raise MalformedInput(f"option '{name}' names no constant", found=value)
            value = constants[value]
        if value is None:
            raise MalformedInput(
                f"a layer of kind '{kind}' needs '{name}', which no weight file says",
                hint=f"give {name} = ... in the layer or --set {name}=...",
            )
        if value != ():
            check_value(name, value)
        settings[name] = value  # type: ignore[assignment]
    if kind in WITH_ORDER and "chw" in options:
        given: Any = options["chw"]
        named = type(given) is str and given in constants
        settings["chw"] = constants[given] if named else given
        check_value("chw", settings["chw"])
    if "chw" in settings and not isinstance(settings["chw"], int | float | str):
        rank = len(settings["chw"])
        settings["last"], settings["rank"] = rank - 1, rank
        settings["window"] = tuple(range(2, rank + 1))
        settings["spatial"] = tuple(range(1, rank))
    if kind == "prelu" and not settings["shape"]:
        settings["shape"] = (-1,)
    return settings


def _rows(kind: str, layer: Layer, options: Dict[str, object]) -> list[Row]:
    """The layer's rows without those that options switch off, weight norm put in."""
    rows = list(layer.rows)
    for option, part in (("scale", "weight"), ("center", "bias")):
        if options.get(option) is False:
            rows = [row for row in rows if row.part != part]
    if "chw" in options and layer is TORCH_KERAS[kind] and kind in NORMS:
        rows = [row if row.only else replace(row, steps=ELEMENTS) for row in rows]
    if "chw" in options and layer is TORCH_KERAS[kind] and kind in CELLS:
        first = rows[0]
        rows[0] = replace(first, steps=(*first.steps[:-1], *INPUTS))
    style = options.get("weight_norm")
    if style is not None:
        if kind not in WEIGHT_NORM_KINDS or style not in WEIGHT_NORM_LEAVES:
            raise MalformedInput(
                f"weight_norm = '{style}' of kind '{kind}'",
                expected=f"one of {', '.join(WEIGHT_NORM_LEAVES)}, on "
                f"{', '.join(WEIGHT_NORM_KINDS)}",
            )
        leaves = WEIGHT_NORM_LEAVES[str(style)]
        rows = [
            replace(row, left=leaves, steps=("fold-weight-norm", *row.steps))
            if row.part == "weight"
            else row
            for row in rows
        ]
    return rows


def _part(
    row: Row,
    left: SideName,
    paths: Dict[SideName, Sequence[str]],
    sides: Dict[SideName, Side],
    options: Dict[str, object],
    settings: Dict[str, Constant],
    layer: Layer,
) -> Part:
    right = other(left)
    only: SideName | None = None if row.only is None else (left if row.only == "left" else right)
    fill: float | None = None
    like: tuple[str, int | None] | None = None
    given = options.get(row.part)
    if given is not None and row.part not in dict(layer.options):
        only, fill = _fill_option(row.part, given)
        like = layer.width
        if like is None or like[0] == row.part:
            like = ("bias" if row.part == "weight" else "weight", None)
    legacy = sides[right].framework != "keras" and bool(row.legacy)
    leaves = {left: row.left, right: row.legacy if legacy else row.right}
    texts: dict[SideName, list[str]] = {}
    for side in (left, right):
        if only in (None, side):
            renamed = _names_option(side, options)
            texts[side] = [
                _join(leaf, paths[side], sides[side], settings, renamed) for leaf in leaves[side]
            ]
    separators: dict[SideName, str] = {side: sides[side].separator for side in texts}
    context = [path for side in paths for path in paths[side]]
    linked = link(texts, separators, context)
    forward = () if only else parse_operations(row.steps, settings)
    return Part(
        row.part,
        linked,
        {right: forward, left: invert_all(forward)},
        row.required and not (only and fill is None),
        only,
        fill,
        like,
    )


def _fill_option(part: str, given: object) -> tuple[SideName, float]:
    """`bias = { only = "b", fill = 0.0 }` taken apart."""
    if isinstance(given, dict) and set(given) == {"only", "fill"}:
        only, fill = given["only"], given["fill"]
        if only in ("a", "b") and type(fill) in (int, float) and math.isfinite(fill):
            return only, float(fill)
    raise MalformedInput(
        f"option '{part}' cannot be read", expected='{ only = "a" or "b", fill = NUMBER }'
    )


def _names_option(side: SideName, options: Dict[str, object]) -> Dict[str, str]:
    names = options.get(f"{side}_names", {})
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise MalformedInput(f"{side}_names is a table of names")
    return names


def _join(
    leaf: str,
    paths: Sequence[str],
    side: Side,
    settings: Dict[str, Constant],
    renamed: Dict[str, str],
) -> str:
    """The template of a tensor: the module's path and the leaf, joined as the side does."""
    index, colon, rest = leaf.partition(":")
    path = paths[int(index)] if colon else paths[0]
    leaf = rest if colon else leaf
    if leaf in renamed:
        leaf = renamed[leaf]
    else:
        leaf = leaf.replace("{suffix}", str(settings.get("suffix", "")))
        leaf = leaf.replace("/", side.separator).replace(".", side.separator)
    return side.separator.join(text for text in (path, leaf) if text)
