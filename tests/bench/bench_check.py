"""`wtool check` beside `wtool stats`, as whole processes on the same file: one reading for all.

python tests/bench/bench_check.py [--size full] [--repeats 5] [--folder FOLDER]

Goal: processor time of a check at most 1.5 times that of `stats` for a model that looks trained,
and not much more for one that looks as an initialiser left it, whose weights are judged. Processor
time (user and system) is compared: it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

from make_model import SIZES, make_model
from measure import Measurement, compare, warm
from tabulate import tabulate

# A check that finds something ends with 1, which is no failure.
FINDINGS = "import sys, wtool.cli; sys.exit(0 if wtool.cli.run(sys.argv[1:]) in (0, 1) else 3)"


def bench(path: str, repeats: int) -> list[Measurement]:
    """[stats, check] of one file."""
    warm(path)
    run = [sys.executable, "-c", FINDINGS]
    return compare(
        {"wtool stats": [*run, "stats", path], "wtool check": [*run, "check", path]}, repeats
    )


def main() -> None:
    """Make the files that are missing, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the files are kept (default: a temporary folder)")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float32", "bfloat16"):
            for trained in (True, False):
                path = make_model(chosen.folder or temporary, dtype, chosen.size, trained=trained)
                stats, check = bench(path, chosen.repeats)
                rows.append(
                    (
                        f"{dtype}, looks {'trained' if trained else 'fresh'}",
                        f"{statistics.median(stats.processor):.2f}",
                        f"{statistics.median(check.processor):.2f}",
                        f"{check.processor_ratio(stats):.2f}",
                        f"{stats.median:.2f}",
                        f"{check.median:.2f}",
                        f"{check.peak_bytes / 1e6:.0f}",
                    )
                )
    headers = ("model", "stats CPU s", "check CPU s", "ratio", "stats s", "check s", "peak MB")
    sys.stdout.write(tabulate(rows, headers, disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
