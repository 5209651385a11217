"""A tensor's values as little-endian bytes in C order, block by block: what every container stores.

Stored bytes that are the values already are copied as they lie; anything else is read through the
tensor's extent, which casts, permutes and swaps on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wtool.errors import UnsupportedError, WtoolError
from wtool.kernels.little_endian import to_bytes
from wtool.writers.outputs import Output

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

# Small enough to stay in the processor's cache between read, checksum and write: measured best of
# 256 KiB, 1 MiB and 4 MiB. A multiple of 8 elements of every type, so packed types split at bytes.
BLOCK_BYTES = 256 << 10

Checksum = Callable[[bytes | memoryview, int], int]


def byte_blocks(tensor: Tensor, *, unpacked: bool = False) -> Iterator[memoryview]:
    """The values as bytes, little-endian, C order; each block is valid until the next is asked for.

    Types below a byte are packed from the lowest bit up, as safetensors and torch store them;
    `unpacked` gives each element a byte of its own instead, as TensorFlow does.
    """
    span = tensor.extent.raw_span()
    if span is None or (unpacked and tensor.dtype.bits < 8):
        for values in tensor.blocks(BLOCK_BYTES):
            yield to_bytes(values, tensor.dtype, unpacked=unpacked).data
        return
    source, offset, nbytes = span
    buffer = memoryview(bytearray(min(nbytes, BLOCK_BYTES)))
    for start in range(0, nbytes, BLOCK_BYTES):
        block = buffer[: min(BLOCK_BYTES, nbytes - start)]
        try:
            source.read_into(offset + start, block)
        except WtoolError as error:
            raise error.locate(tensor=tensor.name) from error.__cause__
        yield block


def copy_values(
    tensor: Tensor,
    output: Output,
    *,
    checksum: Checksum | None = None,
    initial: int = 0,
    unpacked: bool = False,
) -> int:
    """Append the tensor's bytes to `output`; the checksum of them, `initial` where none is asked.

    checksum(block, value so far) -> value, starting from `initial`: `zlib.crc32` has this form.
    Raises UnsupportedError where the extent gives other than the announced number of bytes.
    """
    value = initial
    start = output.position
    for block in byte_blocks(tensor, unpacked=unpacked):
        if checksum is not None:
            value = checksum(block, value)
        output.write(block)
    expected = stored_size(tensor, unpacked=unpacked)
    if output.position - start != expected:
        raise UnsupportedError(
            "the values take another size than announced",
            tensor=tensor.name,
            expected=f"{expected} bytes",
            found=output.position - start,
        )
    return value


def stored_size(tensor: Tensor, *, unpacked: bool = False) -> int:
    """Bytes that `byte_blocks` gives; a fixed-width type only."""
    bits = max(tensor.dtype.bits, 8) if unpacked else tensor.dtype.bits
    return (tensor.count * bits + 7) // 8
