"""Signatures of values: equal for two tensors that hold the same values in any order of elements.

A layout operation (transpose, permute, split heads, swap gates) moves values and changes none, so
equal signatures find the counterpart of a tensor whatever its layout; a comparison of all bytes in
the found layout then proves it. A signature is a sum over elements, so that the signature of a
tensor pasted from parts is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

BLOCK_BYTES = 1 << 20
_MASK = (1 << 64) - 1
# Two mixings of the bits of one element, from splitmix64 (Steele, Lea, Flood 2014) and MurmurHash3.
_MIXES = (
    (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB),
    (0xD1B54A32D192ED03, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53),
)


@dataclass(frozen=True, slots=True)
class Signature:
    """Element type, number of elements, and two 64-bit sums of mixed elements.

    varied: whether the elements differ; equal ones (zeros, ones) prove no identity.

    Law: `signature(x) + signature(y)` is the signature of x and y pasted together.
    """

    dtype: str
    count: int
    sums: tuple[int, int]
    varied: bool = field(default=True, compare=False)

    def __add__(self, other: Signature) -> Signature:
        if self.dtype != other.dtype:
            return Signature("", -1, (0, 0))  # equal to the signature of no tensor
        first, second = ((x + y) & _MASK for x, y in zip(self.sums, other.sums, strict=True))
        varied = self.varied or other.varied
        return Signature(self.dtype, self.count + other.count, (first, second), varied)


def measure_signature(tensor: Tensor) -> Signature:
    """The signature of a tensor's values, read in blocks of BLOCK_BYTES."""
    import numpy

    sums = [0, 0]
    first_bits, varied = None, False
    for block in tensor.blocks(BLOCK_BYTES):
        bits = _bits_of(block).astype(numpy.uint64)
        if first_bits is None:
            first_bits = int(bits[0])
        varied = varied or bool((bits != numpy.uint64(first_bits)).any())
        for which, (step, first, second) in enumerate(_MIXES):
            mixed = bits + numpy.uint64(step)
            mixed ^= mixed >> numpy.uint64(30)
            mixed *= numpy.uint64(first)
            mixed ^= mixed >> numpy.uint64(27)
            mixed *= numpy.uint64(second)
            mixed ^= mixed >> numpy.uint64(31)
            sums[which] = (sums[which] + int(mixed.sum(dtype=numpy.uint64))) & _MASK
    return Signature(tensor.dtype.name, tensor.count, (sums[0], sums[1]), varied)


def add_signatures(parts: Iterable[Signature]) -> Signature | None:
    """The signature of all parts pasted together; None for no part."""
    total = None
    for part in parts:
        total = part if total is None else total + part
    return total


def _bits_of(block: np.ndarray) -> np.ndarray:
    """The elements of a 1-D block as unsigned integers; complex ones as pairs."""
    size = block.dtype.itemsize
    if size in (1, 2, 4, 8) and block.dtype.kind != "c":
        return block.view(f"u{size}")
    return block.view("u4" if size == 8 else "u8")
