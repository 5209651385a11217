"""Whole registers for `transpose_loops`: what numba has no words for, as LLVM's own instructions.

Importing this imports numba: only `transpose_loops.make_loop` does, when a loop is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wtool.kernels.transpose_loops import LINE_BYTES

# Bits of a register: a line of the cache. LLVM splits them where registers are smaller.
LINE_BITS = 8 * LINE_BYTES
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def make_tile(bits: int, *, streamed: bool = False) -> Callable[..., int]:
    """transpose_tile(source, at, step, out, out_at, out_step) for elements of so many bits.

    A tile has as many rows and columns as elements fit a line. Its rows begin `step` elements
    apart, at source[at]; its columns are stored as rows in the same way. streamed: see make_stream.
    """
    size = LINE_BITS // bits

    @intrinsic
    def transpose_tile(
        _: Any, source: Any, at: Any, step: Any, out: Any, out_at: Any, out_step: Any
    ) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, at, step, out, out_at, out_step = arguments
            rows = [_load(builder, source, _row(builder, at, step, k), bits) for k in range(size)]
            distance = 1
            while distance < size:
                _swap_blocks(builder, rows, distance)
                distance *= 2
            for k, row in enumerate(rows):
                place = _row(builder, out_at, out_step, k)
                _store(builder, row, out, place, bits, streamed=streamed)
            return _INT64(0)

        numbers = (types.int64, types.int64)
        return types.int64(source, *numbers, out, *numbers), generate

    return transpose_tile


def make_stream(bits: int) -> Callable[..., int]:
    """stream_line(source, at, out, out_at): one line to an address that 64 divides, past the cache.

    A line that is stored otherwise is first read from memory, though nothing of it is kept.
    """

    @intrinsic
    def stream_line(_: Any, source: Any, at: Any, out: Any, out_at: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, at, out, out_at = arguments
            line = _load(builder, source, at, bits)
            _store(builder, line, out, out_at, bits, streamed=True)
            return _INT64(0)

        return types.int64(source, types.int64, out, types.int64), generate

    return stream_line


@intrinsic
def end_stream(_: Any) -> Any:
    """Every line that was streamed is seen by the other processors before anything that follows."""

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return _INT64(0)

    return types.int64(), generate


def _row(builder: Any, at: Any, step: Any, k: int) -> Any:
    return builder.add(at, builder.mul(step, _INT64(k)))


def _address(builder: Any, pointer: Any, at: Any, bits: int) -> Any:
    line = ir.VectorType(ir.IntType(bits), LINE_BITS // bits)
    return builder.bitcast(builder.gep(pointer, [at]), ir.PointerType(line))


def _load(builder: Any, pointer: Any, at: Any, bits: int) -> Any:
    return builder.load(_address(builder, pointer, at, bits), align=bits // 8)


def _store(
    builder: Any, line: Any, pointer: Any, at: Any, bits: int, *, streamed: bool = False
) -> None:
    align = LINE_BYTES if streamed else bits // 8
    stored = builder.store(line, _address(builder, pointer, at, bits), align=align)
    if streamed:
        stored.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))


def _swap_blocks(builder: Any, rows: list[Any], distance: int) -> None:
    """One step of a transposition: of each pair of 2 x 2 blocks, the two off the diagonal change.

    Rows and columns whose numbers differ in the bit `distance` form the blocks; after the step of
    each bit, element (i, j) is where (j, i) was.
    """
    size = len(rows)
    kept = ir.VectorType(_INT32, size)
    first = kept([k if not k & distance else size + k - distance for k in range(size)])
    second = kept([k + distance if not k & distance else size + k for k in range(size)])
    for low in range(size):
        if not low & distance:
            pair = rows[low], rows[low | distance]
            rows[low] = builder.shuffle_vector(*pair, first)
            rows[low | distance] = builder.shuffle_vector(*pair, second)
