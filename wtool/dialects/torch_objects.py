"""torch's pickled objects as extents: what each `_rebuild_*` call would have made.

Source: torch 2.13 `torch/_utils.py`, `torch/_tensor.py`, `torch/nn/parameter.py`. Geometry that
reaches outside a storage or wraps round raises MalformedInput.

A tensor of `float4_e2m1fn_x2` is shown as `float4_e2m1fn` with its last dimension doubled, as
safetensors does, so that it has the same numbers in every container.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wtool.dialects.torch_calls import OLD_TENSORS, RULES, old_tensor, storage_alone
from wtool.dialects.torch_found import CODES, Found, as_tuple, bad_stride, number_text
from wtool.dialects.torch_pairs import pairs_of_codes
from wtool.dialects.torch_storages import Storage, StorageTable
from wtool.dtypes import DType
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent, StorageView
from wtool.errors import MalformedInput, shorten
from wtool.extents import INT64_MAX, Extent, Geometry, Strided, geometry

# A Parameter of a tensor of a device tensor is three calls deep; nothing real is deeper than this.
MAX_NESTING = 16

_NEGATABLE = ("float", "complex", "int", "uint")


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
        # Of each view that was found: its geometry, the bytes of its storage.
        self.views: dict[StorageView | None, tuple[Geometry, int]] = {}
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
            rule = RULES.get(function.full)
            if rule is None:
                if node.state is None or function.full not in OLD_TENSORS:
                    return None
                rule = old_tensor
            if node.view is not None:
                return rule(self, node, nesting)  # as fast as looking it up
        elif type(node) is Persistent:
            rule = storage_alone
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
            size, stride = as_tuple(size, "size"), as_tuple(stride, "stride")
        # Sizes are checked as a shape; what strides reach, against the storage.
        for step in stride:
            if type(step) is not int or not 0 <= step <= INT64_MAX:
                raise bad_stride(step)
        shape, strides = size, stride
        if type(offset) is not int or not 0 <= offset <= INT64_MAX:
            raise MalformedInput(
                "offset of a tensor", expected="0 to 2^63 - 1", found=number_text(offset)
            )
        if 0 in shape:
            # Views without elements may start anywhere, even outside of their storage.
            offset = 0
        if dtype is CODES:
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

    def viewed(self, node: Call, view: StorageView) -> Extent:
        """`strided` of a call for a plain view: a model of many tensors asks for a few of them."""
        storages = self.storages
        if type(storages) is not StorageTable:
            return self.strided(*node.args[:4])
        known = self.views.get(view)
        if known is None:
            dtype = storages(node.args[0]).dtype
            # Views without elements may start anywhere, even outside of their storage.
            first = 0 if 0 in view.size else view.offset
            held = geometry(dtype, view.size, view.stride, first, big_endian=self.big_endian)
            known = self.views[view] = held, view.numel * dtype.itemsize
        held, nbytes = known
        storage = storages.named(held.dtype, node.key, nbytes)
        return Strided.of_geometry(held, storage.source, storage.base, nbytes, storage.identity)

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
