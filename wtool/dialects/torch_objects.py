"""torch's pickled objects as extents: what each `_rebuild_*` call would have made.

Source: torch 2.13 `torch/_utils.py`, `torch/_tensor.py`, `torch/nn/parameter.py`. Geometry that
reaches outside a storage or wraps round raises MalformedInput.

A tensor of `float4_e2m1fn_x2` is shown as `float4_e2m1fn` with its last dimension doubled, as
safetensors does, so that it has the same numbers in every container.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wtool.dialects.torch_pairs import pairs_of_codes
from wtool.dialects.torch_storages import Storage
from wtool.dtypes import BY_TORCH, DType
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.errors import MalformedInput, UnsupportedError, shorten
from wtool.extents import INT64_MAX, Absent, Extent, Strided, check_shape

if TYPE_CHECKING:
    from wtool.dialects.torch_composite import Composite

# A Parameter of a tensor of a device tensor is three calls deep; nothing real is deeper than this.
MAX_NESTING = 16

_CODES = BY_TORCH["float4_e2m1fn_x2"]
_NEGATABLE = ("float", "complex", "int", "uint")


class Found:
    """What one node of a pickle holds.

    extent: its values; None where it is made of several tensors, then `composite` names them.
    is_parameter, is_buffer: what the file states; both False where it says neither.
    attributes: Python attributes that were pickled with the tensor, a Dict or None.
    """

    __slots__ = ("attributes", "composite", "extent", "is_buffer", "is_parameter")

    def __init__(self, extent: Extent | None, composite: Composite | None = None) -> None:
        self.extent = extent
        self.composite = composite
        self.is_parameter = False
        self.is_buffer = False
        self.attributes: Dict | None = None

    def marked(
        self,
        *,
        is_parameter: bool = False,
        is_buffer: bool = False,
        attributes: Dict | None = None,
    ) -> Found:
        """A copy that states more; a tensor may be named by itself and through a Parameter."""
        copy = Found(self.extent, self.composite)
        copy.is_parameter = self.is_parameter or is_parameter
        copy.is_buffer = self.is_buffer or is_buffer
        copy.attributes = attributes if attributes is not None else self.attributes
        return copy


class ObjectReader:
    """Finds the tensors that nodes of one pickle stand for.

    storages: the storage that a Persistent names. big_endian: whether the container's bytes are.
    notes: what a user should know about tensors that were found, without repeats.
    """

    def __init__(
        self, storages: Callable[[Persistent], Storage], *, big_endian: bool = False
    ) -> None:
        self.storages = storages
        self.big_endian = big_endian
        self.notes: dict[str, None] = {}
        # By identity; the node is kept so that its identity is not given to another.
        self._found: dict[int, tuple[Any, Found | None]] = {}

    def find(self, node: Any, nesting: int = 0) -> Found | None:
        """The tensor that `node` stands for; None where it stands for something else.

        Raises MalformedInput where the arguments are not those of a tensor, or reach outside its
        storage; UnsupportedError for element types that wtool does not know.
        """
        if type(node) is Call:
            function = node.function
            if type(function) is not Global:
                return None
            rule = _RULES.get(function.full)
            if rule is None:
                if node.state is None or function.full not in _OLD_TENSORS:
                    return None
                rule = _old_tensor
        elif type(node) is Persistent:
            rule = _storage_alone
        else:
            return None
        known = self._found.get(id(node))
        if known is not None:
            return known[1]
        if nesting > MAX_NESTING:
            raise MalformedInput("tensors wrapped in tensors", expected=f"at most {MAX_NESTING}")
        found = rule(self, node, nesting + 1)
        self._found[id(node)] = node, found
        return found

    def require(self, node: Any, nesting: int = 0) -> Found:
        """`find`, where the place allows nothing but a tensor."""
        found = self.find(node, nesting)
        if found is None:
            raise MalformedInput("expected a tensor", found=type(node).__name__)
        return found

    def strided(
        self,
        storage_node: Any,
        offset: Any,
        size: Any,
        stride: Any,
        *,
        dtype: DType | None = None,
        metadata: Any = None,
    ) -> Extent:
        """The view (offset, size, stride; in elements) of a storage that a pickle asks for."""
        storage = self.storages(storage_node)
        if dtype is None:
            dtype = storage.dtype
        if type(size) is not tuple or type(stride) is not tuple:
            size, stride = _as_tuple(size, "size"), _as_tuple(stride, "stride")
        # Sizes are checked as a shape; what strides reach, against the storage.
        for step in stride:
            if type(step) is not int or not 0 <= step <= INT64_MAX:
                raise _bad_stride(step)
        shape, strides = size, stride
        if type(offset) is not int or not 0 <= offset <= INT64_MAX:
            raise MalformedInput(
                "offset of a tensor", expected="0 to 2^63 - 1", found=_number(offset)
            )
        if 0 in shape:
            # Views without elements may start anywhere, even outside of their storage.
            offset = 0
        if dtype is _CODES:
            return pairs_of_codes(storage, offset, shape, strides)
        conj, neg = self._applied(metadata, dtype) if metadata else (False, False)
        return Strided(
            storage.source,
            storage.base,
            storage.nbytes,
            dtype,
            shape,
            first=offset + storage.shift,
            strides=strides,
            big_endian=self.big_endian,
            conj=conj,
            neg=neg,
            storage=storage.identity,
        )

    def _applied(self, metadata: Any, dtype: DType) -> tuple[bool, bool]:
        """(conjugate, negate): what a tensor's metadata says about its values."""
        if type(metadata) is not Dict:
            raise MalformedInput("metadata of a tensor", expected="a dictionary")
        for key in metadata:
            if key not in ("conj", "neg"):
                self.notes[f"tensor metadata '{shorten(str(key))}' is not applied"] = None
        neg = bool(metadata.get("neg"))
        if neg and dtype.kind not in _NEGATABLE:
            raise MalformedInput("negative view of a type without a sign", found=dtype.name)
        return bool(metadata.get("conj")) and dtype.kind == "complex", neg


def read_dtype(node: Any) -> DType:
    """The element type that a global `torch.<name>` names; UnsupportedError for one wtool lacks."""
    if type(node) is not Global or node.module != "torch":
        raise MalformedInput("element type of a tensor", expected="torch.<dtype>", found=node)
    dtype = BY_TORCH.get(node.name)
    if dtype is None:
        raise UnsupportedError("element type is unknown", found=shorten(node.full))
    return dtype


def _as_tuple(value: Any, what: str) -> tuple:
    if not isinstance(value, tuple | list):
        raise MalformedInput(
            f"{what} of a tensor", expected="a tuple of integers", found=type(value).__name__
        )
    return tuple(value)


def _bad_stride(step: Any) -> MalformedInput:
    return MalformedInput(
        "stride of a tensor", expected="an integer from 0 to 2^63 - 1", found=_number(step)
    )


def _number(value: Any) -> str:
    if type(value) is not int:
        return type(value).__name__
    return str(value) if value.bit_length() <= 128 else f"integer of {value.bit_length()} bits"


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
    args = node.args
    if len(args) == 6:
        return Found(reader.strided(args[0], args[1], args[2], args[3]))
    args = _arguments(node, 6, 7)
    return Found(reader.strided(*args[:4], metadata=args[6]))


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


def _old_tensor(reader: ObjectReader, node: Call, nesting: int) -> Found:
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
        return _old_tensor(reader, node, nesting)
    found = reader.find(node.args[0], nesting) if node.args else None
    return None if found is None else found.marked(is_parameter=True)


def _meta(reader: ObjectReader, node: Call, nesting: int) -> Found:
    dtype_node, size, stride, _ = _arguments(node, 4, 4)
    dtype = read_dtype(dtype_node)
    shape = check_shape(_as_tuple(size, "size"))
    if len(_as_tuple(stride, "stride")) != len(shape):
        raise MalformedInput("strides and shape differ in rank", expected=len(shape))
    if dtype is _CODES:
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


def _storage_alone(reader: ObjectReader, node: Persistent, nesting: int) -> Found:
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
_OLD_TENSORS = frozenset((*_TENSOR_CLASSES, _PARAMETER))

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

_RULES: dict[str, Callable[[ObjectReader, Any, int], Found | None]] = {
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
