"""Each call by which torch rebuilds a tensor: what its arguments are, and what it would have made.

A rule takes the reader, the node and how deep calls are nested; it gives what was found, or None
where the node stands for no tensor. Source: torch 2.13 `torch/_utils.py`, `torch/_tensor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wtool.dialects.torch_found import CODES, Found, as_tuple, read_dtype
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.errors import MalformedInput, shorten
from wtool.extents import Absent, check_shape

if TYPE_CHECKING:
    from wtool.dialects.torch_objects import ObjectReader


def _arguments(node: Call, least: int, most: int) -> tuple:
    args = node.args
    if not least <= len(args) <= most:
        raise MalformedInput(
            f"arguments of {node.full}", expected=f"{least} to {most}", found=len(args)
        )
    return args


def _tensor_v1(reader: ObjectReader, node: Call, nesting: int) -> Found:
    storage, offset, size, stride = _arguments(node, 4, 4)
    return Found(reader.strided(storage, offset, size, stride))


def _tensor_v2(reader: ObjectReader, node: Call, nesting: int) -> Found:
    if node.view is not None:
        return Found(reader.viewed(node, node.view))
    args = _arguments(node, 6, 7)
    return Found(reader.strided(*args[:4], metadata=args[6] if len(args) == 7 else None))


def _tensor_v3(reader: ObjectReader, node: Call, nesting: int) -> Found:
    args = _arguments(node, 7, 8)
    metadata = args[7] if len(args) == 8 else None
    return Found(reader.strided(*args[:4], dtype=read_dtype(args[6]), metadata=metadata))


def _parameter(reader: ObjectReader, node: Call, nesting: int) -> Found:
    args = _arguments(node, 3, 4)
    attributes = _attributes(args[3]) if len(args) == 4 else None
    return reader.require(args[0], nesting).marked(is_parameter=True, attributes=attributes)


def _from_type(reader: ObjectReader, node: Call, nesting: int) -> Found | None:
    function, cls, args, state = _arguments(node, 4, 4)
    if type(function) is not Global or not isinstance(args, tuple):
        return None
    if function.full in _COMPOSITES:
        found = _composite(reader, function.full, args, state, nesting)
    else:
        found = reader.find(Call(function, args), nesting)
    if found is None:
        return None
    attributes = _attributes(state)
    return found.marked(
        is_parameter=type(cls) is Global and cls.full == "torch.nn.parameter.Parameter",
        is_buffer=attributes is not None and attributes.get("_is_buffer") is True,
        attributes=None if function.full in _COMPOSITES else attributes,
    )


def _attributes(state: Any) -> Dict | None:
    """Python attributes of a tensor: a dictionary, or (dictionary, slots)."""
    if isinstance(state, tuple) and len(state) == 2:
        state = state[0]
    return state if isinstance(state, Dict) else None


def old_tensor(reader: ObjectReader, node: Call, nesting: int) -> Found:
    """An object of a tensor class with its state: before torch 0.4, and Parameters up to 1.0."""
    state = node.state
    if not isinstance(state, tuple):
        raise MalformedInput(f"state of {node.full}", expected="a tuple")
    if len(state) == 4 and type(state[0]) is Persistent:
        found = Found(reader.strided(*state))
    elif len(state) in (3, 5):
        found = reader.require(state[0], nesting)
    else:
        raise MalformedInput(
            f"state of {node.full}",
            expected="(storage, offset, size, stride) or (tensor, ...)",
            found=f"{len(state)} values",
        )
    return found.marked(is_parameter=True) if node.full == _PARAMETER else found


def _new_parameter(reader: ObjectReader, node: Call, nesting: int) -> Found | None:
    """Parameter(tensor, ...), or an empty Parameter that gets its state."""
    if node.state is not None:
        return old_tensor(reader, node, nesting)
    found = reader.find(node.args[0], nesting) if node.args else None
    return None if found is None else found.marked(is_parameter=True)


def _meta(reader: ObjectReader, node: Call, nesting: int) -> Found:
    dtype_node, size, stride, _ = _arguments(node, 4, 4)
    dtype = read_dtype(dtype_node)
    shape = check_shape(as_tuple(size, "size"))
    if len(as_tuple(stride, "stride")) != len(shape):
        raise MalformedInput("strides and shape differ in rank", expected=len(shape))
    if dtype is CODES:
        shape = (*shape[:-1], 2 * shape[-1]) if shape else (2,)
    return Found(Absent(dtype, shape, "it was saved from torch's meta device"))


def _from_cpu(reader: ObjectReader, node: Call, nesting: int) -> Found:
    tensor, dtype, device, _ = _arguments(node, 4, 4)
    found = reader.require(tensor, nesting)
    if found.extent is None or found.extent.dtype is not read_dtype(dtype):
        reader.notes[f"a tensor of device {shorten(str(device))} is shown as it was stored"] = None
    return found


def _from_numpy(reader: ObjectReader, node: Call, nesting: int) -> Found:
    from wtool.dialects.torch_numpy import array_extent

    array, _, device, _ = _arguments(node, 4, 4)
    extent = array_extent(array)
    if extent is None:
        raise MalformedInput("tensor of another device", expected="a numeric NumPy array")
    reader.notes[f"tensors of device {shorten(str(device))} are shown as they were stored"] = None
    return Found(extent)


def _array(reader: ObjectReader, node: Call, nesting: int) -> Found | None:
    from wtool.dialects.torch_numpy import array_extent

    extent = array_extent(node)
    return None if extent is None else Found(extent)


def storage_alone(reader: ObjectReader, node: Persistent, nesting: int) -> Found:
    """A storage saved by itself, as one dimension of its element type; bytes where it has none."""
    storage = reader.storages(node)
    count = storage.nbytes * 8 // storage.dtype.bits - storage.shift
    return Found(reader.strided(node, 0, (count,), (1,)))


def _bare_composite(reader: ObjectReader, node: Call, nesting: int) -> Found | None:
    return _composite(reader, node.full, node.args, None, nesting)


def _composite(
    reader: ObjectReader, full: str, args: tuple, state: Any, nesting: int
) -> Found | None:
    from wtool.dialects.torch_composite_calls import find_composite

    return find_composite(reader, full, args, state, nesting)


_PARAMETER = "torch.nn.parameter.Parameter"
_OLD_KINDS = (
    "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
)  # fmt: skip
_TENSOR_CLASSES: Sequence[str] = (
    *(f"torch.{device}{kind}Tensor" for device in ("", "cuda.") for kind in _OLD_KINDS),
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.autograd.variable.Variable",
)
OLD_TENSORS = frozenset((*_TENSOR_CLASSES, _PARAMETER))

# Tensors that are made of several; torch_composite_calls knows their arguments.
_COMPOSITES = frozenset(
    (
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_nested_tensor",
        "torch._utils._rebuild_wrapper_subclass",
        "torch.nested._internal.nested_tensor._rebuild_njt",
    )
)

RULES: dict[str, Callable[[ObjectReader, Any, int], Found | None]] = {
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    _PARAMETER: _new_parameter,
    **dict.fromkeys(
        (
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.core.numeric._frombuffer",
            "numpy._core.numeric._frombuffer",
        ),
        _array,
    ),
    **dict.fromkeys(_COMPOSITES, _bare_composite),
}
