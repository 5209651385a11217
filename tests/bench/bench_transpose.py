"""Transposing a 4096 x 4096 float32 matrix: wtool beside NumPy and torch, in one process.

python -m tests.bench.bench_transpose
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from tabulate import tabulate

from wtool.kernels import native
from wtool.kernels.transpose import copy_permuted

SIDE = 4096
REPEATS = 9


def seconds_of(contestants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Times of each contestant, which take turns; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(REPEATS + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print gigabytes of tensor per second, the median and the best of each."""
    torch.set_num_threads(1)
    matrix = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    out, other = np.empty_like(matrix), np.empty_like(matrix)
    source, target = torch.from_numpy(matrix), torch.from_numpy(other)
    times = seconds_of(
        {
            "numpy": lambda: np.copyto(other, matrix.T),
            "torch, 1 thread": lambda: target.copy_(source.t()),
            "wtool": lambda: copy_permuted(matrix.T, out, total=native.COMPILE_ALWAYS_FROM),
        }
    )
    assert np.array_equal(out, matrix.T)
    rows = [
        (name, matrix.nbytes / statistics.median(taken) / 1e9, matrix.nbytes / min(taken) / 1e9)
        for name, taken in times.items()
    ]
    sys.stdout.write(f"{SIDE} x {SIDE} float32, GB/s\n")
    sys.stdout.write(tabulate(rows, ("", "median", "best"), floatfmt=".2f") + "\n")


if __name__ == "__main__":
    main()
