"""Every layer of the table: both real models give the same outputs, in both directions."""

from __future__ import annotations

import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tf_keras
import torch
from layer_cases import (
    CASES,
    HEAD,
    Case,
    build_keras,
    error,
    inputs_of,
    randomise,
    run_keras,
    run_torch,
)
from recurrent_cases import RECURRENT_CASES

import wtool
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.verification import convert_layouts
from wtool.errors import UnsupportedError
from wtool.writers import save

TOLERANCE = 1e-5
ALL_CASES = (*CASES, *RECURRENT_CASES)
KERAS = {"keras": keras, "tf_keras": tf_keras}
SUFFIX = {"keras": ".weights.h5", "tf_keras": ".h5"}


def mapping_of(case: Case, framework: str):
    return parse_mapping(HEAD.format(framework=framework) + case.mapping)


def pairs():
    for framework in KERAS:
        for case in ALL_CASES:
            if framework == "keras" or not case.keras3_only:
                yield pytest.param(case, framework, id=f"{framework}-{case.name}")


@pytest.mark.parametrize(("case", "framework"), pairs())
def test_both_models_compute_the_same_in_both_directions(case, framework, tmp_path):
    mapping = mapping_of(case, framework)
    module = randomise(case.torch_model())
    model = build_keras(KERAS[framework], case)
    inputs = inputs_of(case)
    torch.save(module.state_dict(), tmp_path / "torch.pth")
    fresh = tmp_path / f"fresh{SUFFIX[framework]}"
    model.save_weights(fresh)
    expected_back = run_keras(model, case, inputs)
    source = wtool.open(tmp_path / "torch.pth")

    outcome = convert_layouts(source, mapping, to="b", template=wtool.open(fresh))
    converted = tmp_path / f"converted{SUFFIX[framework]}"
    save(outcome.checkpoint(), converted, template=fresh)
    model.load_weights(converted)
    expected = run_torch(module, case, inputs)
    assert error(run_keras(model, case, inputs), expected) < TOLERANCE
    assert_every_tensor_counts(model, case, inputs, expected)
    assert set(outcome.lossy) == set(case.lossy) or not case.back

    if not case.back:
        back = convert_layouts(wtool.open(fresh), mapping, to="a")
        with pytest.raises(UnsupportedError, match="no way back"):
            back.checkpoint()
        return
    # Back again: bit-equal, but for what is declared.
    again = convert_layouts(wtool.open(converted), mapping, to="a", template=source)
    save(again.checkpoint(), tmp_path / "again.pth")
    state = torch.load(tmp_path / "again.pth", weights_only=True)
    for name, tensor in module.state_dict().items():
        assert name in case.lossy or torch.equal(state[name], tensor), name
    # And the Keras model's own weights to PyTorch.
    there = convert_layouts(wtool.open(fresh), mapping, to="a", template=source)
    save(there.checkpoint(), tmp_path / "there.pth")
    module.load_state_dict(torch.load(tmp_path / "there.pth", weights_only=True), strict=True)
    assert error(run_torch(module, case, inputs), expected_back) < TOLERANCE


def assert_every_tensor_counts(model, case: Case, inputs, expected) -> None:
    """Negative control of the judge: each tensor turned round, and two of one shape swapped.

    Attention does not see the bias of its keys: softmax takes it out.
    """
    right = model.get_weights()
    names = [getattr(variable, "path", variable.name) for variable in model.weights]
    seen = [i for i, name in enumerate(names) if "key/bias" not in name]
    wrong = {(i,): {i: right[i].ravel()[::-1].reshape(right[i].shape)} for i in seen}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i in seen:
        by_shape.setdefault(right[i].shape, []).append(i)
    for alike in by_shape.values():
        for i, j in itertools.pairwise(alike):
            wrong[i, j] = {i: right[j], j: right[i]}
    for places, changes in wrong.items():
        if any(right[i].size == 1 for i in places) and len(places) == 1:
            continue
        model.set_weights([changes.get(i, weight) for i, weight in enumerate(right)])
        # A negative variance gives no number: different, too.
        found = error(run_keras(model, case, inputs), expected)
        assert not found < 100 * TOLERANCE, [names[i] for i in places]
    model.set_weights(right)
