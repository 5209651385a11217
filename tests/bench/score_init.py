"""Score of `wtool init`: schemes x shapes x both frameworks' own initialisers, and trained models.

    python tests/bench/score_init.py [--seeds 3] [--first-seed 0] [--fast]

Prints one line per scheme: fresh tensors of 512 values or more, how many were named right, how many
with no other name beside; then the trained tensors of every model and fixture, and how many are
called fresh. Models after a single epoch have barely left their start and are summed up apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "layers"))

from initialiser_cases import keras_cases, names_of, torch_cases
from trained_models import trained_checkpoints

import wtool
from wtool.checkpoint import Checkpoint
from wtool.layers.initialisation import judge
from wtool.layers.survey import judge_all

MIN_VALUES = 512
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TRAINED_FIXTURES = (
    "digits-cnn.pth",
    "digits-cnn.keras",
    "digits-cnn-tf1",
    "digits-cnn-bf16.safetensors",
    "topics-rnn.pth",
    "topics-rnn.keras",
    "digits-transformer.pth",
    "digits-transformer.keras",
)


def score_fresh(seeds: range, dtypes: tuple[str, ...]) -> tuple[int, int]:
    """Print the table of fresh tensors; returns (named right, all)."""
    table: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for dtype in dtypes:
        for cases in (torch_cases, keras_cases):
            for case in cases(seeds, dtype):
                if case.tensor.count < MIN_VALUES and case.scheme != "unit_forget_bias":
                    continue
                judgement = judge(case.tensor, case.checkpoint)
                names = names_of(judgement.verdict)
                entry = table[case.framework, case.scheme, dtype]
                entry[0] += 1
                entry[1] += case.scheme in names
                entry[2] += names == {case.scheme}
                if case.scheme not in names:
                    say(
                        f"  missed: {dtype} {case.framework} {case.scheme} {case.tensor.shape}: "
                        f"{judgement.verdict}, {judgement.reason}"
                    )
    say(f"{'framework':10}{'scheme':26}{'dtype':10}{'fresh':>7}{'right':>7}{'alone':>7}")
    for (framework, scheme, dtype), (total, right, alone) in sorted(table.items()):
        say(f"{framework:10}{scheme:26}{dtype:10}{total:7}{right:7}{alone:7}")
    total = sum(entry[0] for entry in table.values())
    right = sum(entry[1] for entry in table.values())
    alone = sum(entry[2] for entry in table.values())
    say(f"named right: {right} of {total} = {right / total:.2%}; alone {alone / total:.2%}")
    return right, total


def trained_models(fast: bool, seed: int) -> Iterator[tuple[str, Checkpoint]]:
    """Models trained here, then every trained fixture in one container per framework."""
    yield from trained_checkpoints(fast=fast, seed=seed)
    for name in TRAINED_FIXTURES:
        yield f"fixtures/{name}", wtool.open(FIXTURES / name)


def score_trained(fast: bool, seed: int) -> tuple[int, int]:
    """Print the table of trained tensors; returns (called fresh, all)."""
    say(f"{'model':46}{'tensors':>8}{'trained':>8}{'undec.':>8}{'const.':>8}{'fresh':>8}")
    sums = {"after one epoch": [0, 0], "trained longer": [0, 0]}
    for name, checkpoint in trained_models(fast, seed):
        counts: dict[str, int] = defaultdict(int)
        called = []
        for tensor, judgement in judge_all(checkpoint):
            counts[judgement.verdict.partition(":")[0]] += 1
            if judgement.is_fresh:
                called.append(f" {tensor.name} {judgement.verdict}")
        size = sum(counts.values())
        kinds = (counts["trained"], counts["undecided"], counts["constant"], counts["fresh"])
        say(f"{name:46}{size:8}" + "".join(f"{kind:8}" for kind in kinds) + ",".join(called))
        entry = sums["after one epoch" if name.endswith(" x1") else "trained longer"]
        entry[0] += counts["fresh"]
        entry[1] += size
    for group, (fresh, size) in sums.items():
        say(f"{group}: {fresh} of {size} called fresh = {fresh / max(size, 1):.2%}")
    fresh, size = (sum(entry[i] for entry in sums.values()) for i in (0, 1))
    say(f"trained called fresh: {fresh} of {size} = {fresh / size:.2%}")
    return fresh, size


def say(line: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run both scores; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="others than the rules were set on"
    )
    parser.add_argument("--fast", action="store_true", help="one seed, few models")
    options = parser.parse_args()
    dtypes = ("float32",) if options.fast else ("float32", "bfloat16", "float16")
    first = options.first_seed
    seeds = range(first, first + (1 if options.fast else options.seeds))
    right, all_fresh = score_fresh(seeds, dtypes)
    fresh, all_trained = score_trained(options.fast, first + 1)
    return int(right < 0.99 * all_fresh or fresh > 0.01 * all_trained)


if __name__ == "__main__":
    sys.exit(main())
