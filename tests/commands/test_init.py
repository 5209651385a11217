"""`wtool init` as a function: rows, totals, the closing line; the same whatever the jobs."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "layers"))

from initialiser_cases import in_memory

from wtool.commands.init import init

COLUMNS = [
    "name",
    "kind",
    "shape",
    "fan_in",
    "fan_out",
    "std",
    "abs_max",
    "verdict",
    "nearest",
    "expected_std",
    "distance",
    "limit",
    "structure",
    "spectrum",
    "reason",
    "sampled",
    "role",
]


def model():
    """A trained-looking layer, a fresh head, a norm as it starts, and a buffer."""
    draw = np.random.default_rng(3)
    trained = draw.standard_normal((64, 100)) * np.linspace(0.2, 3, 64)[:, None]
    return in_memory(
        {
            "body.weight": trained.astype(np.float32),
            "body.bias": draw.standard_normal(64).astype(np.float32),
            "norm.weight": np.ones(64, np.float32),
            "norm.bias": np.zeros(64, np.float32),
            "norm.running_mean": np.zeros(64, np.float32),
            "norm.running_var": np.ones(64, np.float32),
            "head.weight": (draw.standard_normal((32, 64)) * 0.02).astype(np.float32),
            "head.bias": np.zeros(32, np.float32),
        },
        "torch zip",
    )


def test_every_weight_and_bias_has_a_row_and_a_verdict():
    report = init(model())
    assert [column.name for column in report.columns] == COLUMNS
    assert {row["name"]: row["verdict"] for row in report.rows} == {
        "body.weight": "trained",
        "body.bias": "trained",
        "norm.weight": "fresh: ones",
        "norm.bias": "fresh: zeros",
        "head.weight": "fresh: normal_0.02",
        "head.bias": "fresh: zeros",
    }
    assert report.totals == {
        "tensors": 6,
        "fresh": 4,
        "trained": 2,
        "constant": 0,
        "undecided": 0,
    }
    assert report.ok


def test_numbers_are_those_of_the_values():
    checkpoint = model()
    head = next(row for row in init(checkpoint).rows if row["name"] == "head.weight")
    values = checkpoint["head.weight"].load().astype(np.float64)
    assert (head["fan_in"], head["fan_out"], head["shape"]) == (64, 32, [32, 64])
    assert head["std"] == values.std()
    assert head["abs_max"] == np.abs(values).max()
    assert (head["expected_std"], head["kind"], head["sampled"]) == (0.02, "dense", 2048)
    assert 0 < head["distance"] < head["limit"]


def test_the_closing_line_names_what_looks_fresh():
    footer = init(model()).footer
    assert footer == [
        "4 of 6 weights and biases cannot be told from fresh ones: "
        "norm.weight, norm.bias, head.weight, head.bias"
    ]


def test_fresh_keeps_only_what_looks_fresh():
    report = init(model(), fresh=True)
    assert [row["name"] for row in report.rows] == [
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    ]
    assert report.totals["tensors"] == 6


def test_rows_do_not_depend_on_jobs():
    checkpoint = model()
    assert init(checkpoint, jobs=1).rows == init(checkpoint, jobs=4).rows


def test_progress_ends_at_the_whole():
    seen = []
    checkpoint = model()
    init(checkpoint, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (seen[-1][1], seen[-1][1])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
