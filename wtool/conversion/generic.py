"""The mapping of two models with the same module paths: layer rules only, no names to learn.

`features.0.weight` <-> `features/0/kernel`. What kind each layer is, is decided in module_kinds.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from wtool.checkpoint import Checkpoint
from wtool.conversion.layer_blocks import expand_layer
from wtool.conversion.layer_options import refuse_unused
from wtool.conversion.module_kinds import Assumption, KindFinder, modules_of
from wtool.conversion.operation_text import Constant
from wtool.conversion.rules import Block, Mapping, Side, SideName, Tied
from wtool.conversion.templates import link
from wtool.conversion.ties import second_names
from wtool.conversion.toml_text import escape
from wtool.conversion.units import is_torch as looks_like_torch
from wtool.errors import MalformedInput, UnsupportedError, UsageError, counted, shorten
from wtool.layers.names import split_leaf

NAMED_AT_MOST = 8
# Names of variables that PyTorch's own layers never have.
_KERAS_LEAVES = frozenset(
    ("kernel", "depthwise_kernel", "recurrent_kernel", "embeddings", "gamma", "moving_mean")
)


def generic_mapping(
    source: Checkpoint,
    framework: str,
    *,
    template: Checkpoint | None = None,
    assume: Sequence[Assumption] = (),
    constants: Dict[str, Constant] | None = None,
) -> Mapping:
    """The mapping from `source` to the same modules in `framework`, "torch", "keras" or
    "tensorflow".

    Raises UnsupportedError that lists every layer whose kind nothing decides, with what would.
    """
    is_torch = not any(split_leaf(tensor.name)[1] in _KERAS_LEAVES for tensor in source)
    if is_torch == (framework == "torch"):
        raise UsageError(f"the source's names are those of {framework} already", path=source.path)
    other = "torch" if framework != "torch" else _keras_of(source)
    side_a = Side("torch", ".")
    side_b = Side(framework if framework != "torch" else other, "/")
    if template is not None and framework != "torch":
        side_b = Side(_keras_of(template), "/")
    if template is not None and looks_like_torch(template) == is_torch:
        names = "PyTorch" if is_torch else "Keras or TensorFlow"
        raise UsageError(
            f"the file of the target model has the names of {names}, as the source",
            path=template.path,
            hint=f"--like names a file that a {framework} model saved",
        )
    modules = modules_of(source)
    for assumption in assume:
        if not any(fnmatchcase(path, assumption.pattern) for path in modules):
            raise UsageError(
                f"no layer is called '{assumption.pattern}'",
                path=source.path,
                found=", ".join(shorten(path, 40) for path in list(modules)[:NAMED_AT_MOST]),
            )
    seconds: Dict[str, str] = {}
    if template is not None:
        both = (source, template) if is_torch else (template, source)
        seconds = second_names(*both)
    finder = KindFinder(source, template, assume, is_torch)
    blocks: list[Block] = []
    undecided: list[str] = []
    for path, members in modules.items():
        if all(tensor.name in seconds for tensor in members.values()):
            continue
        found = finder.find(path, members)
        if isinstance(found, str):
            undecided.append(f"'{shorten(path, 100)}' ({found})")
            continue
        paths: dict[SideName, Sequence[str]] = {
            "a": [escape(path.replace("/", "."))],
            "b": [escape(path.replace(".", "/"))],
        }
        try:
            block = expand_layer(
                found.kind,
                paths,
                {"a": side_a, "b": side_b},
                options=found.options,
                constants=constants or {},
                label=f"{found.kind} '{path}'",
                evidence=found.evidence,
            )
        except MalformedInput as error:
            undecided.append(f"'{shorten(path, 100)}' ({error})")
            continue
        blocks.append(block)
    if undecided:
        more = len(undecided) - NAMED_AT_MOST
        raise UnsupportedError(
            f"nothing decides {counted(len(undecided), 'layer')}: "
            + "; ".join(undecided[:NAMED_AT_MOST])
            + (f"; and {more} more" if more > 0 else ""),
            path=source.path,
            hint="give --like a file of the target model, --map, or --assume 'PATTERN=KIND'",
        )
    refuse_unused(constants or {}, (block.kind for block in blocks), ())
    ties = tuple(_tied(second, first) for second, first in seconds.items())
    return Mapping("same module paths", {"a": side_a, "b": side_b}, tuple(blocks), ties)


def _tied(second: str, first: str) -> Tied:
    names, separators = [escape(second), escape(first)], {"a": "."}
    (name,) = link({"a": names[:1]}, separators, names[1:])["a"]
    (same_as,) = link({"a": names[1:]}, separators, names[:1])["a"]
    return Tied(f"'{second}' is '{first}'", "a", name, same_as)


def _keras_of(checkpoint: Checkpoint) -> str:
    """Keras 2 where its leaf names are there, else Keras 3."""
    leaves = {split_leaf(tensor.name)[1] for tensor in checkpoint}
    separable = "pointwise_kernel" in leaves
    return "tf_keras" if "depthwise_kernel" in leaves and not separable else "keras"
