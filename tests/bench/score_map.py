"""Score of `wtool map` without presets and without values, on pairs whose mapping is proven.

    python tests/bench/score_map.py [--all]

Prints one line per pair and order of tensors: of all tensors of the PyTorch side, how many are
matched `certain` right and wrong, `ordered` right and wrong, and how many are `ambiguous`. The
truth is the preset, which other tests prove by running both models. "sorted" is the order in which
safetensors files and TensorFlow's index keep names: an order that says nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversion"))

from model_zoo import FIRST_PAIRS, PAIRS, keras_rows, make_checkpoint, torch_rows

from wtool.checkpoint import Checkpoint
from wtool.conversion.drafts import propose, rows
from wtool.conversion.presets import find_preset, preset_rows

COLUMNS = ("certain right", "certain wrong", "ordered right", "ordered wrong", "ambiguous")


def truth_of(a: Checkpoint, b: Checkpoint) -> dict[str, str]:
    """Tensors of side a -> tensors of side b, as the preset pairs them."""
    preset = find_preset(a, b)
    if preset is None:
        raise SystemExit("no preset covers the pair: the score needs one for the truth")
    found = preset_rows(preset, a, b)
    return {row["a"]: row["b"] for row in found if row.get("a") and row.get("b")}


def score(a: Checkpoint, b: Checkpoint) -> Counter[str]:
    """Tensors of side a by COLUMNS."""
    truth = truth_of(a, b)
    counts: Counter[str] = Counter()
    for row in rows(propose(a, b, values=False)):
        source = row.get("a")
        if source is None or source not in truth:
            continue
        if row["grade"] == "ambiguous":
            counts["ambiguous"] += 1
        else:
            right = truth[source] == row.get("b")
            counts[f"{row['grade']} {'right' if right else 'wrong'}"] += 1
    return counts


def load_pair(name: str, names: tuple[str, ...], *, ordered: bool) -> tuple[Checkpoint, Checkpoint]:
    """Both sides of a pair; `names`: all pairs that are asked for, built at once."""
    source = torch_rows(names)[name]
    target = keras_rows(tuple(PAIRS[n] for n in names))[PAIRS[name]]
    if ordered:
        return make_checkpoint(source, "torch-zip"), make_checkpoint(target, "keras_weights_h5")
    return (
        make_checkpoint(sorted(source), "safetensors"),
        make_checkpoint(sorted(target), "tensorflow"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="all sizes of each family")
    names = tuple(PAIRS) if parser.parse_args().all else FIRST_PAIRS
    say(f"{'pair':20} {'order':8} {'tensors':>8}  " + "  ".join(f"{c:>13}" for c in COLUMNS))
    for name in names:
        for order in ("defined", "sorted"):
            counts = score(*load_pair(name, names, ordered=order == "defined"))
            numbers = "  ".join(f"{counts[c]:>13}" for c in COLUMNS)
            say(f"{name:20} {order:8} {counts.total():>8}  {numbers}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
