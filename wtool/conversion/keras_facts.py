"""What a Keras file's configuration states of its layers that no shape does.

`.keras` files have one, and legacy `.h5` files of whole models. By it a Dense behind a Flatten is
told from another, and a GRU that resets before the product from one that resets after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.conversion.layer_rules import NORMS
from wtool.dialects.keras_classes import MAX_CONFIG_DEPTH, layers_of
from wtool.dialects.keras_orders import Order, Orders, orders_of
from wtool.encodings import strict_json
from wtool.errors import WtoolError

CONFIG = "model_config"
RESET = (
    "has no bias, and no file says if it resets before or after the matrix product: give the "
    ".keras file, or a mapping file that calls it gru where it is reset_after=True"
)


@dataclass(frozen=True)
class KerasFacts:
    """Paths are those of modules in the file's names, "backbone/dense"."""

    orders: Orders = field(default_factory=Orders)
    resets: Mapping[str, bool] = field(default_factory=dict)
    unique: frozenset[str] = frozenset()

    def flattened(self, path: str, width: int) -> Order | str:
        """(C, H, W) of the flattened pictures that are a Dense's inputs, () for other inputs, None
        where the configuration leaves their order open, "" where it says nothing.

        width: how many inputs there are; what has another product is of another layer.
        """
        return self._find(self.orders.flattened, path, width)

    def cell_inputs(self, path: str, width: int) -> Order | str:
        """The same of the inputs of a recurrent layer; path: of its cell, below the layer's own."""
        while path:
            found = self.flattened(path, width)
            if found != "":
                return found
            path = path.rpartition("/")[0]
        return ""

    def unflattened(self, path: str, width: int) -> Order | str:
        """The same of a Dense's outputs, which are reshaped to pictures."""
        return self._find(self.orders.unflattened, path, width)

    def permuted(self, path: str, width: int) -> Order | str:
        """The same of the elements of another layer."""
        return self._find(self.orders.permuted, path, width)

    def resets_after(self, path: str) -> bool | None:
        """Whether the GRU resets after the product, as PyTorch's does; None where nothing says."""
        for name in path.split("/"):
            if name in self.resets and name in self.unique:
                return self.resets[name]
        return None

    def _find(self, found: Mapping[str, Order], path: str, width: int) -> Order | str:
        last = path.rpartition("/")[2]
        if path not in found:
            # Legacy files and wrappers name a layer without the models around it.
            paths = (
                [p for p in found if p.rpartition("/")[2] == last] if last in self.unique else []
            )
            if len(paths) != 1:
                return ""
            path = paths[0]
        order = found[path]
        return order if not order or math.prod(order) == width else ""


@dataclass(frozen=True)
class Ordered:
    """A kind with what the configuration states of it. problem: why it cannot be, or is left open;
    "" for nothing. inputs, outputs: whether the order of a Dense's is stated, and not to be asked.
    """

    kind: str
    options: dict[str, object] = field(default_factory=dict)
    problem: str = ""
    evidence: str = ""
    inputs: bool = True
    outputs: bool = True


def against_torch_gru(facts: KerasFacts, path: str, bias: tuple[int, ...]) -> str:
    """Why a Keras GRU has no counterpart in PyTorch; "" where nothing says that.

    bias: its shape, () without one; with reset_after there is one bias of two rows.
    """
    if facts.resets_after(path) is False:
        how = "reset_after=False by the configuration"
    elif len(bias) == 1:
        how = "reset_after=False: its bias is one row"
    else:
        return ""
    return (
        f"resets before the matrix product ({how}), PyTorch's GRU after it: no weights of one "
        "make the other"
    )


def ordered_kind(
    facts: KerasFacts, path: str, kind: str, shape: tuple[int, ...], bias: tuple[int, ...] = ()
) -> Ordered:
    """What a Keras layer of that kind is between PyTorch and Keras.

    path: of the module. shape: of its kernel, or of one of a norm's vectors. bias: of its bias.
    """
    if kind == "gru":
        is_open = not bias and facts.resets_after(path) is None
        return Ordered(kind, {}, against_torch_gru(facts, path, bias) or (RESET if is_open else ""))
    if kind in NORMS and shape:
        found = _with_order(kind, kind, facts.permuted(path, shape[-1]), "its elements")
        return found if found.options else replace(found, evidence="")
    if kind != "linear" or len(shape) != 2:
        return Ordered(kind)
    inputs, outputs = facts.flattened(path, shape[0]), facts.unflattened(path, shape[1])
    if inputs and outputs:
        return Ordered(kind, {}, "both its inputs and its outputs are pictures: [[rule]]s say how")
    if outputs or outputs is None:
        found = _with_order(kind, "linear_unflatten", outputs, "its outputs")
    else:
        found = _with_order(kind, "linear_flatten", inputs, "its inputs")
    return replace(found, inputs=inputs != "", outputs=outputs != "")


def _with_order(kind: str, with_chw: str, order: Order | str, what: str) -> Ordered:
    if order is None:
        problem = f"{what} are pictures whose order the configuration leaves open: give chw"
        return Ordered(kind, {}, problem)
    if isinstance(order, str):
        return Ordered(kind)
    if not order:
        return Ordered(kind, evidence=f"{what} are no flattened pictures, by the configuration")
    evidence = f"{what} are pictures {list(order)} by the configuration"
    return Ordered(with_chw, {"chw": list(order)}, "", evidence)


def same_order(stated: tuple[int, ...], chw: tuple[int, ...], named: bool) -> bool:
    """Whether a layer that converts pictures chw, if it is `named` after them, does as stated.

    Only the number of channels counts: pixels keep their order.
    """
    one, other = (_split(order) for order in (stated, chw if named else ()))
    return one == other


def _split(order: tuple[int, ...]) -> tuple[int, int] | None:
    """(channels, pixels); None where their order is one."""
    pixels = math.prod(order[1:])
    return (order[0], pixels) if order and 1 not in (order[0], pixels) else None


def facts_of(checkpoint: Checkpoint | None) -> KerasFacts:
    """What the checkpoint's configuration states; nothing where it has none, or a broken one."""
    text = None if checkpoint is None else checkpoint.extras.get(CONFIG)
    if not isinstance(text, str):
        return KerasFacts()
    try:
        config = strict_json.loads(text.encode())
    except (WtoolError, UnicodeEncodeError):
        return KerasFacts()  # evidence only: opening the file has said so
    rows = [(settings.get("name"), settings) for _, _, settings in layers_of(config)]
    counts = Counter(name for name, _ in rows if type(name) is str)
    resets = {}
    for name, settings in rows:
        stated = set(_resets(settings))
        if type(name) is str and len(stated) == 1:
            resets[name] = stated.pop()
    unique = frozenset(name for name, count in counts.items() if count == 1)
    return KerasFacts(orders_of(config), resets, unique)


def _resets(settings: Mapping[str, Any]) -> Iterator[bool]:
    """`reset_after` of a layer, or of the layers and cells that it wraps."""
    pending = [(settings, 0)]
    while pending:
        item, depth = pending.pop()
        stated = item.get("reset_after")
        if type(stated) is bool:
            yield stated
        for key in ("layer", "backward_layer", "cell"):
            below = item.get(key)
            inner = below.get("config") if type(below) is dict else None
            if type(inner) is dict and depth < MAX_CONFIG_DEPTH:
                pending.append((inner, depth + 1))
