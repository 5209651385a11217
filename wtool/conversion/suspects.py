"""Dense layers that may stand between vectors and pictures, whose layouts then differ.

PyTorch flattens (C, H, W), Keras (H, W, C). No shape proves that a dense layer follows a Flatten,
or comes before a Reshape; shapes and order raise the suspicion, and then it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from wtool.conversion.layer_rules import CELLS
from wtool.conversion.units import Trait, Unit

AFTER = "the same layer, but its inputs may be flattened pictures: give [const] chw, or values"
BEFORE = "the same layer, but its outputs may become pictures: give [const] chw, or values"
EITHER = (
    "the same layer, but its inputs may be flattened pictures, or its outputs become pictures: "
    "give [const] chw, or values"
)
CELL = (
    "its inputs may be flattened pictures, channels first in PyTorch and last in Keras: give chw "
    "in its block of a mapping file"
)
SUSPICIONS = (AFTER, BEFORE, EITHER)
AXES = (
    "a norm over axes that may be those of pictures, (C, H, W) in PyTorch and (H, W, C) in Keras: "
    'give a [[rule]] with op = ["permute 1 2 0"] for each vector, or assume layernorm'
)
# A norm is as wide as what it is given: it explains no width.
_NORMS = ("batchnorm", "layernorm", "rmsnorm", "prelu")
# Pictures that a model is given have so many channels at most, as a rule.
_GIVEN_CHANNELS = 4


def produced_widths(units: Sequence[Unit]) -> dict[int, set[str]]:
    """How wide what layers give is, joined pictures among them -> labels."""
    widths = _given_widths(units)
    is_joined = _joins(units)
    for unit in units:
        for kind, shape in unit.traits:
            if kind == "batchnorm" and is_joined(shape[-1]):
                widths.setdefault(shape[-1], set()).add(unit.label)
    return widths


def _given_widths(units: Sequence[Unit]) -> dict[int, set[str]]:
    widths: dict[int, set[str]] = {}
    for unit in units:
        for trait in unit.traits:
            for width in _produced(trait, alone=len(unit.traits) == 1):
                widths.setdefault(width, set()).add(unit.label)
    return widths


def _made_up_channels(units: Sequence[Unit]) -> set[int]:
    """Channels that a convolution takes and no layer gives."""
    widths = _given_widths(units)
    taken = {c for unit in units for c in _channels_in(unit)}
    return {c for c in taken if c > _GIVEN_CHANNELS and c not in widths}


def _joins(units: Sequence[Unit]) -> Callable[[int], bool]:
    """Whether pictures joined along their channels, as DenseNet's, are so wide: a layer's inputs
    and another's outputs. None are where every convolution takes what some layer gives.
    """
    if not _made_up_channels(units):
        return lambda width: False
    taken = {c for unit in units for c in _channels_in(unit)}
    given = {c for unit in units for c in _channels_out(unit)}
    return lambda width: any(width - one in given for one in taken)


def after_flatten(units: Sequence[Unit], *, ordered: bool) -> set[str]:
    """Labels of dense layers, and of recurrent cells, whose inputs may be flattened pictures.

    Their number is a multiple of a convolution's channels, and no other layer gives so many: or the
    layer just before, where the units are `ordered` as the model defines them, is a convolution of
    fewer channels. Where they are not, layers that depend on each other explain nothing.
    """
    channels = {c for unit in units for c in _channels_out(unit)}
    widths = produced_widths(units)
    is_joined = _joins(units)
    circular = set() if ordered else _circular(units)
    found = set()
    for place, unit in enumerate(units):
        for wide in _inputs(unit):
            near = None
            if ordered:
                before = (units[i] for i in range(place - 1, -1, -1))
                near = _near(before, 0 if is_joined(wide) else wide)
            multiple = any(wide % c == 0 and wide != c for c in channels if c > 1)
            explained = bool(widths.get(wide, set()) - {unit.label} - circular)
            if _may_hold(wide, near, _channels_out) or (multiple and not explained):
                found.add(unit.label)
    return found


def before_pictures(units: Sequence[Unit], *, ordered: bool) -> set[str]:
    """Labels of dense layers whose outputs may become pictures.

    Their number is a multiple of the channels that the layer just behind takes, where the units
    are `ordered`; or of channels that a convolution takes and no layer gives, while none takes all.
    """
    is_joined = _joins(units)
    made_up = {width for width in _made_up_channels(units) if not is_joined(width)}
    circular = set() if ordered else _circular(units)
    taken = {wide for unit in units if unit.label not in circular for wide, _ in _sizes(unit)}
    given = _given_widths(units)
    channels = {
        c for unit in units for c in _channels_in(unit) if c > _GIVEN_CHANNELS or c in given
    }
    found = set()
    for place, unit in enumerate(units):
        for _, long in _sizes(unit):
            behind = (units[i] for i in range(place + 1, len(units)))
            near = _near(behind, long) if ordered else None
            possible = channels if unit.label in circular else made_up
            multiple = any(long % c == 0 and long != c for c in possible)
            if _may_hold(long, near, _channels_in) or (multiple and long not in taken):
                found.add(unit.label)
    return found


def has_turned_axes(shape: Sequence[int], units: Sequence[Unit], *, is_given: bool) -> bool:
    """Whether the elements of a norm of that shape may lie in another order of axes.

    is_given: whether the other side's shape is known, which then tells axes of other lengths.
    """
    if len(shape) < 2 or (is_given and len(set(shape)) > 1):
        return False
    return any(_channels_out(unit) for unit in units)


def _circular(units: Sequence[Unit]) -> set[str]:
    """Labels of dense layers whose inputs only such layers explain as depend on them, as the two
    ends of an autoencoder explain each other.
    """
    widths = produced_widths(units)
    dense = {unit.label: {wide for wide, _ in _sizes(unit)} for unit in units}
    left = {label for label, wides in dense.items() if wides}
    while True:
        found = {
            label
            for label in left
            if all(widths.get(wide, set()) - {label} <= left for wide in dense[label])
            and any(widths.get(wide, set()) - {label} for wide in dense[label])
        }
        if found == left:
            return found
        left = found


def _sizes(unit: Unit) -> Iterator[tuple[int, int]]:
    """(inputs, outputs) of what may be a dense layer."""
    for kind, shape in unit.traits:
        if kind == "linear":
            yield shape[0], shape[1]


def _inputs(unit: Unit) -> set[int]:
    """How many inputs what may be a dense layer, or a recurrent cell, takes."""
    cells = {shape[-2] for kind, shape in unit.traits if kind in CELLS}
    return cells | {wide for wide, _ in _sizes(unit)}


def _produced(trait: Trait, *, alone: bool) -> tuple[int, ...]:
    kind, shape = trait
    if not shape or kind in (*_NORMS, "raw") or (kind == "embedding" and not alone):
        return ()
    if kind == "conv_transpose":
        return (shape[-2],)
    return (shape[-1], 2 * shape[-1]) if kind in CELLS else (shape[-1],)


def _channels_out(unit: Unit) -> set[int]:
    places = {"conv": -1, "depthwise": -1, "conv_transpose": -2}
    return {shape[places[kind]] for kind, shape in unit.traits if kind in places}


def _channels_in(unit: Unit) -> set[int]:
    places = {"conv": -2, "conv_transpose": -1}
    return {shape[places[kind]] for kind, shape in unit.traits if kind in places}


def _near(units: Iterable[Unit], width: int) -> Unit | None:
    """The first of the units that is no norm of that width: one of another width is of pictures."""
    for unit in units:
        kinds = {kind for kind, _ in unit.traits}
        if not (kinds <= {*_NORMS} and all(shape == (width,) for _, shape in unit.traits)):
            return unit
    return None


def _may_hold(width: int, near: Unit | None, channels: Callable[[Unit], set[int]]) -> bool:
    """Whether a vector of that width may be pictures of the channels of the layer beside it."""
    if near is None:
        return False
    sizes = channels(near) | {shape[0] for kind, shape in near.traits if kind == "batchnorm"}
    return any(width % size == 0 and width != size for size in sizes if size > 1)
