"""What is refused from PyTorch to Keras is refused from Keras to PyTorch, and named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layer_cases import HEAD, layer

import wtool
from wtool.cli import run
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.verification import convert_layouts

BN = {f"bn/{leaf}": np.full(4, n + 1, "f") for n, leaf in enumerate(("gamma", "beta"))} | {
    f"bn/moving_{leaf}": np.full(4, n + 3, "f") for n, leaf in enumerate(("mean", "variance"))
}
TIE = '[[tied]]\nside = "b"\nname = "head/embeddings"\nsame_as = "emb/embeddings"\n'
TABLE = np.arange(12, dtype="f").reshape(4, 3)


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key != name}


STOPPED = {
    "a missing statistic": (
        without(BN, "bn/moving_variance"), layer("batchnorm", "bn", "bn"),
        "lacks 'bn/moving_variance' beside it",
    ),
    "an extra tensor": (
        {**BN, "x/kernel": TABLE}, layer("batchnorm", "bn", "bn"), "'x/kernel' has no rule",
    ),
    "a broken tie": (
        {"emb/embeddings": TABLE, "head/embeddings": TABLE + 1},
        layer("embedding", "emb", "emb") + TIE,
        "'head/embeddings' is not equal to 'emb/embeddings'",
    ),
    "a bias of another length": (
        {"fc/kernel": TABLE, "fc/bias": np.ones(4, "f")}, layer("linear", "fc", "fc"),
        "does not look like linear: axis 0 of [3, 4]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPPED)
def test_what_stops_one_way_stops_the_other(case, tmp_path):
    arrays, text, problem = STOPPED[case]
    np.savez(tmp_path / "k.npz", **arrays)
    rules = parse_mapping(HEAD.format(framework="keras") + text)
    outcome = convert_layouts(wtool.open(tmp_path / "k.npz"), rules, to="a")
    found = [str(item) for item in outcome.open]
    assert any(problem in item for item in found), found


def test_siblings_of_one_shape_under_other_names_are_refused(tmp_path, capsys):
    kernel = np.zeros((1, 1, 3, 4), "f")
    np.savez(tmp_path / "k.npz", **{"first/kernel": kernel, "second/kernel": kernel})
    torch.save(
        {"a.weight": torch.zeros(4, 3, 1, 1), "b.weight": torch.zeros(4, 3, 1, 1)},
        tmp_path / "t.pth",
    )
    k, t, out = (str(tmp_path / name) for name in ("k.npz", "t.pth", "out.pth"))
    assert run(["convert", k, out, "--to", "torch", "--like", t]) == 4
    assert "no module of that name" in capsys.readouterr().err
