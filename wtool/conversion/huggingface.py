"""Hugging Face's PyTorch and TensorFlow classes: their mapping, written by the rules of names.

The way from PyTorch needs a file of the TensorFlow model: no PyTorch name says where its marks
`_._` and `___` stand. Layouts follow from the leaf and its rank, by the table of layers; a `weight`
lies as in PyTorch. What is shared or left out is stated here, and every name of both sides must be
met.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from wtool.checkpoint import BESIDE_MODEL
from wtool.conversion.huggingface_names import (
    Named,
    has_plain_head,
    is_bare,
    is_doubtful,
    is_huggingface,
    name_tensors,
    reason_unread,
    scope_of,
    with_old_norms,
    without_base,
)
from wtool.conversion.toml_text import escape, quote, table
from wtool.conversion.units import stored_leaves
from wtool.errors import UnsupportedError
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

NAME = "hf-tf"
EVIDENCE = "Hugging Face's naming rules"
NOTES = (
    "number of attention heads, dropout, epsilons and the gelu variant are in config.json, not in "
    "the weights: both sides need the same file",
)
_WORDS = "*.embeddings.word_embeddings.weight"
# Heads whose matrix or bias is another tensor: (name, a name that shows the head, whose values it
# has, what a name begins with where it is not so). "*": the one tensor whose name ends so.
TIES = (
    ("cls.predictions.decoder.weight", "cls.predictions.bias", _WORDS, ""),
    ("cls.predictions.decoder.bias", "cls.predictions.bias", "cls.predictions.bias", "lxmert."),
    ("lm_head.decoder.weight", "lm_head.dense.weight", _WORDS, ""),
    ("lm_head.decoder.bias", "lm_head.dense.weight", "lm_head.bias", "esm."),
    ("lm_head.weight", "lm_head.bias", _WORDS, "lm_head.dense."),
    ("lm_head.weight", "lm_head.bias", "transformer.w.weight", ""),
    ("predictions.decoder.weight", "predictions.bias", _WORDS, ""),
    ("predictions.decoder.bias", "predictions.bias", "predictions.bias", ""),
    ("generator_lm_head.weight", "generator_lm_head.bias", _WORDS, ""),
    ("vocab_projector.weight", "vocab_projector.bias", _WORDS, ""),
    ("pred_layer.proj.weight", "pred_layer.proj.bias", "*.embeddings.weight", ""),
    ("lm_loss.weight", "lm_loss.bias", "*.word_embedding.weight", ""),
)
# Tables of an encoder and a decoder that are one: what each begins with, and the shared one.
SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
# RemBERT's head has a matrix and a bias of its own, and shares nothing.
OWN_HEAD = {
    "rembert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
}
# Buffers of PyTorch that TensorFlow's classes compute.
CONSTANTS = (
    (r"(.+\.)?position_ids", "a constant that older versions of transformers saved"),
    (r"(.+\.)?attn\.(bias|masked_bias)", "a mask that older versions of transformers saved"),
)
# The counter of a batch normalisation: its layer's rule knows it.
_COUNTER = "num_batches_tracked"
Block = list[str]


def rules_text(a: Checkpoint | None, b: Checkpoint) -> str | None:
    """The mapping file of a PyTorch checkpoint `a` and a TensorFlow one `b`, by the rules of names.

    None where `b` is not Hugging Face's, or a tensor of either side has no counterpart. Without `a`
    the names of PyTorch follow from `b`; UnsupportedError where they would be a guess.
    """
    if not is_huggingface(b):
        return None
    present = None if a is None else {t.name: t for t in a if t.role not in BESIDE_MODEL}
    named = _names_alone(b) if present is None else _names_met(b, present)
    met = {one.tensor.name for one in named}
    unread = [one for one in name_tensors(b) if one.tensor.name not in met]
    owners: dict[str, Named] = {}
    for one in named:
        owners.setdefault(one.torch_name, one)
    twins = {} if a is None else _twins(a, owners)
    apart = {name: one for name, one in owners.items() if name not in twins}
    rest = _shared_heads(b, owners) if a is None else _rest(a, apart)
    if not named or rest is None:
        return None
    blocks = [
        *_layers(list(apart.values()), present or {}),
        *_repeated(named, {**owners, **{name: owners[one] for name, one in twins.items()}}),
        *rest,
        *_unread(unread, scope_of(b)),
    ]
    return "\n".join([*_header(), *(line for block in blocks for line in ("", *block))]) + "\n"


def _header() -> Block:
    return [
        "# Written by the rules that transformers' own loader follows (4.57).",
        "[mapping]",
        f"name = {quote(NAME)}",
        "schema = 1",
        f"about = {quote('a PyTorch class of Hugging Face <-> its TensorFlow class')}",
        'a = { framework = "torch", sep = "." }',
        'b = { framework = "tf_keras", sep = "/" }',
        f"notes = [{', '.join(map(quote, NOTES))}]",
    ]


def _names_met(b: Checkpoint, present: Mapping[str, Tensor]) -> list[Named]:
    """The names under which all of `b` is in a state dict; none where it is not."""
    named = list(name_tensors(b))
    for form in (named, without_base(named), _read_by_head(b, named)):
        for spelled in (form, with_old_norms(form)):
            if all(one.torch_name in present for one in spelled):
                return spelled
    return []


def _names_alone(b: Checkpoint) -> list[Named]:
    """The names that the PyTorch class of `b` gives, as far as `b` tells them."""
    named = list(name_tensors(b))
    scope = scope_of(b)
    for one in named:
        if is_doubtful(one):
            raise UnsupportedError(
                "its name and shape in PyTorch do not follow from TensorFlow's",
                path=b.path,
                tensor=one.tensor.name,
                hint="a mapping file of yours decides: --map",
            )
    if is_bare(scope):
        return without_base(named)
    names = {one.torch_name for one in named}
    if has_plain_head(scope) or names >= OWN_HEAD or any(m in names for _, m, _, _ in TIES):
        return _read_by_head(b, named)
    raise _hidden_head(b)


def _read_by_head(b: Checkpoint, named: Sequence[Named]) -> list[Named]:
    """Those of `named` that the PyTorch class with that head has."""
    scope = scope_of(b)
    return [one for one in named if reason_unread(one, scope) is None]


def _unread(named: Sequence[Named], scope: str) -> Iterator[Block]:
    """Blocks for what only TensorFlow has: left out, and on the way back as the template has it."""
    for one in named:
        name = escape(one.tensor.name)
        reason = reason_unread(one, scope) or ""
        yield table("ignore", side="b", name=name, reason=reason)


def _hidden_head(b: Checkpoint) -> UnsupportedError:
    return UnsupportedError(
        "its PyTorch class may have a head that shares all it has, which only PyTorch names",
        path=b.path,
        hint="--like a file of the PyTorch model decides",
    )


def _layers(named: Sequence[Named], present: Mapping[str, Tensor]) -> Iterator[Block]:
    """A block for each layer, and a rule for each variable that is of none."""
    modules: dict[tuple[str, str], dict[str, Named]] = {}
    for one in named:
        path = split_leaf(one.tensor.name)[0]
        modules.setdefault((path, one.module), {})[one.leaf] = one
    for (path, module), members in modules.items():
        tensors = {leaf: one.tensor for leaf, one in members.items()}
        kind, leaves, options = _kind(tensors)
        if kind and module:
            names = {"a": escape(module), "b": escape(path)}
            renamed = stored_leaves(path, {n: t for n, t in tensors.items() if n in leaves})
            options |= {"b_names": renamed} if renamed else {}
            yield table("layer", kind=kind, **names, **options, evidence=EVIDENCE)
        else:
            leaves = ()
        for leaf in (leaf for leaf in members if leaf not in leaves):
            yield _rule(members, leaf, present)


def _kind(members: Mapping[str, Tensor]) -> tuple[str, tuple[str, ...], dict[str, object]]:
    """(kind by the table of layers, the leaves it takes, its options); "" for none."""
    if "moving_mean" in members and "moving_variance" in members:
        absent = {"scale": "gamma", "center": "beta"}
        options: dict[str, object] = {o: False for o, leaf in absent.items() if leaf not in members}
        return "batchnorm", ("gamma", "beta", "moving_mean", "moving_variance"), options
    if "gamma" in members and "beta" in members:
        return "layernorm", ("gamma", "beta"), {}
    if "embeddings" in members:
        return "embedding", ("embeddings",), {}
    rank = len(members["kernel"].shape) if "kernel" in members else 0
    if rank == 2:
        return "linear", ("kernel", "bias"), {}
    if 3 <= rank <= 5:
        *_, first, last = members["kernel"].shape
        bias = members["bias"].shape if "bias" in members else (last,)
        kind = "conv_transpose" if bias == (first,) != (last,) else "conv"
        return kind, ("kernel", "bias"), {}
    return "", (), {}


def _rule(members: Mapping[str, Named], leaf: str, present: Mapping[str, Tensor]) -> Block:
    """The rule of one variable that is no part of a layer."""
    one = members[leaf]
    shape = one.tensor.shape
    known = present.get(one.torch_name)
    rank = None if known is None else len(known.shape)
    operations: tuple[str, ...] = ()
    if leaf == "weight_g":
        operations = ("permute 2 1 0",)
    elif leaf in ("kernel", "pointwise_kernel"):
        operations = ("transpose",) if len(shape) == 2 else ("permute ... 1 0",)
    elif leaf == "depthwise_kernel":
        multiplier = f"unflatten 0 -1 {shape[-1]}"
        operations = ("flatten 0 1 of -1 1", multiplier, "permute ... 0 1")
    elif leaf == "bias" and len(shape) == 2 and shape[0] == 1 and rank in (None, 1):
        # GPT-2's Conv1D keeps its bias as a row.
        operations = ("reshape -1 to 1 -1",)
    elif leaf == "bias" and "pointwise_kernel" in members and rank in (None, 2):
        # ConvBERT's separable convolution keeps its bias as a column, in PyTorch.
        operations = ("reshape -1 1 to -1",)
    options = {"op": f"[{', '.join(map(quote, operations))}]"} if operations else {}
    names = {"a": escape(one.torch_name), "b": escape(one.tensor.name)}
    return table("rule", **names, **options, evidence=EVIDENCE)


def _twins(a: Checkpoint, owners: Mapping[str, Named]) -> dict[str, str]:
    """Names that PyTorch gives one tensor, and TensorFlow two of the same shape: name -> owner."""
    return {
        name: owner
        for name, owner in a.aliases.items()
        if name in owners
        and owner in owners
        and owners[name].tensor.shape == owners[owner].tensor.shape
    }


def _repeated(named: Iterable[Named], owners: Mapping[str, Named]) -> Iterator[Block]:
    """Variables that TensorFlow's file holds again, under the group of a head."""
    for one in named:
        owner = owners[one.torch_name]
        if owner is not one:
            yield _tied("b", one.tensor.name, owner.tensor.name)


def _rest(a: Checkpoint, owners: Mapping[str, Named]) -> list[Block] | None:
    """What PyTorch has beyond TensorFlow: shared, or constant; None where it is neither."""
    aliases = a.aliases
    blocks: list[Block] = []
    for tensor in a:
        name = tensor.name
        if tensor.role in BESIDE_MODEL or name in owners or split_leaf(name)[1] == _COUNTER:
            continue
        reason = next((why for text, why in CONSTANTS if re.fullmatch(text, name)), None)
        owner = aliases.get(name) or _owner(name, {t.name for t in a})
        if owner not in owners:
            # Of the names of one tensor, any may be the one that TensorFlow has.
            first = aliases.get(name, name)
            owner = next((n for n, f in aliases.items() if f == first and n in owners), None)
        if owner is not None:
            blocks.append(_tied("a", name, owner))
        elif reason is not None:
            blocks.append(table("ignore", side="a", name=escape(name), reason=reason))
        else:
            return None
    return blocks


def _shared_heads(b: Checkpoint, owners: Mapping[str, Named]) -> list[Block]:
    """What PyTorch shares, where only TensorFlow's names are known."""
    tables, shared = SHARED
    found = {
        prefix + name: prefix + shared
        for prefix in ("", "model.")
        for name in tables
        if prefix + shared in owners
        and prefix + name not in owners
        # A decoder's table only where there is a decoder.
        and any(owner.startswith(prefix + name.partition(".")[0] + ".") for owner in owners)
    }
    for name, mark, _, _ in TIES:
        if mark in owners and name not in owners and name not in found:
            owner = _owner(name, owners)
            if owner is not None:
                found[name] = owner
    for mark in {mark for _, mark, _, _ in TIES if mark in owners}:
        heads = [name for name, other, _, _ in TIES if other == mark]
        if not any(name in owners or name in found for name in heads) and (
            mark != "lm_head.bias" or "lm_head.dense.weight" not in owners
        ):
            raise _hidden_head(b)
    return [_tied("a", name, owner) for name, owner in found.items()]


def _owner(name: str, names: Iterable[str]) -> str | None:
    """The tensor whose values a head of that name has, by TIES."""
    names = set(names)
    for head, mark, whose, unless in TIES:
        if head != name or mark not in names:
            continue
        if unless and any(other.startswith(unless) for other in names):
            continue
        ending = whose.removeprefix("*")
        found = [n for n in names if n == whose or (whose[0] == "*" and n.endswith(ending))]
        if len(found) == 1:
            return found[0]
    return None


def _tied(side: str, name: str, owner: str) -> Block:
    return table("tied", side=side, name=escape(name), same_as=escape(owner))
