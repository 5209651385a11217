"""What torch itself says about a file, in wtool's terms: names, types, shapes, bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from wtool.checkpoint import Tensor
from wtool.formats import open_checkpoint

# Types of torch whose bits NumPy holds under another type of the same width.
CARRIERS = {
    torch.bfloat16: np.uint16,
    torch.float8_e5m2: np.uint8,
    torch.float8_e4m3fn: np.uint8,
    torch.float8_e5m2fnuz: np.uint8,
    torch.float8_e4m3fnuz: np.uint8,
    torch.float8_e8m0fnu: np.uint8,
    torch.bits8: np.uint8,
    torch.bits16: np.uint16,
    torch.bits1x8: np.uint8,
    torch.bits2x4: np.uint8,
    torch.bits4x2: np.uint8,
}


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor as an array of its shape, in NumPy's type or in unsigned bits."""
    tensor = tensor.detach().cpu()
    if tensor.dtype in CARRIERS:
        width = np.dtype(CARRIERS[tensor.dtype]).itemsize
        flat = tensor.contiguous().view(torch.uint8 if width == 1 else torch.int16)
        return flat.numpy().view(CARRIERS[tensor.dtype])
    if tensor.dtype is torch.complex32:
        return tensor.to(torch.complex64).numpy()
    if tensor.dtype is torch.float4_e2m1fn_x2:
        packed = tensor.contiguous().view(torch.uint8).numpy()
        halves = np.stack((packed & 15, packed >> 4), axis=-1)
        return halves.reshape((*packed.shape[:-1], -1)).view(ml_dtypes.float4_e2m1fn)
    return tensor.resolve_conj().resolve_neg().numpy()


def assert_same(ours: Tensor, theirs: torch.Tensor) -> None:
    """Type, shape and every bit are equal; a NaN equals itself."""
    expected = bits_of(theirs)
    name = str(theirs.dtype).removeprefix("torch.").removesuffix("_x2")
    assert ours.dtype.name == name, ours.name
    assert ours.shape == expected.shape, ours.name
    values = np.ascontiguousarray(ours.load())
    expected = np.ascontiguousarray(expected)
    assert values.nbytes == expected.nbytes, ours.name
    assert values.tobytes() == expected.tobytes(), ours.name


def assert_opens_as(path, expected: dict[str, torch.Tensor], **options) -> None:
    """wtool sees exactly these names in this order, with these types, shapes and values."""
    checkpoint = open_checkpoint(path, **options)
    assert list(checkpoint.tensors) == list(expected)
    for name, theirs in expected.items():
        assert_same(checkpoint[name], theirs)
