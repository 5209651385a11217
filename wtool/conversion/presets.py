"""The mappings that come with wtool: one TOML file each in `presets/`, chosen by what they cover.

A preset is right for two models only if it accounts for every tensor of both by name; a file's
name, and a few tensors that look familiar, choose nothing. One more, `hf-tf`, is no file: the names
of Hugging Face's TensorFlow classes follow rules, and `huggingface` writes its mapping by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Dict
from functools import cache
from importlib.resources import files
from typing import Any

from wtool.checkpoint import BESIDE_MODEL, Checkpoint
from wtool.conversion import huggingface
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.operation_text import Constant
from wtool.conversion.rules import Block, Mapping, Part, SideName, other
from wtool.conversion.templates import Template, Value
from wtool.errors import UsageError

_SUFFIX = ".toml"
# Of a model, tried before all: most presets are out of the question after one.
FIRST_NAMES = 8

# Which variables, with which values: equal on both sides of a rule.
_Binding = tuple[tuple[str, Value], ...]


def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    folder = files("wtool.conversion").joinpath("presets")
    found = (entry.name for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found))


def preset_text(name: str) -> str:
    """The preset as its file says it; UsageError that lists all for an unknown name."""
    known = preset_names()
    if name not in known:
        expected = ", ".join((*known, huggingface.NAME))
        raise UsageError("no such preset", expected=expected, found=name)
    path = files("wtool.conversion").joinpath("presets", name + _SUFFIX)
    return path.read_text(encoding="utf-8")


def load_preset(name: str, constants: Dict[str, Constant] | None = None) -> Mapping:
    """The preset of that name; constants: take the place of its own."""
    if constants:
        return parse_mapping(preset_text(name), path=f"preset {name}", constants=constants)
    return _load(name)


@cache
def _load(name: str) -> Mapping:
    return parse_mapping(preset_text(name), path=f"preset {name}")


def find_preset(a: Checkpoint, b: Checkpoint) -> Mapping | None:
    """The preset that accounts for every tensor of a PyTorch model `a` and of its counterpart `b`.

    None where there is none. Names alone are compared here; shapes and ties are the conversion's.
    """
    names_a, names_b = model_names(a), model_names(b)
    for name in preset_names():
        preset = load_preset(name)
        if not unaccounted(preset, names_a, names_b):
            return preset
    return by_rules(a, b)


def by_rules(a: Checkpoint | None, b: Checkpoint) -> Mapping | None:
    """The mapping that Hugging Face's rules of names give, see `huggingface.rules_text`."""
    text = huggingface.rules_text(a, b)
    return None if text is None else parse_mapping(text, path=f"preset {huggingface.NAME}")


def found_text(preset: Mapping, a: Checkpoint, b: Checkpoint) -> str:
    """The mapping file of what `find_preset` found for the two."""
    if preset.name == huggingface.NAME:
        return huggingface.rules_text(a, b) or ""
    return preset_text(preset.name)


def presets_for(checkpoint: Checkpoint, framework: str) -> list[Mapping]:
    """The presets that account for every tensor of `checkpoint` on the way to `framework`.

    framework: "torch", or one of "keras" and "tensorflow" as the presets' sides say it. Of several,
    those that have the fewest rules without work.
    """
    names = model_names(checkpoint)
    found: list[tuple[int, Mapping]] = []
    for name in preset_names():
        preset = load_preset(name)
        sides: tuple[SideName, ...] = ("a", "b")
        for side in sides:
            to = preset.sides[other(side)].framework
            if _is_framework(to, framework) and not _unclaimed(preset, side, names):
                found.append((_idle(preset, side, names), preset))
    # VGG 19 has a place for every layer of VGG 16, and more.
    fewest = min((idle for idle, _ in found), default=0)
    return [preset for idle, preset in found if idle == fewest]


def _idle(preset: Mapping, side: SideName, names: list[str]) -> int:
    """How many blocks find none of their names."""
    return sum(not any(_bound(p, side, names) for p in block.parts) for block in preset.blocks)


def is_mostly_met(preset: Mapping, checkpoint: Checkpoint) -> bool:
    """Whether most rules of the preset find names of theirs, so that the model is of its family:
    `fc`, or `conv1` and `bn1`, are names of any model.
    """
    names = model_names(checkpoint)
    return any(2 * _idle(preset, side, names) < len(preset.blocks) for side in ("a", "b"))


def _is_framework(stated: str, wanted: str) -> bool:
    if wanted == "tensorflow":
        return stated in ("tensorflow", "tf1")
    return stated == wanted or (wanted == "keras" and stated == "tf_keras")


def model_names(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors that are the model's own."""
    return [tensor.name for tensor in checkpoint if tensor.role not in BESIDE_MODEL]


def unaccounted(
    preset: Mapping, names_a: Iterable[str], names_b: Iterable[str]
) -> list[tuple[SideName, str]]:
    """The names, with their sides, that `preset` does not pair, drop or make; empty: all covered.

    A name counts as paired only if its counterparts are there too.
    """
    names: dict[SideName, list[str]] = {"a": list(names_a), "b": list(names_b)}
    open_names: list[tuple[SideName, str]] = []
    for side, present in names.items():
        open_names += [(side, name) for name in _unclaimed(preset, side, present)]
    if open_names:
        return open_names
    for block in preset.blocks:
        for part in block.parts:
            if part.only is None:
                open_names += _unpaired(part, names)
    return open_names


def _unclaimed(preset: Mapping, side: SideName, names: Iterable[str]) -> list[str]:
    """The names of one side that no rule speaks of; all of them where a layer is incomplete."""
    names = list(names)
    if not all(_is_spoken_of(preset, side, name) for name in names[:FIRST_NAMES]):
        return names
    claimed = {
        name for block in preset.blocks for p in block.parts for name in _bound(p, side, names)
    }
    rest = [name for name in names if name not in claimed and not _is_extra(preset, side, name)]
    if not claimed:
        return names
    return rest or [name for block in preset.blocks for name in _incomplete(block, side, names)]


def _is_spoken_of(preset: Mapping, side: SideName, name: str) -> bool:
    return _is_extra(preset, side, name) or any(
        template.match(name) is not None
        for block in preset.blocks
        for part in block.parts
        for template in part.names.get(side, ())
    )


def _is_extra(preset: Mapping, side: SideName, name: str) -> bool:
    """Whether a rule ties, ignores or makes the name."""
    named: list[Template] = [rule.name for rule in preset.ties if rule.side == side]
    named += [rule.name for rule in preset.ignored if rule.side == side]
    return any(template.match(name) is not None for template in named) or any(
        made.side == side and made.names(name) for made in preset.made
    )


def _bound(part: Part, side: SideName, names: Iterable[str]) -> dict[str, tuple[int, _Binding]]:
    """Name -> (which of the part's names it is, the variables' values)."""
    found: dict[str, tuple[int, _Binding]] = {}
    for place, template in enumerate(part.names.get(side, ())):
        if template.literal is not None:
            if template.literal in names:
                found[template.literal] = (place, ())
            continue
        for name in names:
            values = template.match(name)
            if values is not None:
                found[name] = (place, tuple(sorted(values.items())))
    return found


def _incomplete(block: Block, side: SideName, names: list[str]) -> list[str]:
    """Names of layers of which a required part is missing."""
    parts = [_bound(part, side, names) for part in block.parts]
    found = {binding for bound in parts for _, binding in bound.values()}
    missing = set()
    for part, bound in zip(block.parts, parts, strict=True):
        templates = part.names.get(side, ())
        if part.only is None and part.required and templates:
            there: dict[_Binding, int] = {}
            for _, binding in bound.values():
                there[binding] = there.get(binding, 0) + 1
            missing |= {b for b in found if there.get(b, 0) != len(templates)}
    return [name for bound in parts for name, (_, b) in bound.items() if b in missing]


def _unpaired(part: Part, names: Dict[SideName, list[str]]) -> list[tuple[SideName, str]]:
    bound: dict[SideName, dict[str, tuple[int, _Binding]]] = {
        side: _bound(part, side, present) for side, present in names.items()
    }
    there = {side: {binding for _, binding in rows.values()} for side, rows in bound.items()}
    return [
        (side, name)
        for side, rows in bound.items()
        for name, (_, binding) in rows.items()
        if binding not in there[other(side)]
    ]


def preset_rows(preset: Mapping, a: Checkpoint, b: Checkpoint) -> list[dict[str, Any]]:
    """The pairs of tensors that a preset makes, as `wtool map` lists them."""
    names: dict[SideName, list[str]] = {"a": model_names(a), "b": model_names(b)}
    evidence = f"preset {preset.name}"
    rows: list[dict[str, Any]] = []
    told: set[str] = set()
    for block in preset.blocks:
        for part in block.parts:
            groups: dict[_Binding, dict[str, list[str]]] = {}
            for side, present in names.items():
                for name, (_, binding) in _bound(part, side, present).items():
                    groups.setdefault(binding, {}).setdefault(side, []).append(name)
                    told.add(f"{side}:{name}")
            for found in groups.values():
                row = {side: ", ".join(found[side]) for side in found}
                rows.append({**row, "kind": block.kind, "grade": "certain", "evidence": evidence})
    for side, present in names.items():
        rows += [
            {side: name, "grade": "certain", "evidence": f"{evidence}: {_why(preset, side, name)}"}
            for name in present
            if f"{side}:{name}" not in told
        ]
    return rows


def _why(preset: Mapping, side: SideName, name: str) -> str:
    """Why a tensor has no counterpart."""
    for ignored in preset.ignored:
        if ignored.side == side and ignored.name.match(name) is not None:
            return ignored.reason
    for tied in preset.ties:
        if tied.side == side and tied.name.match(name) is not None:
            return f"tied to {tied.same_as.text}"
    return next((m.reason for m in preset.made if m.side == side and m.names(name)), "made")
