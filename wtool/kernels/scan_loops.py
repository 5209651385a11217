"""Loops that read a file themselves: a stretch of values, a piece at a time, measured while near.

Between one piece and the next nothing asks for the interpreter's lock, so threads do not wait for
each other. A read that fails or ends early ends the loop before that piece: the caller reads it
again in Python, which says why. Only where the system has `pread`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wtool.kernels import loops

# The function of the C library that they call.
READ = "pread"
# Sums that scan_floats gives for each block: its centre, and what fold_lanes gives for five rows.
TOTALS = 11


def make_scan_codes() -> Callable[..., int]:
    """The loop that counts the codes of a stretch. Imports numba."""
    read, count = _reader(), _compiled(loops.count_halves)

    def scan_codes(
        file: int,
        offset: int,
        nbytes: int,
        piece: int,
        memory: Any,
        words: Any,
        table: Any,
        end: Any,
    ) -> int:
        """`count_halves` of `nbytes` from byte `offset` of a file; 8 divides nbytes and piece.

        piece: bytes that are read at once into `memory`, which `words` is too. end: (1,) int64 out:
        how many bytes were counted.
        """
        done = 0
        while done < nbytes:
            size = min(piece, nbytes - done)
            if read(file, memory, size, offset + done) != size:
                break
            count(words, size // 8, table)
            done += size
        end[0] = done
        return 0

    return scan_codes


def make_scan_floats() -> Callable[..., int]:
    """The loop that measures blocks of float32. Imports numba."""
    read, fold = _reader(), _compiled(loops.fold_lanes)
    measure, count = _compiled(loops.measure_values), _compiled(loops.count_upper_halves)

    def scan_floats(
        file: int,
        offset: int,
        n: int,
        block: int,
        piece: int,
        counting: int,
        memory: Any,
        values: Any,
        bits: Any,
        words: Any,
        table: Any,
        found: Any,
        lanes: Any,
        centre: Any,
        sums: Any,
        all_found: Any,
        all_sums: Any,
        end: Any,
    ) -> int:
        """`measure_values` and `fold_lanes` of each block of (n,) float32 from a byte of a file on.

        block, piece: values of a block, and of what is read at once into `memory`, which `values`,
        `bits` and `words` are too; loops.CHUNK divides both. counting: 1 to give pieces to
        `count_upper_halves` too. all_found, all_sums: (blocks, 4) int64 and (blocks, TOTALS)
        float64 out. end: (1,) int64 out: how many values were measured; where these end in a
        block, the rest of the arguments is as `measure_values` left it.
        """
        done = 0
        number = 0
        while done < n:
            last = min(n, done + block)
            going = 0
            while done < last:
                size = min(piece, last - done)
                if read(file, memory, 4 * size, offset + 4 * done) != 4 * size:
                    end[0] = done
                    return 0
                measure(values, bits, size, going, found, lanes, centre)
                if counting:
                    count(words, size // 2, table)
                    if size % 2:
                        table[np.uint64(np.uint32(bits[size - 1])) >> np.uint64(16)] += np.uint32(1)
                going = 1
                done += size
            fold(lanes, 5, sums)
            for i in range(4):
                all_found[4 * number + i] = found[i]
            all_sums[TOTALS * number] = centre[0]
            for i in range(TOTALS - 1):
                all_sums[TOTALS * number + 1 + i] = sums[i]
            number += 1
        end[0] = done
        return 0

    return scan_floats


def _compiled(loop: Callable[..., int]) -> Any:
    """A loop that others call."""
    from numba import njit

    return njit(loop, error_model="numpy")


def _reader() -> Any:
    """read(file, memory, nbytes, offset): how many bytes were read; fewer only at the end."""
    from numba import njit, types

    pread: Any = types.ExternalFunction(
        READ,
        types.int64(types.int32, types.CPointer(types.uint8), types.int64, types.int64),
    )

    def read_all(file: int, memory: Any, nbytes: int, offset: int) -> int:
        return pread(file, memory, nbytes, offset)

    return njit(read_all, error_model="numpy")
