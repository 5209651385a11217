"""No damage to a file ends in a crash, a hang or much memory: seeded mutations of every fixture.

Each format runs in a process of its own (see `mutation_runner.py`), so that a crash of a C library
or a limit that is reached is seen as what it is. A failure prints the number of the mutation.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import KINDS, mutated

from wtool.formats import formats

RUNNER = Path(__file__).parent / "mutation_runner.py"
COUNT = 2000
SEED = 1
SECONDS = 400


@pytest.mark.parametrize("name", sorted(entry.name for entry in formats()))
def test_a_damaged_file_is_refused_or_read_and_never_crashes(name):
    command = [sys.executable, "-X", "faulthandler", str(RUNNER), name, str(COUNT), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert not answer["failures"], "\n".join(answer["failures"])
    assert answer["refused"] + answer["survived"] == COUNT
    # Damage that is never refused is no damage: the mutations reach what is checked.
    assert answer["refused"] > COUNT // 10


def test_mutations_are_the_same_for_the_same_seed():
    data = bytes(range(256)) * 4
    first = [mutated(data, random.Random(seed), [data]) for seed in range(200)]
    second = [mutated(data, random.Random(seed), [data]) for seed in range(200)]
    assert first == second
    assert len(set(first)) > 190


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_stands_any_length(kind):
    for size in (0, 1, 7, 100):
        for seed in range(50):
            data = bytearray(size)
            kind(data, random.Random(seed), [bytes(size), b""])
