"""Score of `wtool map` without presets and without values, on pairs whose mapping is proven.

    python tests/bench/score_map.py [--all]

Prints one line per pair and order of tensors: of all tensors of the PyTorch side, how many are
matched `certain` right and wrong, `ordered` right and wrong, and how many are `ambiguous`. "sorted"
is the order in which safetensors files and TensorFlow's index keep names: an order that says
nothing. Exit code 1 where a certain match is wrong. See map_pairs for the pairs and the truth.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversion"))

from map_pairs import (
    FIRST_PAIRS,
    PAIRS,
    Pair,
    applications,
    hugging_face,
    tensorflow_1,
    trained,
)

from wtool.conversion.drafts import propose, rows

COLUMNS = ("certain right", "certain wrong", "ordered right", "ordered wrong", "ambiguous")


def score(pair: Pair) -> Counter[str]:
    """Tensors of side a by COLUMNS."""
    counts: Counter[str] = Counter()
    for row in rows(propose(pair.a, pair.b, values=False)):
        names = [name for name in (row.get("a") or "").split(", ") if name in pair.truth]
        found = frozenset((row.get("b") or "").split(", "))
        for name in names:
            right = pair.truth[name] == found
            grade = row["grade"]
            verdict = "" if grade == "ambiguous" else " right" if right else " wrong"
            counts[grade + verdict] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="all sizes of each family")
    names = tuple(PAIRS) if parser.parse_args().all else FIRST_PAIRS
    say(f"{'pair':36} {'order':8} {'tensors':>8}  " + "  ".join(f"{c:>13}" for c in COLUMNS))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        for pair in itertools.chain(
            applications(names), hugging_face(files), tensorflow_1(files), trained()
        ):
            for order, ordered in (("defined", pair), ("sorted", pair.sorted())):
                counts = score(ordered)
                wrong += counts["certain wrong"]
                numbers = "  ".join(f"{counts[c]:>13}" for c in COLUMNS)
                say(f"{pair.name:36} {order:8} {counts.total():>8}  {numbers}")
    return 1 if wrong else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
