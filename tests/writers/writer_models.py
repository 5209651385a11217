"""Checkpoints made in memory, for tests of the writers: arrays in, tensors over their bytes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dtypes import DTYPES, DType
from wtool.extents import Decoded, Strided
from wtool.kernels.little_endian import to_bytes
from wtool.sources import BytesSource

BY_CARRIER = {
    d.carrier_name: d
    for d in reversed(DTYPES.values())
    if d.kind not in ("string", "opaque") and not d.name.startswith(("q", "complex32"))
}


def strided(name: str, array: np.ndarray, dtype: DType | None = None, **rest: Any) -> Tensor:
    """A contiguous tensor over a copy of the array."""
    dtype = dtype or BY_CARRIER[array.dtype.name]
    raw = to_bytes(np.ascontiguousarray(array).reshape(-1), dtype).tobytes()
    source = BytesSource(raw, f"memory of {name}")
    return Tensor(name, name, Strided(source, 0, len(raw), dtype, array.shape, **rest))


def model(tensors: Mapping[str, np.ndarray] | list[Tensor], **rest: Any) -> Checkpoint:
    """A checkpoint of arrays by name, or of tensors already made."""
    if isinstance(tensors, Mapping):
        tensors = [strided(name, array) for name, array in tensors.items()]
    return build("memory", "memory", tensors, **rest)


def views(name: str, storage: np.ndarray, shape: tuple[int, ...], **rest: Any) -> Tensor:
    """A tensor of `shape` over the whole 1-D `storage`; equal `storage` objects are tied."""
    dtype = BY_CARRIER[storage.dtype.name]
    source = BytesSource(storage, f"storage {id(storage)}")
    return Tensor(name, name, Strided(source, 0, storage.nbytes, dtype, shape, **rest))


def decoded(name: str, array: np.ndarray, dtype: DType | None = None) -> Tensor:
    """A tensor whose values are computed whole: no stored bytes to copy."""
    dtype = dtype or BY_CARRIER[array.dtype.name]
    return Tensor(name, name, Decoded(dtype, array.shape, lambda: array))


def codes_of(dtype: DType, count: int) -> np.ndarray:
    """(count,) values of `dtype` with varied bits, NaN and negative zero among them where it has
    them.
    """
    rng = np.random.default_rng(dtype.bits)
    if dtype.kind == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if dtype.name == "complex32":
        pairs = rng.standard_normal(2 * count).astype(np.float16).astype(np.float32)
        return pairs.view(np.complex64)
    if dtype.bits < 8:
        codes = rng.integers(0, 1 << dtype.bits, count).astype(np.uint8)
        from wtool.extents import from_codes

        return from_codes(codes, dtype)
    raw = rng.integers(0, 256, count * dtype.carrier.itemsize).astype(np.uint8)
    return raw.view(dtype.carrier)
