"""What the files themselves say against the kind that a layer is called.

A mapping file, a preset or a user states a layer's kind. Where the class of the other side's layer,
the number of gates, the length of a bias or a sibling says otherwise, the conversion stops: shapes
that fit prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.books import Books, Instance
from wtool.conversion.dense_axes import CONV1D_NAMES
from wtool.conversion.keras_facts import KerasFacts, against_torch_gru, same_order
from wtool.conversion.kernel_shapes import against_transpose
from wtool.conversion.layer_rules import NORMS
from wtool.dialects.keras_orders import Order
from wtool.errors import shorten
from wtool.layers.names import split_leaf

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_BY_GATES = {count: kind for kind, count in GATES.items()}
_CONVOLUTIONS = ("conv", "depthwise", "transposed_conv")
_DENSE = ("linear", "linear_flatten", "linear_unflatten")
_NO_MATRIX = frozenset((*_CONVOLUTIONS, "norm"))
_NO_VECTOR = frozenset((*_CONVOLUTIONS, "dense", "embedding", "attention", "recurrent"))
_KINDS = frozenset((*_CONVOLUTIONS, "dense", "embedding", "norm", "attention", "recurrent"))
# Kind of a layer -> what a file may not state it to be. A graph shows an unrolled cell, or a table
# that is read by a product with ones and zeros, as a dense layer: these are not held against it.
_AGAINST: dict[str, frozenset[str]] = {
    **dict.fromkeys((*_DENSE, "conv1d_linear"), _NO_MATRIX | {"embedding"}),
    "conv": _KINDS - {"conv"},
    "conv_transpose": _KINDS - {"transposed_conv"},
    "depthwise": _KINDS - {"depthwise"},
    "separable": _KINDS - {"conv", "depthwise"},
    **dict.fromkeys(("batchnorm", "layernorm", "groupnorm", "instancenorm", "rmsnorm"), _NO_VECTOR),
    "embedding": _NO_MATRIX,
    **dict.fromkeys(("rnn", "lstm", "gru"), _NO_MATRIX | {"embedding", "attention"}),
    **dict.fromkeys(("mha", "mha_separate"), _NO_MATRIX | {"embedding", "recurrent"}),
}
_CELL = re.compile(r"(?:.*_)?(lstm|gru|rnn)_cell(?:_\d+)?")


def find_contradiction(books: Books, instance: Instance) -> str | None:
    """Why the layer is not of the kind that its block says; None where nothing says otherwise."""
    kind = instance.block.kind
    return (
        _by_class(books, instance, kind)
        or _by_gates(books, instance, kind)
        or _by_cell_name(books, instance, kind)
        or _by_groups(books, instance, kind)
        or _by_siblings(books, instance, kind)
        or _by_reset(books, instance, kind)
        or _by_configuration(books, instance, kind)
    )


def tensors_of(books: Books, instance: Instance, *, torch: bool) -> Iterator[tuple[str, Tensor]]:
    """(part, tensor) of the layer in the files of one framework: the source's, the template's."""
    sides = books.mapping.sides
    if sides[books.origin].is_torch == torch:
        for name, found in instance.found.items():
            for tensor in found.values():
                yield name, tensor
    if sides[books.to].is_torch == torch:
        for part in instance.block.parts:
            for template in part.names.get(books.to, ()):
                slot = books.slots.get(template.render(instance.values))
                if slot is not None:
                    yield part.name, slot


def everywhere(books: Books, instance: Instance) -> Iterator[tuple[str, Tensor]]:
    """(part, tensor) of the layer in both files."""
    yield from tensors_of(books, instance, torch=True)
    yield from tensors_of(books, instance, torch=False)


def stated_kind(books: Books, instance: Instance) -> str | None:
    """What Keras's or TensorFlow's file states the layer to be, by its class or its graph."""
    for _, tensor in tensors_of(books, instance, torch=False):
        if tensor.kind in _KINDS and not tensor.kind_is_guess:
            return tensor.kind
    return None


def _by_class(books: Books, instance: Instance, kind: str) -> str | None:
    stated = stated_kind(books, instance)
    if stated is None or not (stated in _AGAINST.get(kind, ()) or _is_dense(books, instance, kind)):
        return None
    side = "target" if books.mapping.sides[books.origin].is_torch else "source"
    return f"is called {kind}, and the {side} states that it is {stated}"


def _is_dense(books: Books, instance: Instance, kind: str) -> bool:
    """Whether what is called a table has the class, and the name, of a dense layer's matrix."""
    return kind == "embedding" and any(
        tensor.kind == "dense" and split_leaf(tensor.name)[1] == "kernel"
        for _, tensor in tensors_of(books, instance, torch=False)
    )


def _by_gates(books: Books, instance: Instance, kind: str) -> str | None:
    """A cell's weights for its state are as many squares as it has gates."""
    if kind not in GATES:
        return None
    for part, tensor in everywhere(books, instance):
        leaf = split_leaf(tensor.name)[1]
        if part != "recurrent" and not leaf.startswith(("weight_hh", "recurrent_kernel")):
            continue
        if _projection(books, tensor.name):
            return "is an LSTM with proj_size, which Keras does not have"
        shape = tensor.shape
        if len(shape) != 2 or not min(shape):
            continue
        gates, rest = divmod(max(shape), min(shape))
        if rest or gates != GATES[kind]:
            found = "" if rest else f", {_BY_GATES[gates]}'s" if gates in _BY_GATES else ""
            shown = "no whole number" if rest else str(gates)
            return (
                f"is called {kind}, which has {GATES[kind]} gates; "
                f"'{shorten(tensor.name, 80)}' {list(shape)} has {shown}{found}"
            )
    return None


def _projection(books: Books, name: str) -> bool:
    """Whether a projection of the state lies beside weight_hh."""
    beside = name.replace("weight_hh", "weight_hr")
    return beside != name and (beside in books.source.tensors or beside in books.slots)


def _by_cell_name(books: Books, instance: Instance, kind: str) -> str | None:
    """TensorFlow's own names of cells; without a graph nothing else tells a joined kernel's."""
    if kind not in GATES:
        return None
    for _, tensor in tensors_of(books, instance, torch=False):
        for component in tensor.name.split("/")[:-1]:
            match = _CELL.fullmatch(component)
            if match and match[1] != kind:
                return (
                    f"is called {kind}, and '{shorten(tensor.name, 80)}' is named after {match[1]}"
                )
    return None


def _by_groups(books: Books, instance: Instance, kind: str) -> str | None:
    """Keras has no transposed convolution in groups; its weight is (I, O / groups, ...)."""
    torch = dict(tensors_of(books, instance, torch=True))
    keras = dict(tensors_of(books, instance, torch=False))
    if kind != "conv_transpose" or "weight" not in torch:
        return None
    bias = torch.get("bias") or keras.get("bias")
    kernel = keras.get("weight")
    if bias is None and kernel is None:
        return None
    found = against_transpose(
        torch["weight"].shape,
        None if bias is None else bias.count,
        None if kernel is None else kernel.shape,
    )
    return None if found is None else f"is {found}"


def _by_siblings(books: Books, instance: Instance, kind: str) -> str | None:
    """A square matrix among GPT-2's dense layers is stored as those of them that are not square."""
    torch = dict(tensors_of(books, instance, torch=True))
    weight = torch.get("weight")
    if kind not in ("linear", "conv1d_linear") or weight is None:
        return None
    square = len(weight.shape) == 2 and weight.shape[0] == weight.shape[1]
    if not square or not split_leaf(weight.name)[0].endswith(CONV1D_NAMES):
        return None
    is_torch = books.mapping.sides[books.origin].is_torch
    checkpoint = books.source if is_torch else books.template
    axis = 1 if kind == "linear" else 0
    sibling = None if checkpoint is None else _proof_of_axis(checkpoint, axis)
    if sibling is None:
        return None
    order = "(in, out)" if kind == "linear" else "(out, in)"
    return (
        f"is square and called {kind}, and its like '{shorten(sibling.name, 80)}' "
        f"{list(sibling.shape)} is stored {order}, by the length of its bias"
    )


def _by_reset(books: Books, instance: Instance, kind: str) -> str | None:
    """Where a GRU resets, by its bias or its configuration: PyTorch's and TensorFlow 1's differ."""
    keras = dict(tensors_of(books, instance, torch=False))
    frameworks = {side.framework for side in books.mapping.sides.values()}
    if kind != "gru" or not keras:
        return None
    path = split_leaf(next(iter(keras.values())).name)[0]
    bias = keras["bias"].shape if "bias" in keras else ()
    if "torch" in frameworks:
        return against_torch_gru(books.keras_facts, path, bias) or None
    if "tf1" in frameworks and books.keras_facts.resets_after(path):
        return (
            "resets after the matrix product (reset_after=True by the configuration), "
            "TensorFlow 1's GRU cell before it: no weights of one make the other"
        )
    return None


def _by_configuration(books: Books, instance: Instance, kind: str) -> str | None:
    """A configuration states the order of flattened pictures."""
    if len({side.is_torch for side in books.mapping.sides.values()}) == 1:
        return None
    for part, tensor in tensors_of(books, instance, torch=False):
        path = split_leaf(tensor.name)[0]
        if part != "weight" or kind not in (*_DENSE, *NORMS, "conv1d_linear"):
            continue
        for what, order, named in _orders(books.keras_facts, kind, path, tensor.shape):
            if isinstance(order, tuple) and not same_order(order, instance.block.chw, named):
                stated = f"pictures {list(order)}, flattened" if order else "no flattened pictures"
                given = f" with chw = {list(instance.block.chw)}" if instance.block.chw else ""
                return f"is called {kind}{given}, and its {what} are {stated}, by the configuration"
    return None


def _orders(
    facts: KerasFacts, kind: str, path: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, Order | str, bool]]:
    """(what, its order by the configuration, whether the kind says so) of a layer's vectors."""
    if kind in NORMS:
        yield "elements", facts.permuted(path, shape[-1] if shape else 1), True
    elif len(shape) == 2:
        yield "inputs", facts.flattened(path, shape[0]), kind == "linear_flatten"
        yield "outputs", facts.unflattened(path, shape[1]), kind == "linear_unflatten"


def _proof_of_axis(checkpoint: Checkpoint, axis: int) -> Tensor | None:
    """A dense layer of GPT-2's names whose bias is as long as that axis; None where they differ."""
    proof: Tensor | None = None
    for name, tensor in checkpoint.tensors.items():
        path, leaf = split_leaf(name)
        if leaf != "weight" or not path.endswith(CONV1D_NAMES) or len(tensor.shape) != 2:
            continue
        bias = checkpoint.tensors.get(name[: -len("weight")] + "bias")
        if bias is None or tensor.shape[0] == tensor.shape[1]:
            continue
        if bias.count != tensor.shape[axis]:
            return None
        proof = proof or tensor
    return proof
