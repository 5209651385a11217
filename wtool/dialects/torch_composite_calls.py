"""The calls of torch that make composite tensors: their arguments, read from a pickle's nodes.

What the components have to do with each other is known to torch_composite and torch_sparse; here
arguments are taken apart. Source: torch 2.13 `torch/_utils.py`, `torch/_tensor.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from wtool.dialects.torch_composite import Composite, jagged, nested, quantised, sparse
from wtool.dialects.torch_entries import component
from wtool.dialects.torch_found import Found, read_dtype
from wtool.dtypes import BY_TORCH, DTYPES
from wtool.encodings.pickle_nodes import Call, Dict, Global, describe
from wtool.errors import MalformedInput, UnsupportedError, shorten
from wtool.extents import Absent, Extent, Strided, check_shape
from wtool.sources import BytesSource

if TYPE_CHECKING:
    from wtool.dialects.torch_objects import ObjectReader

# Containers looked into for the tensors of a wrapper, and how deep.
MAX_WRAPPED_NODES = 10_000
MAX_WRAPPED_DEPTH = 8

_LAYOUT = "torch.serialization._get_layout"
_DTENSORS = ("torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor")


def find_composite(
    reader: ObjectReader, full: str, args: tuple, state: Any, nesting: int
) -> Found | None:
    """The composite that the call `full(*args)` makes; `state` is that of its subclass, if any.

    Raises MalformedInput where the arguments are not those of torch or contradict each other.
    """
    return _CALLS[full](reader, args, state, nesting)


def _sparse(reader: ObjectReader, args: tuple, state: Any, nesting: int) -> Found:
    layout_node, data = _take("sparse tensor", args, 2)
    layout = layout_node.args if type(layout_node) is Call and layout_node.full == _LAYOUT else ()
    if len(layout) != 1 or not isinstance(layout[0], str):
        raise MalformedInput("layout of a sparse tensor", found=describe(layout_node))
    name = layout[0].removeprefix("torch.")
    if not isinstance(data, tuple) or not 3 <= len(data) <= 4:
        raise MalformedInput("data of a sparse tensor", expected="3 or 4", found=describe(data))
    coalesced = False
    if name == "sparse_coo":
        coalesced = len(data) == 4 and data[3] is True
        *parts, size = data[:3]
    else:
        *parts, size = data
    if not isinstance(size, tuple | list):
        raise MalformedInput("size of a sparse tensor", found=describe(size))
    extents = [_extent(reader, part, nesting) for part in parts]
    return Found(None, sparse(name, extents, tuple(size), coalesced=coalesced))


def _quantised(reader: ObjectReader, args: tuple, state: Any, nesting: int) -> Found:
    storage, offset, size, stride, parameters, *_ = _take("quantised tensor", args, 7)
    integers = reader.strided(storage, offset, size, stride)
    scheme = parameters[0] if isinstance(parameters, tuple) and parameters else None
    if type(scheme) is not Global or scheme.module != "torch" or not 3 <= len(parameters) <= 4:
        raise MalformedInput("quantiser of a tensor", found=describe(parameters))
    scale, zero_point = parameters[1:3]
    if scheme.name == "per_tensor_affine":
        return Found(None, quantised(integers, scheme.name, scale, zero_point, None))
    # Lists stand for tensors of these types; torch makes them so.
    kinds = ("float64", "int64") if scheme.name == "per_channel_affine" else ("float32", "float32")
    return Found(
        None,
        quantised(
            integers,
            scheme.name,
            _channel(reader, scale, kinds[0], nesting),
            _channel(reader, zero_point, kinds[1], nesting),
            parameters[3] if len(parameters) == 4 else None,
        ),
    )


def _channel(reader: ObjectReader, value: Any, kind: str, nesting: int) -> Extent:
    """Scales or zero points: a tensor, or a list of numbers as old files have it."""
    if not isinstance(value, list):
        return _extent(reader, value, nesting)
    code = {"float64": "d", "int64": "q", "float32": "f"}[kind]
    try:
        data = struct.pack(f"<{len(value)}{code}", *value)
    except (struct.error, OverflowError) as error:
        raise MalformedInput("scales or zero points", expected="a list of numbers") from error
    source = BytesSource(data, "list inside the pickle")
    dtype = DTYPES[kind]
    return Strided(source, 0, len(data), dtype, (len(value),), storage=("list", id(value)))


def _nested(reader: ObjectReader, args: tuple, state: Any, nesting: int) -> Found:
    parts = [_extent(reader, part, nesting) for part in _take("nested tensor", args, 4)]
    return Found(None, nested(*parts))


def _jagged(reader: ObjectReader, args: tuple, state: Any, nesting: int) -> Found:
    (fields,) = _take("jagged tensor", args, 1)
    if not isinstance(fields, Dict):
        raise MalformedInput("arguments of a jagged tensor", found=describe(fields))
    lengths = fields.get("lengths")
    composite = jagged(
        _extent(reader, fields.get("values"), nesting),
        _extent(reader, fields.get("offsets"), nesting),
        None if lengths is None else _extent(reader, lengths, nesting),
        fields.get("_ragged_idx", 1),
    )
    found = Found(None, composite)
    is_parameter = isinstance(state, Dict) and state.get("_is_param") is True
    return found.marked(is_parameter=is_parameter)


def _wrapper(reader: ObjectReader, args: tuple, state: Any, nesting: int) -> Found:
    """A subclass without data of its own: its tensors are among its attributes."""
    cls, dtype, size, _stride, _offset, _layout, _device, _ = _take("wrapper", args, 8)
    if type(cls) is not Global or not isinstance(size, tuple | list):
        raise MalformedInput("arguments of a wrapper tensor", found=describe(cls))
    shape = check_shape(tuple(size))
    attributes = _attributes(state)
    if cls.full in _DTENSORS:
        return _dtensor(reader, attributes, shape, nesting)
    parts = dict(_wrapped(reader, attributes, nesting))
    name = shorten(cls.full)
    if not parts:
        extent = Absent(_known_dtype(dtype), shape, f"it is a {name} that holds no tensor")
        return _as_stated(Found(extent), attributes)
    kind = getattr(dtype, "name", "")
    summary = f"{name} of shape {shape}, {shorten(kind)}; the tensors it holds are shown"
    return _as_stated(Found(None, Composite(parts, tuple(parts), summary)), attributes)


def _attributes(state: Any) -> dict[str, Any]:
    """Attributes of an object: its dictionary and its slots, which a pickle may keep apart."""
    merged: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, Dict):
            merged.update((key, value) for key, value in part.items() if isinstance(key, str))
    return merged


def _known_dtype(node: Any) -> Any:
    """The element type of an empty wrapper; bytes for types that only exist inside subclasses."""
    try:
        return read_dtype(node)
    except UnsupportedError:
        return BY_TORCH["uint8"]


def _dtensor(
    reader: ObjectReader, attributes: dict[str, Any], shape: tuple[int, ...], nesting: int
) -> Found:
    """A DTensor: the part that the saving rank held, under the plain name only where it is all."""
    local = reader.require(attributes.get("_local_tensor"), nesting)
    placed = ", ".join(_placements(attributes.get("_spec"))) or "unknown placements"
    partial = "Partial" in placed
    if local.extent is not None and local.extent.shape == shape and not partial:
        return _as_stated(Found(local.extent), attributes)
    summary = f"DTensor of shape {shape}, {placed}: the file holds the part of one rank" + (
        ", which is to be added to those of the others" if partial else ""
    )
    parts = dict(_named_parts("local_tensor", local))
    return _as_stated(Found(None, Composite(parts, tuple(parts), summary)), attributes)


def _placements(spec: Any) -> Iterator[str]:
    """`Shard(0)`, `Replicate` ... of a DTensorSpec, as far as they are what torch writes."""
    state = spec.state if type(spec) is Call else None
    placements = state.get("placements") if isinstance(state, Dict) else None
    for placement in placements if isinstance(placements, tuple) else ():
        if type(placement) is Call and type(placement.function) is Global:
            fields = placement.state
            dim = fields.get("dim") if isinstance(fields, Dict) else None
            name = shorten(placement.function.name)
            yield f"{name}({dim})" if type(dim) is int and abs(dim) < 1000 else name


def _as_stated(found: Found, attributes: dict[str, Any]) -> Found:
    """`found` as a parameter or buffer where the attributes of its subclass say so."""
    return found.marked(
        is_parameter=attributes.get("_is_param") is True,
        is_buffer=attributes.get("_is_buffer") is True,
    )


def _wrapped(
    reader: ObjectReader, attributes: dict[str, Any], nesting: int
) -> Iterator[tuple[str, Extent]]:
    """(dotted name, values) of each tensor among attributes; looks into plain containers only."""
    pending: list[tuple[str, Any, int]] = [(k, v, 1) for k, v in attributes.items()][::-1]
    budget = MAX_WRAPPED_NODES
    seen: set[int] = set()
    names: set[str] = set()
    while pending:
        name, value, depth = pending.pop()
        budget -= 1
        if budget < 0 or depth > MAX_WRAPPED_DEPTH:
            raise MalformedInput(
                "wrapper tensor with too much inside",
                expected=f"at most {MAX_WRAPPED_NODES} values, {MAX_WRAPPED_DEPTH} levels",
            )
        if isinstance(value, Dict | list | tuple):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if len(value) > budget:
                budget = -1
                pending.append((name, None, 0))
                continue
            pairs = value.pairs() if isinstance(value, Dict) else enumerate(value)
            inner = [
                (f"{name}.{component(key)}" if name else component(key), part, depth + 1)
                for key, part in pairs
                if isinstance(key, str | int)
            ]
            pending.extend(reversed(inner))
            continue
        found = reader.find(value, nesting)
        if found is not None:
            for part, extent in _named_parts(name, found):
                if part in names:
                    raise MalformedInput(f"wrapper tensor with two tensors '{shorten(part)}'")
                names.add(part)
                budget -= 1
                yield part, extent


def _named_parts(name: str, found: Found) -> Iterator[tuple[str, Extent]]:
    """(name, values) of a tensor, or of each component of a composite."""
    if found.extent is not None:
        yield name, found.extent
    elif found.composite is not None:
        for part, extent in found.composite.parts.items():
            yield f"{name}.{part}" if part else name, extent


def _extent(reader: ObjectReader, node: Any, nesting: int) -> Extent:
    extent = reader.require(node, nesting).extent
    if extent is None:
        raise MalformedInput("component that is itself made of several tensors")
    return extent


def _take(what: str, args: Any, count: int) -> tuple:
    if not isinstance(args, tuple) or len(args) != count:
        raise MalformedInput(f"arguments of a {what}", expected=count, found=describe(args))
    return args


_CALLS: dict[str, Callable[[ObjectReader, tuple, Any, int], Found | None]] = {
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch.nested._internal.nested_tensor._rebuild_njt": _jagged,
}
