"""`wtool stats` beside the obvious torch script, as whole processes on the same file.

python tests/bench/bench_stats.py [--size full] [--repeats 5] [--folder FOLDER]

Goals, file in the page cache: 20 times faster in float32, 30 times in bfloat16 and float16 with
quantiles; peak memory below 200 MB; a file of ResNet-50's size in less than 0.5 s; the kernel on
one core at least 0.6 of one preadv + max pass over the same bytes. Then a file of 100,000 tensors,
where what each costs beside its values counts.

The floors say what is left for wtool to do better: any Python process that imports NumPy and reads
the file, and one that imports click and llvmlite too, as a command line with compiled loops must.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time

from bench_ls import many_tensors
from make_model import DTYPES, SIZES, make_model
from measure import compare, table, warm

PEER = """
import sys, torch
for name, t in torch.load(sys.argv[1], map_location="cpu", weights_only=True).items():
    print(name, t.mean().item(), t.std(unbiased=False).item(), t.min().item(), t.max().item(),
          t.norm().item(), (t == 0).sum().item(), torch.isfinite(t).all().item())
"""


# What no implementation on NumPy is below: start, import, and read all bytes on all cores.
FLOOR = """
import os, sys, threading, numpy
path, step, jobs = sys.argv[1], 1 << 20, os.cpu_count() or 1
def read(first):
    buffer = numpy.empty(step, numpy.uint8)
    descriptor = os.open(path, os.O_RDONLY)
    for offset in range(first * step, os.fstat(descriptor).st_size, jobs * step):
        os.preadv(descriptor, [buffer.data], offset)
threads = [threading.Thread(target=read, args=(first,)) for first in range(jobs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
# What a command line with compiled loops imports beside it.
IMPORTS = "import click, llvmlite.binding"


def bench_processes(path: str, repeats: int) -> str:
    """The table of whole processes on one file, with the floor of any Python process beside it."""
    wtool = [sys.executable, "-m", "wtool.cli", "stats", path]
    warm(path)
    peer, *ours = compare(
        {
            "torch script": [sys.executable, "-c", PEER, path],
            "wtool stats": wtool,
            "wtool stats --no-quantiles": [*wtool, "--no-quantiles"],
            "floor: import numpy, read": [sys.executable, "-c", FLOOR, path],
            "floor: click, llvmlite too": [sys.executable, "-c", IMPORTS + FLOOR, path],
        },
        repeats,
    )
    return table(os.path.basename(path), peer, ours)


def bench_kernel(path: str, repeats: int) -> str:
    """Throughput on one core: reading and measuring, beside reading and one vectorised `max`."""
    import numpy as np

    import wtool
    from wtool.kernels.measure import measure

    tensors = list(wtool.open(path))
    nbytes = sum(tensor.nbytes for tensor in tensors)
    buffer = np.empty(1 << 20, np.uint8)
    measuring, passing = [], []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in measure(tensors, quantiles=False, jobs=1):
            pass
        measuring.append(time.perf_counter() - start)
        start = time.perf_counter()
        descriptor = os.open(path, os.O_RDONLY)
        for offset in range(0, nbytes, len(buffer)):
            os.preadv(descriptor, [buffer.data], offset)
            buffer.view(np.int32).max()
        os.close(descriptor)
        passing.append(time.perf_counter() - start)
    ours, peer = (nbytes / min(times[1:]) / 1e9 for times in (measuring, passing))
    return (
        f"one core, {os.path.basename(path)}: measures {ours:.1f} GB/s, preadv + max "
        f"{peer:.1f} GB/s, ratio {ours / peer:.2f}\n"
    )


def main() -> None:
    """Make the files that are missing, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the files are kept (default: a temporary folder)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or temporary
        for dtype in DTYPES:
            path = make_model(folder, dtype, chosen.size)
            sys.stdout.write(bench_processes(path, chosen.repeats) + "\n")
        path = make_model(folder, "float32", "resnet")
        sys.stdout.write(bench_processes(path, chosen.repeats) + "\n")
        path = many_tensors(folder)["torch"]
        sys.stdout.write(bench_processes(path, min(3, chosen.repeats)) + "\n")
        path = make_model(folder, "float32", chosen.size)
        sys.stdout.write(bench_kernel(path, chosen.repeats))


if __name__ == "__main__":
    main()
