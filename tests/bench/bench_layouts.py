"""Peak memory of `wtool convert --map` with one tensor of 2 GB that must be transposed.

python tests/bench/bench_layouts.py [--folder FOLDER] [--rows 22627]

Goal: within the tensor plus 200 MB. Each case is a process of its own; the peak is its VmHWM, which
unlike ru_maxrss does not count what the parent held. What was written is compared with the source,
place by place, outside the measured process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from tabulate import tabulate

ROWS = 22_627  # 22,627 squared in float32 is 2.05 GB
PLACES = 10_000
MAPPING = """[mapping]
name = "bench"
a = {{ framework = "torch" }}
b = {{ framework = "keras" }}
[[layer]]
kind = "{kind}"
a = "x"
b = "x"
{options}"""
RUN = """
import re, sys
from wtool.cli import run
code = run(sys.argv[1:])
status = open("/proc/self/status").read()
sys.stderr.write("VmHWM " + re.search(r"VmHWM:\\s+(\\d+) kB", status).group(1))
sys.exit(code)
"""


def cases(rows: int) -> dict[str, tuple[str, tuple[int, ...], str, tuple[int, ...]]]:
    """Name -> (kind, PyTorch's shape, options, the axis of PyTorch's that each of Keras's is)."""
    narrow = rows * rows // (2048 * 9)
    return {
        "linear": ("linear", (rows, rows), "", (1, 0)),
        "conv 3 x 3": ("conv", (2048, narrow, 3, 3), "", (2, 3, 1, 0)),
    }


def write_source(path: str, shape: tuple[int, ...]) -> int:
    """A safetensors file with the one tensor `x.weight` of random float32; offset of its values."""
    nbytes = 4 * int(np.prod(shape))
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, nbytes]}
    head = json.dumps({"x.weight": entry}).encode()
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        left = nbytes // 4
        while left:
            block = random.random(min(left, 1 << 22), np.float32)
            file.write(block)
            left -= block.size
    return 8 + len(head)


def measure(arguments: list[str]) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, peak bytes) of one command; RuntimeError where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    talk = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(talk)
    peak = int(talk.rpartition("VmHWM ")[2]) * 1024
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak


def equal_places(
    source: np.memmap, target: np.memmap, order: tuple[int, ...], count: int = PLACES
) -> bool:
    """Whether `count` random places of the target hold what the source has there."""
    random = np.random.default_rng(1)
    places = tuple(random.integers(0, size, count) for size in source.shape)
    return bool(np.array_equal(source[places], target[tuple(places[axis] for axis in order)]))


def main() -> None:
    """Make each source, convert it, compare, print, delete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the files are, twice the tensor (default: /tmp)")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the square matrix")
    chosen = parser.parse_args()
    rows = []
    for name, (kind, shape, options, order) in cases(chosen.rows).items():
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            a, b, mapping = (
                os.path.join(folder, n) for n in ("a.safetensors", "b.safetensors", "m.toml")
            )
            offset = write_source(a, shape)
            with open(mapping, "w") as file:
                file.write(MAPPING.format(kind=kind, options=options))
            wall, cpu, peak = measure(["convert", a, b, "--map", mapping])
            with open(b, "rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little")
            source = np.memmap(a, "f4", "r", offset, shape)
            target = np.memmap(b, "f4", "r", start, tuple(shape[axis] for axis in order))
            if not equal_places(source, target, order):
                raise RuntimeError(f"{name}: other values")
            nbytes = source.nbytes
            del source, target
        rows.append((name, nbytes / 1e6, peak / 1e6, (peak - nbytes) / 1e6, wall, cpu))
    headers = ("", "tensor MB", "peak MB", "above the tensor MB", "wall s", "CPU s")
    sys.stdout.write(
        tabulate(rows, headers, floatfmt=("", ".0f", ".0f", ".0f", ".1f", ".1f")) + "\n"
    )


if __name__ == "__main__":
    main()
