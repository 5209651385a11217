"""A sample of the detection corpus: one fault of every kind is found; the whole is a bench."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from planted_faults import kinds
from score_check import score

KINDS = {kind.name: kind for kind in kinds()}


@pytest.mark.parametrize("name", KINDS)
def test_a_fault_of_the_kind_is_found(name):
    planted, missed = score(KINDS[name], each=2, seed=11)
    assert planted == 2
    assert missed == []


def test_the_corpus_has_enough_kinds():
    assert len(KINDS) >= 20
    assert len({kind.code for kind in KINDS.values()}) >= 20


def test_a_fault_that_is_not_there_counts_as_missed():
    """Break it once: a kind that plants nothing must not score."""
    from planted_faults import FIXTURES, Kind

    empty = Kind("nothing", "WT001", lambda m, d, f: (str(FIXTURES / m), None), ("digits-cnn.pth",))
    assert score(empty, each=1, seed=0) == (1, ["digits-cnn.pth None"])
