"""`wtool convert` and `wtool cast` beside load-all-then-save, as whole processes; `cp` beside them.

python tests/bench/bench_convert.py [--size full] [--repeats 3] [--folder FOLDER] [--no-large]

Goals, file in the page cache: .pth to .safetensors 3 times faster than torch.load + save_file and
within 1.3 times of `cp`; float32 to float16 2.5 times faster than the torch script; peak memory
below 150 MB, with one tensor of 2 GB too. Like wtool, `cp` writes a new file; unlike it, it does
not sync: `cp + sync` says what the disk allows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from make_model import SIZES, make_model
from measure import compare, run_once, table, warm

SAVE = """
import sys, torch
from safetensors.torch import save_file
save_file(torch.load(sys.argv[1], map_location="cpu", weights_only=True), sys.argv[2])
"""
HALF = """
import sys, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
torch.save({name: tensor.half() for name, tensor in state.items()}, sys.argv[2])
"""
LARGE = """
import sys, torch
torch.save({"x": torch.randn(1 << 29, generator=torch.Generator().manual_seed(1))}, sys.argv[1])
"""


def wtool(*arguments: str) -> list[str]:
    """A wtool command line."""
    return [sys.executable, "-m", "wtool.cli", *arguments, "--force"]


def bench_convert(path: str, folder: str, repeats: int) -> str:
    """The table for .pth to .safetensors."""
    warm(path)
    target = os.path.join(folder, "converted.safetensors")
    peer, *others = compare(
        {
            "torch.load + save_file": [sys.executable, "-c", SAVE, path, target],
            "wtool convert": wtool("convert", path, target),
            "cp": ["cp", path, target],
            "cp + sync": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', path, target],
        },
        repeats,
    )
    os.remove(target)
    return table(f"{os.path.basename(path)} to safetensors", peer, others)


def bench_cast(path: str, folder: str, repeats: int) -> str:
    """The table for float32 to float16."""
    warm(path)
    target = os.path.join(folder, "cast.pth")
    peer, *others = compare(
        {
            "torch script": [sys.executable, "-c", HALF, path, target],
            "wtool cast": wtool("cast", path, target, "--to", "float16"),
            "cp": ["cp", path, target],
        },
        repeats,
    )
    os.remove(target)
    return table(f"{os.path.basename(path)} to float16", peer, others)


def bench_large(folder: str) -> str:
    """Peak memory with one tensor of 2 GB."""
    path = os.path.join(folder, "one-tensor.pth")
    if not os.path.exists(path):
        subprocess.run([sys.executable, "-c", LARGE, path], check=True)
    target = os.path.join(folder, "large.safetensors")
    lines = []
    for arguments in (("convert", path, target), ("cast", path, target, "--to", "bfloat16")):
        seconds, peak, _ = run_once(wtool(*arguments))
        lines.append(f"one tensor of 2 GB, {arguments[0]}: {seconds:.1f} s, {peak / 1e6:.0f} MB\n")
    os.remove(target)
    return "".join(lines)


def main() -> None:
    """Make the files that are missing, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the files are kept (default: a temporary folder)")
    parser.add_argument("--no-large", action="store_true", help="leave out the tensor of 2 GB")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or temporary
        path = make_model(folder, "float32", chosen.size)
        sys.stdout.write(bench_convert(path, folder, chosen.repeats) + "\n")
        sys.stdout.write(bench_cast(path, folder, chosen.repeats) + "\n")
        if not chosen.no_large:
            sys.stdout.write(bench_large(folder))


if __name__ == "__main__":
    main()
