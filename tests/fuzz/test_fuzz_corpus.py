"""Every input that fuzzing found, and every seed, ends in order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from targets import CORPUS, TARGETS, ends_in_order


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_and_every_finding_ends_in_order(name):
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds, "the fixtures hold no seed for this target"
    folder = CORPUS / name
    found = [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []
    for data in [*seeds, *found, b""]:
        ends_in_order(target, data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_cut_short_ends_in_order(name):
    target = TARGETS[name]
    for data in target.seeds():
        for length in range(0, len(data), max(1, len(data) // 50)):
            ends_in_order(target, data[:length])
