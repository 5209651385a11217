"""What no file says about a layer, so that the word of the mapping file is all there is.

Two kinds of layers may share names and shapes and differ in layout: a square matrix fits transposed
too, a kernel (N, 1, 3, 3) may be depthwise. Where the files decide, `contradictions` has checked
them; where they do not, `--explain` and the notes say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wtool.conversion.books import Books, Instance
from wtool.conversion.contradictions import stated_kind, tensors_of
from wtool.conversion.layer_blocks import COLUMNS
from wtool.conversion.layer_rules import NORMS
from wtool.conversion.norm_options import UNNAMED
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

Members = dict[str, "Tensor"]
_MATRICES = ("linear", "conv1d_linear")
# A leaf that only one kind of layer has.
_TELLING = ("embeddings", "depthwise_kernel", "pointwise_kernel")


def find_doubt(books: Books, instance: Instance) -> tuple[str, str] | None:
    """(part, why its layout is the mapping's word alone); None where a file settles it.

    Presets are proven by outputs, and layers of the same paths have evidence of their own.
    """
    block = instance.block
    if block.evidence != "mapping" or books.mapping.path.startswith("preset "):
        return None
    if len({COLUMNS[side.framework] for side in books.mapping.sides.values()}) == 1:
        return None
    torch = dict(tensors_of(books, instance, torch=True))
    keras = dict(tensors_of(books, instance, torch=False))
    if block.kind == "rule":
        return _rule(instance)
    find = _FINDERS.get(block.kind)
    why = None if find is None else find(books, instance, torch, keras)
    if why is None:
        return None
    return ("bias" if "forget_bias" in why else _first_part(instance)), why


def _first_part(instance: Instance) -> str:
    return instance.block.parts[0].name


def _matrix(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    shape = _left_shape(instance)
    if len(shape) != 2:
        return None
    if shape[0] == shape[1]:
        return "a square matrix, which fits transposed too"
    if "bias" not in torch and "bias" not in keras and not (torch and keras):
        return "without a bias or the target's file nothing shows which axis is which"
    if _is_stated(books, keras):
        return None
    width = shape[1] if instance.block.kind == "linear" else shape[0]
    if books.flat_widths is None or width in books.flat_widths:
        return None
    return "its inputs may be flattened pictures, whose order no file says"


def _flattened(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    return None if _is_stated(books, keras) else "the order of chw is in no file"


def _is_stated(books: Books, keras: Members) -> bool:
    """Whether the configuration of Keras's file states the order of a Dense's inputs and outputs;
    that it is the mapping's has been checked.
    """
    kernel = keras.get("weight")
    if kernel is None or len(kernel.shape) != 2:
        return False
    path = split_leaf(kernel.name)[0]
    facts = books.keras_facts
    return isinstance(facts.flattened(path, kernel.shape[0]), tuple) and isinstance(
        facts.unflattened(path, kernel.shape[1]), tuple
    )


def _kernel(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    if _is_told(books, instance, keras):
        return None
    shape = _left_shape(instance)
    if len(shape) < 3:
        return None
    kind = instance.block.kind
    if kind == "depthwise" or shape[1] == 1:
        return "it may be depthwise, of one channel, or transposed in groups"
    if shape[0] == shape[1] or not ("bias" in torch or "bias" in keras):
        return "its shape may be a convolution, a transposed one, or one in groups"
    return None


def _norm(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    alone = any(split_leaf(tensor.name)[1] == UNNAMED for tensor in keras.values())
    if alone:
        return "whether its one vector is scale or shift is in no file"
    shape = _left_shape(instance)
    turned = len(shape) > 1 and len(set(shape)) == 1
    return "its axes are of one length, and fit in another order too" if turned else None


def _gru(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    stated = (books.keras_facts.resets_after(split_leaf(t.name)[0]) for t in keras.values())
    if "bias" in instance.left or any(stated):
        return None
    return "without a bias nothing shows whether the cell resets before or after the product"


def _lstm(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    if all(side.framework != "tf1" for side in books.mapping.sides.values()):
        return None
    return "forget_bias is in no file"


def _attention(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    return None if keras else "heads is in no file"


def _table(books: Books, instance: Instance, torch: Members, keras: Members) -> str | None:
    return None if keras else "without a bias it may be a Linear"


def _rule(instance: Instance) -> tuple[str, str] | None:
    """A rule whose tensor has two axes of one length."""
    for part, found in instance.found.items():
        for tensor in found.values():
            axes = [size for size in tensor.shape if size > 1]
            if len(axes) != len(set(axes)):
                return part, "two of its axes are of one length, and fit in another order too"
    return None


_FINDERS: dict[str, Callable[[Books, Instance, Members, Members], str | None]] = {
    **dict.fromkeys(_MATRICES, _matrix),
    "linear_flatten": _flattened,
    "linear_unflatten": _flattened,
    **dict.fromkeys(("conv", "conv_transpose", "depthwise", "separable"), _kernel),
    "gru": _gru,
    **dict.fromkeys(NORMS, _norm),
    "lstm": _lstm,
    **dict.fromkeys(("mha", "mha_separate"), _attention),
    "embedding": _table,
}


def _left_shape(instance: Instance) -> tuple[int, ...]:
    """Of the weight, in PyTorch's layout."""
    extents = instance.left.get("weight", ())
    return extents[-1].shape if extents else ()


def _is_told(books: Books, instance: Instance, keras: Members) -> bool:
    """Whether Keras's side states the class, or has a name that one class has."""
    leaves = {split_leaf(tensor.name)[1] for tensor in keras.values()}
    return stated_kind(books, instance) is not None or any(leaf in leaves for leaf in _TELLING)
