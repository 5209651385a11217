"""The part of `wtool convert` that goes from one framework's layouts to another's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from wtool.checkpoint import Checkpoint
from wtool.commands import PATH
from wtool.errors import OutputExists, UnsupportedError, UsageError, counted
from wtool.report import Report

if TYPE_CHECKING:
    from wtool.conversion.outcome import Outcome
    from wtool.conversion.rules import Mapping
    from wtool.writers.plans import Plan

FRAMEWORKS = ("torch", "keras", "tensorflow")
# Containers that are written on a file of the target model.
_ON_TEMPLATE = ("keras", "tensorflow")
# Containers that have a place for the facts of a conversion.
_WITH_FACTS = ("safetensors", "torch", "keras", "tensorflow", "npz")
_PAST = ("wtool.mapping", "wtool.notes")


@dataclass(frozen=True)
class Framework:
    """What is asked for: see `framework_options`."""

    to: str | None = None
    map: str | None = None
    like: str | None = None
    set: Sequence[str] = ()
    sidecar: str | None = None
    assume: Sequence[str] = ()

    @property
    def is_asked(self) -> bool:
        """Whether layouts are to be converted at all; UsageError for options without a target."""
        if self.to is not None or self.map is not None:
            return True
        if self.like or self.set or self.sidecar or self.assume:
            raise UsageError("--like, --set, --sidecar and --assume go with --to or --map")
        return False


def plan_framework(source: Checkpoint, asked: Framework) -> Outcome:
    """The conversion, verified by value; what does not fit is in its `open`, nothing is written."""
    from wtool.commands import open_model
    from wtool.conversion.engine import choose_side
    from wtool.conversion.verification import convert_layouts

    constants = parse_constants(asked.set)
    template = None if asked.like is None else open_model(asked.like)
    mapping = _mapping(source, asked, template, constants)
    to = choose_side(source, mapping, asked.to)
    sidecar = None
    if asked.sidecar is not None:
        _check_sidecar_name(asked.sidecar)
        if os.path.exists(asked.sidecar):
            opened = open_model(asked.sidecar)
            sidecar = opened if opened.metadata.get("wtool.side") == to else None
    return convert_layouts(source, mapping, to=to, template=template, sidecar=sidecar)


def converted(outcome: Outcome, container: str) -> Checkpoint:
    """The target of a complete outcome; its facts are kept where the container holds text."""
    checkpoint = outcome.checkpoint()
    # Of an earlier conversion, what was lost stays lost; its mapping and notes are past.
    kept = {n: text for n, text in checkpoint.metadata.items() if n not in _PAST}
    facts = outcome.metadata() if container in _WITH_FACTS else {}
    if container == "safetensors":
        # By this word transformers' loader knows whose names and layouts the file has, and it
        # refuses a file with metadata and without the word.
        facts["format"] = "pt" if outcome.mapping.sides[outcome.to].is_torch else "tf"
    return dataclasses.replace(checkpoint, metadata={**kept, **facts})


def template_for(asked: Framework, container: str, template: str | None) -> str | None:
    """The file that the container is written on: the one named, else the target's own."""
    return template or (asked.like if container in _ON_TEMPLATE else None)


def plan_sidecar(outcome: Outcome, path: str | None, others: Sequence[str]) -> Plan | None:
    """The file of what the target cannot hold, to be written with it; None where there is nothing.

    others: the source and the files of the target. UsageError where the sidecar would be one.
    """
    from wtool.writers import plan

    aside = outcome.sidecar()
    if path is None or aside is None:
        return None
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise UsageError("the sidecar needs a file of its own", path=path)
    planned = plan(aside, path)
    planned.refuse_losses(())
    return planned


def sidecar_notes(sidecar: Plan | None) -> list[str]:
    """What was set aside, and where."""
    if sidecar is None:
        return []
    count = sum(len(file.tensors) for file in sidecar.files)
    path = sidecar.files[0].path
    return [f"set aside in {path}: {counted(count, 'tensor')}, for an exact way back"]


def check_sidecar(outcome: Outcome, path: str | None, *, force: bool) -> None:
    """OutputExists where the sidecar would be replaced and --force is not given."""
    if path is not None and outcome.sidecar_names and os.path.lexists(path) and not force:
        raise OutputExists("target exists", path=path, hint="--force replaces it")


def with_coverage(report: Report, outcome: Outcome, notes: Sequence[str]) -> Report:
    """The report of a write with what was converted."""
    coverage = outcome.report()
    return dataclasses.replace(
        report,
        totals={**report.totals, **coverage.totals},
        notes=[*coverage.notes, *report.notes, *notes],
        footer=[*coverage.footer, *report.footer],
    )


def parse_constants(texts: Sequence[str]) -> dict[str, Any]:
    """`heads=4`, `chw=64,7,7` or `forget_bias=1.0` each; UsageError otherwise."""
    constants: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        numbers = [_number(item, text) for item in value.split(",")]
        if not equals or not name.isidentifier():
            raise UsageError("bad constant", expected="NAME=NUMBER or NAME=N,N,N", found=text)
        constants[name] = numbers[0] if len(numbers) == 1 else numbers
    return constants


def _number(text: str, whole: str) -> int | float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    raise UsageError("bad constant", expected="NAME=NUMBER or NAME=N,N,N", found=whole)


def _check_sidecar_name(path: str) -> None:
    if not path.endswith(".safetensors"):
        raise UsageError("a sidecar is a .safetensors file", path=path)


def _mapping(
    source: Checkpoint, asked: Framework, template: Checkpoint | None, constants: Dict[str, Any]
) -> Mapping:
    from wtool.conversion import huggingface
    from wtool.conversion.generic import generic_mapping
    from wtool.conversion.mapping import read_mapping
    from wtool.conversion.module_kinds import parse_assumptions
    from wtool.conversion.presets import load_preset

    if asked.map is not None and asked.assume:
        raise UsageError("--assume goes without --map: a mapping states the kinds itself")
    if asked.map is not None:
        if asked.map.endswith(".toml") or os.path.exists(asked.map):
            return read_mapping(asked.map, constants=constants)
        if asked.map == huggingface.NAME:
            ruled = _by_rules(source, asked.to, template)
            if ruled is None:
                raise UsageError(
                    f"{huggingface.NAME} does not cover the models",
                    hint="it goes from or to a tf_model.h5 of transformers; --like names the other",
                )
            return ruled
        return load_preset(asked.map, constants)
    framework = asked.to or ""
    if not asked.assume:
        preset = _preset(source, framework, template, constants)
        if preset is not None:
            return preset
    try:
        return generic_mapping(
            source,
            framework,
            template=template,
            assume=parse_assumptions(asked.assume),
            constants=constants,
        )
    except UnsupportedError as error:
        if template is None or asked.assume:
            raise
        drafted = _certain(source, template, constants)
        if drafted is None or isinstance(drafted, str):
            error.message = drafted or error.message
            error.hint = "wtool map drafts a mapping file of the two; --map uses it"
            raise
        return drafted


def _certain(
    source: Checkpoint, template: Checkpoint, constants: Dict[str, Any]
) -> Mapping | str | None:
    """What `wtool map` finds between the two, where every match is certain; else what stands
    against the layouts of layers that are known to be the same, None where others are open.
    """
    from wtool.conversion.drafts import draft, propose, rows
    from wtool.conversion.mapping import parse_mapping
    from wtool.conversion.suspects import SUSPICIONS
    from wtool.conversion.units import is_torch

    if is_torch(source) == is_torch(template):
        return None
    a, b = (source, template) if is_torch(source) else (template, source)
    proposal = propose(a, b, values=False, a_is_source=a is source)
    against = {name: why for name, why in proposal.undecided.items() if why not in SUSPICIONS}
    if against and proposal.pairing.is_complete:
        shown = "; ".join(f"'{name}' {why}" for name, why in against.items())
        return f"the layers are matched to the target, and not all layouts are known: {shown}"
    if any(row["grade"] != "certain" for row in rows(proposal)):
        return None
    return parse_mapping(draft(proposal, "matched to the target"), constants=constants)


def _preset(
    source: Checkpoint, framework: str, template: Checkpoint | None, constants: Dict[str, Any]
) -> Mapping | None:
    """The one preset that covers the source, and the template where there is one."""
    from wtool.conversion.engine import choose_side, plan_layouts
    from wtool.conversion.layer_options import refuse_unused
    from wtool.conversion.presets import is_mostly_met, load_preset, presets_for

    fitting = []
    for preset in presets_for(source, framework):
        if template is None and not is_mostly_met(preset, source):
            continue
        mapping = load_preset(preset.name, constants)
        side = choose_side(source, mapping, framework)
        if not plan_layouts(source, mapping, to=side, template=template).open:
            fitting.append(mapping)
    if len(fitting) > 1:
        names = ", ".join(mapping.name for mapping in fitting)
        raise UsageError(f"several presets cover the model: {names}", hint="choose with --map")
    ruled = None if fitting else _by_rules(source, framework, template)
    if ruled is not None:
        refuse_unused(constants, (), ())
    return fitting[0] if fitting else ruled


def _by_rules(
    source: Checkpoint, framework: str | None, template: Checkpoint | None
) -> Mapping | None:
    """What Hugging Face's rules of names give, on the way from or to a file of its TensorFlow."""
    from wtool.conversion.huggingface_names import is_huggingface
    from wtool.conversion.presets import by_rules

    if framework in ("torch", None) and is_huggingface(source):
        return by_rules(template, source)
    if framework in ("keras", None) and template is not None:
        return by_rules(source, template)
    return None


def framework_options() -> list[click.Parameter]:
    """The options of a conversion between frameworks."""
    return [
        click.Option(
            ["--to"],
            type=click.Choice(FRAMEWORKS),
            help="Convert names and layouts to a framework.",
        ),
        click.Option(
            ["--map"],
            metavar="FILE|PRESET",
            type=PATH,
            help="Which tensor becomes which (default: the preset that covers all, else the same "
            "module paths).",
        ),
        click.Option(
            ["--like"],
            metavar="PATH",
            type=PATH,
            help="A file of the target model: names, shapes and types must be its own.",
        ),
        click.Option(
            ["--set"],
            multiple=True,
            metavar="NAME=VALUE",
            help="A fact that no weight file says: heads=8, chw=512,7,7.",
        ),
        click.Option(
            ["--assume"],
            multiple=True,
            metavar="PATTERN=KIND",
            help="State the kind of layers that nothing else decides, as in 'fc*=linear'.",
        ),
        click.Option(
            ["--sidecar"],
            metavar="PATH",
            type=PATH,
            help="Keep what the target cannot hold, or restore it on the way back.",
        ),
        click.Option(
            ["--explain"],
            is_flag=True,
            help="Print source, operations, target and evidence of each tensor; write nothing.",
        ),
    ]
