"""What `wtool map` found, row by row and as a mapping file that a person can finish.

Certain matches are rules; ordered ones are rules only where the user accepted the order; what is
ambiguous is written as a comment with all its candidates, never chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wtool.conversion.dense_axes import OPEN, stored_in_out
from wtool.conversion.file_order import in_model_order, in_stored_order
from wtool.conversion.inference import Match, Pairing, pair_units
from wtool.conversion.keras_facts import facts_of, ordered_kind
from wtool.conversion.layer_rules import CELLS, NORMS, TORCH_KERAS
from wtool.conversion.norm_options import norm_options
from wtool.conversion.suspects import (
    AFTER,
    AXES,
    BEFORE,
    CELL,
    EITHER,
    after_flatten,
    before_pictures,
    has_turned_axes,
)
from wtool.conversion.ties import second_names
from wtool.conversion.toml_text import escape, quote, table, value_text
from wtool.conversion.units import LEAVES, Unit, cut, stored_leaves
from wtool.conversion.value_pairs import Options, find_same_values, options_of
from wtool.errors import counted

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint


@dataclass(frozen=True)
class Proposal:
    """A pairing, and for each match the kind and options of its layer rule.

    a, b: the PyTorch checkpoint and the Keras or TensorFlow one. layouts: label of unit a -> kind,
    options. undecided: label of a unit a with a certain counterpart and no certain layout -> why.
    stated: label of a unit a -> what the configuration says of its layout.
    """

    a: Checkpoint
    b: Checkpoint
    pairing: Pairing
    layouts: Mapping[str, tuple[str, Options]]
    undecided: Mapping[str, str]
    stated: Mapping[str, str]
    accept_ordered: bool = False

    def grade(self, match: Match) -> str:
        """Of the match and its layout together."""
        return "ambiguous" if match.a.label in self.undecided else match.grade


def propose(
    a: Checkpoint,
    b: Checkpoint,
    *,
    values: bool = True,
    accept_ordered: bool = False,
    a_is_source: bool = True,
) -> Proposal:
    """Pair all units of a PyTorch checkpoint `a` and a Keras or TensorFlow checkpoint `b`.

    values: read and compare values too. accept_ordered: write matches by order as rules.
    a_is_source: the values of `a` are those that are to be converted, not fresh ones.
    """
    units_a, units_b = cut(a), cut(b)
    same = find_same_values(units_a, units_b) if values else []
    pairing = pair_units(
        units_a,
        units_b,
        same_values=[(pair.a, pair.b) for pair in same],
        ordered=in_stored_order(a) and in_stored_order(b),
    )
    layouts: dict[str, tuple[str, Options]] = {pair.a: (pair.kind, pair.options) for pair in same}
    axes = stored_in_out(units_a)
    is_ordered = in_model_order(a)
    behind = after_flatten(units_a, ordered=is_ordered)
    before = before_pictures(units_a, ordered=is_ordered)
    facts = facts_of(b)
    undecided: dict[str, str] = {}
    evidence: dict[str, str] = {}
    for match in pairing.matches:
        if match.a.label not in layouts:
            # TensorFlow 1 has tables without a leaf of their own: they lie as PyTorch's do.
            kind = "raw" if match.a.is_tensor or match.b.is_tensor else match.kind
            bias = match.b.members["bias"].shape if "bias" in match.b.members else ()
            stated = ordered_kind(facts, match.b.path, kind, _telling_shape(match.b), bias)
            options = {**options_of(match.a, match.b, kind), **stated.options}
            if stated.kind in NORMS and "scale" not in match.b.members:
                kind, norm = _norm(match, stated.kind, a_is_source=a_is_source)
                stated = replace(stated, kind=kind)
                if isinstance(norm, str):
                    undecided[match.a.label] = norm
                else:
                    options |= norm
            layouts[match.a.label] = (stated.kind, options)
            evidence[match.a.label] = stated.evidence
            why = stated.problem
            if kind == "linear" and not why and (axes.get(match.a.label, False) is None):
                why = OPEN
            if stated.kind == "linear" and axes.get(match.a.label):
                layouts[match.a.label] = ("conv1d_linear", options)
            if kind == "linear" and not why:
                after = match.a.label in behind and not stated.inputs
                ahead = match.a.label in before and not stated.outputs
                why = EITHER if after and ahead else AFTER if after else BEFORE if ahead else ""
            if kind in CELLS and not why:
                width = match.b.members["kernel"].shape[0]
                order = facts.cell_inputs(match.b.path, width)
                suspect = order is None or (match.a.label in behind and order != ())
                why = CELL if suspect else ""
            if kind in NORMS and not why:
                turned = has_turned_axes(_telling_shape(match.b), units_b, is_given=True)
                why = AXES if turned else ""
            if why:
                undecided[match.a.label] = why
    return Proposal(a, b, pairing, layouts, undecided, evidence, accept_ordered)


def rows(proposal: Proposal) -> list[dict[str, Any]]:
    """One row per pair of tensors, then those that stay open."""
    found = []
    for match in proposal.pairing.matches:
        kind, options = proposal.layouts[match.a.label]
        why = proposal.undecided.get(match.a.label, "")
        for sources, targets in _tensor_names(match, kind, options):
            # Behind a Flatten the bias is sure.
            doubt = why and (why != AFTER or any(n.endswith("weight") for n in sources))
            found.append(
                {
                    "a": ", ".join(sources) or None,
                    "b": ", ".join(targets) or None,
                    "kind": kind,
                    "grade": "ambiguous" if doubt else match.grade,
                    "evidence": why if doubt else _evidence(proposal, match),
                }
            )
    for ones, others in proposal.pairing.groups:
        reason = _open_reason(ones, others)
        for unit in ones:
            found += [_open_row("a", t.name, reason) for t in unit.members.values()]
        for unit in others:
            found += [_open_row("b", t.name, reason) for t in unit.members.values()]
    return found


def _open_row(side: str, name: str, reason: str) -> dict[str, Any]:
    return {side: name, "grade": "ambiguous", "evidence": reason}


def _open_reason(ones: Sequence[Unit], others: Sequence[Unit]) -> str:
    if ones and others:
        return f"any of {counted(len(others), 'layer')} of its kind and shape, among {len(ones)}"
    return "no counterpart of its kind and shape"


def _tensor_names(
    match: Match, kind: str, options: Options
) -> Iterable[tuple[list[str], list[str]]]:
    """The tensors of side a and of side b that belong together, part by part."""
    if kind == "raw" or kind not in TORCH_KERAS:
        yield [t.name for t in match.a.members.values()], [t.name for t in match.b.members.values()]
        return
    for row in TORCH_KERAS[kind].rows:
        suffix = str(options.get("suffix", match.a.cell or "_l0"))
        renamed: Any = options.get("b_names", {})
        left = [match.a.members.get(leaf.replace("{suffix}", suffix)) for leaf in row.left]
        leaves = [renamed.get(leaf, leaf) for leaf in row.right]
        if not set(leaves) & set(match.b.members):
            leaves = list(row.legacy)
        right = [match.b.members.get(leaf) for leaf in leaves]
        names = [t.name for t in left if t], [t.name for t in right if t]
        if names[0] or names[1]:
            yield names


def draft(proposal: Proposal, name: str) -> str:
    """The mapping file: TOML text that ends with a newline."""
    matches = proposal.pairing.matches
    accepted = sum(m.grade == "ordered" for m in matches) if proposal.accept_ordered else 0
    layers = counted(accepted, "layer was", "layers were")
    notes = [f"{layers} matched by their order alone, as --accept-ordered allows"]
    lines = [
        "# Written by wtool map. Blocks that start with '#' count only once the '#' is removed.",
        "[mapping]",
        f"name = {quote(name)}",
        "schema = 1",
        'a = { framework = "torch", sep = "." }',
        f'b = {{ framework = "{_framework(proposal.b)}", sep = "/" }}',
    ]
    if accepted:
        lines.append(f"notes = [{quote(notes[0])}]")
    for match in matches:
        lines += ["", *_block(proposal, match)]
    for second, first in second_names(proposal.a, proposal.b).items():
        lines += ["", "# certain: one tensor under two names"]
        lines += table("tied", side="a", name=escape(second), same_as=escape(first))
    for ones, others in proposal.pairing.groups:
        lines += ["", *_group(ones, others)]
    return "\n".join(lines) + "\n"


def _framework(checkpoint: Checkpoint) -> str:
    """What the names of side b are: Keras 2 calls a depthwise kernel otherwise than Keras 3."""
    if any(t.name.endswith("/depthwise_kernel") for t in checkpoint):
        separable = {t.layer for t in checkpoint if t.name.endswith("/pointwise_kernel")}
        if any(
            t.name.endswith("/depthwise_kernel") and t.layer not in separable for t in checkpoint
        ):
            return "tf_keras"
    return "keras"


def _block(proposal: Proposal, match: Match) -> list[str]:
    """The lines of one match."""
    kind, options = proposal.layouts[match.a.label]
    grade = proposal.grade(match)
    written = grade == "certain" or (grade == "ordered" and proposal.accept_ordered)
    why = proposal.undecided.get(match.a.label)
    evidence = why or _evidence(proposal, match)
    lines = [f"# {grade}: {evidence}"]
    if kind == "raw":
        body = [
            "[[rule]]",
            f"a = {quote(escape(_single(match.a)))}",
            f"b = {quote(escape(_single(match.b)))}",
            f"evidence = {quote(evidence)}",
        ]
    else:
        if why and kind == "linear":
            options = {"chw": "[C, H, W]"}
            kind = "linear_unflatten" if why == BEFORE else "linear_flatten"
            if why == OPEN:
                kind, options = "conv1d_linear", {}
                lines.append('# conv1d_linear where it is stored (in, out), else "linear"')
            elif why != BEFORE:
                lines.append(
                    '# linear_flatten where it follows a Flatten of (C, H, W), else "linear"'
                )
            if why in (BEFORE, EITHER):
                lines.append("# linear_unflatten where it comes before a Reshape to (C, H, W)")
        renamed: dict[str, object] = {**stored_leaves(match.b.path, match.b.members)}
        renamed |= options.get("b_names", {})  # type: ignore[call-overload]
        if why == CELL:
            lines.append("# without chw where its inputs are no flattened (C, H, W), or (C, H)")
            options = {**options, "chw": "[C, H, W]"}
        body = [
            "[[layer]]",
            f'kind = "{kind}"',
            f"a = {quote(escape(match.a.path))}",
            f"b = {quote(escape(match.b.path))}",
            *(f"{key} = {value_text(v)}" for key, v in options.items() if key != "b_names"),
            *([f"b_names = {value_text(renamed)}"] if renamed else []),
            *_one_sided(match, kind),
            *([] if grade == "ambiguous" else [f"evidence = {quote(evidence)}"]),
        ]
    return lines + [line if written else f"# {line}" for line in body]


def _norm(match: Match, kind: str, *, a_is_source: bool) -> tuple[str, Options | str]:
    """(kind, which of scale and shift each side has, or why that is open) of a norm."""
    options = norm_options(match.a.members, match.b.members, torch_is_trained=a_is_source)
    return "layernorm" if kind == "rmsnorm" else kind, options


def _evidence(proposal: Proposal, match: Match) -> str:
    """Why the two are the same, and what states the layout of the layer."""
    stated = proposal.stated.get(match.a.label, "")
    return f"{match.evidence}; {stated}" if stated else match.evidence


def _telling_shape(unit: Unit) -> tuple[int, ...]:
    """Of a kernel, or of one of a norm's vectors; () for neither."""
    leaves = ("kernel", "gamma", "beta", "scale", "moving_mean")
    return next((unit.members[leaf].shape for leaf in leaves if leaf in unit.members), ())


def _single(unit: Unit) -> str:
    """The name of the one tensor of a unit."""
    (tensor,) = unit.members.values()
    return tensor.name


def _one_sided(match: Match, kind: str) -> list[str]:
    """A bias that one side has alone is made of zeros, and dropped the other way if it is zero."""
    if kind in ("lstm", "rnn"):
        return ['lossy = "sum-of-biases"'] if "bias" in match.b.members else []
    if kind not in LEAVES and "linear" not in kind:
        return []
    has_a, has_b = "bias" in match.a.members, bool({"bias", "beta"} & set(match.b.members))
    if has_a == has_b or kind in NORMS:
        return []
    return [f'bias = {{ only = "{"a" if has_a else "b"}", fill = 0.0 }}']


def _group(ones: Sequence[Unit], others: Sequence[Unit]) -> list[str]:
    lines = [f"# ambiguous: {_open_reason(ones, others)}"]
    lines += [f"#   a: {unit.label} {_shapes(unit)}" for unit in ones]
    lines += [f"#   b: {unit.label} {_shapes(unit)}" for unit in others]
    kinds = {k for u in (*ones, *others) for k, _ in u.traits if k in TORCH_KERAS}
    kind = min(kinds) if kinds else ""
    if ones and others and kind:
        lines += ["# [[layer]]", f'# kind = "{kind}"', f"# a = {quote(escape(ones[0].path))}"]
        lines.append('# b = ""')
    elif ones or others:
        side, units = ("a", ones) if ones else ("b", others)
        for tensor in (t for unit in units for t in unit.members.values()):
            ignore = table("ignore", side=side, name=escape(tensor.name), reason="")
            lines += [f"# {line}" for line in ignore]
    return lines


def _shapes(unit: Unit) -> str:
    return " ".join(
        f"{leaf or 'values'} {'x'.join(map(str, t.shape)) or 'scalar'}"
        for leaf, t in unit.members.items()
    )
