"""Verdicts of `init` on what the frameworks draw and on what training leaves; the laws it keeps."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch
from initialiser_cases import Case, in_memory, keras_cases, names_of, torch_cases
from trained_models import trained_checkpoints

from wtool.checkpoint import Tensor, build
from wtool.dtypes import DTYPES
from wtool.extents import Strided
from wtool.layers import assign_roles
from wtool.layers.initialisation import judge
from wtool.layers.samples import SAMPLE_VALUES, read_sample
from wtool.layers.schemes import KURTOSIS, TRUNCATED_STD, Scheme, count_blocks
from wtool.layers.survey import judge_all
from wtool.sources import BytesSource


def normal(*shape: int, std: float = 0.02, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * std).astype(np.float32)


def verdict(array: np.ndarray, name: str = "fc.weight", format: str = "torch zip") -> str:
    checkpoint = in_memory({name: array}, format)
    return judge(checkpoint[name], checkpoint).verdict


def missed(cases: list[Case]) -> list[str]:
    wrong = []
    for case in cases:
        if case.tensor.count >= 512 or case.scheme == "unit_forget_bias":
            judgement = judge(case.tensor, case.checkpoint)
            if case.scheme not in names_of(judgement.verdict):
                wrong.append(f"{case.scheme} {case.tensor.shape}: {judgement}")
    return wrong


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_99_in_100_fresh_torch_tensors_are_named_right(dtype):
    cases = list(torch_cases([0], dtype))
    wrong = missed(cases)
    assert len(wrong) <= len(cases) // 100, wrong


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_99_in_100_fresh_keras_tensors_are_named_right(dtype):
    cases = list(keras_cases([0], dtype))
    wrong = missed(cases)
    assert len(wrong) <= len(cases) // 100, wrong


def test_at_most_1_in_100_trained_tensors_is_called_fresh():
    judged = [pair for _, ckpt in trained_checkpoints(fast=True) for pair in judge_all(ckpt)]
    fresh = [(tensor.name, j.verdict) for tensor, j in judged if j.is_fresh]
    assert len(judged) > 150
    assert len(fresh) <= len(judged) // 100, fresh
    # and those with values enough are not merely left open
    large = [judgement.verdict for tensor, judgement in judged if tensor.count >= 512]
    assert large.count("trained") >= 0.85 * len(large)


def test_a_head_that_was_never_trained_is_found_in_a_trained_model():
    _, checkpoint = next(iter(trained_checkpoints(fast=True)))
    arrays = {tensor.name: tensor.load() for tensor in checkpoint}
    torch.manual_seed(6)
    head = torch.nn.Linear(128, 10)
    arrays["4.weight"], arrays["4.bias"] = (p.detach().numpy() for p in head.parameters())
    verdicts = {t.name: j.verdict for t, j in judge_all(in_memory(arrays, "torch zip"))}
    assert verdicts["4.weight"] == "fresh: torch_default"
    assert verdicts["0.weight"] == verdicts["2.weight"] == "trained"
    assert "fresh" not in verdicts["0.bias"]


def test_constants_are_named_or_said():
    assert verdict(np.zeros((64, 64), np.float32)) == "fresh: zeros"
    assert verdict(np.ones(64, np.float32), "norm.weight") == "fresh: ones"
    assert verdict(np.ones((64, 64), np.float32)) == "constant"
    assert verdict(np.full(64, 1e-6, np.float32), "layer_scale") == "constant"
    assert verdict(np.eye(32, dtype=np.float32)) == "fresh: identity"
    assert verdict(np.float32([0.5]), "layer_scale") == "undecided"


def test_one_value_at_the_end_of_a_large_constant_is_seen():
    array = np.zeros((1000, 1000), np.float32)
    assert verdict(array) == "fresh: zeros"
    array[-1, -2] = 1e-3
    assert verdict(array) == "trained"


@pytest.mark.parametrize("row", [0, 499, 503, 999])
def test_one_value_anywhere_in_a_large_constant_is_seen(row):
    array = np.zeros((1000, 1000), np.float32)
    array[row, 7] = 1e-3
    assert verdict(array) == "trained"


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_magnitudes_beyond_float64_squares_are_trained(scale):
    assert verdict(np.random.default_rng(0).standard_normal((32, 32)) * scale) == "trained"


def test_values_that_are_not_finite_or_not_floats_are_undecided():
    array = normal(64, 64)
    array[3, 3] = np.nan
    assert verdict(array) == "undecided"
    assert verdict(np.ones((64, 64), np.int8), "fc.qweight") == "undecided"
    assert verdict(np.empty((0, 5), np.float32)) == "undecided"


def test_random_values_at_no_scheme_s_scale_are_undecided():
    assert verdict(normal(200, 200, std=0.0317)) == "undecided"


def test_few_values_are_undecided():
    assert verdict(normal(10, 10)) == "undecided"


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a + np.outer(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256)) * 0.01,  # one step
        lambda a: a * np.linspace(0.7, 1.3, 256)[:, None],  # rows of unequal strength
        lambda a: a * np.linspace(0.7, 1.3, 256)[None, :],
        lambda a: np.where(np.abs(a) < 0.004, 0, a),  # pruned
        lambda a: a + 0.002,  # a common shift
        lambda a: a * 1.1,
        lambda a: a + 0.3 * np.roll(a, 1, axis=1),  # neighbours agree
    ],
)
def test_small_departures_from_a_fresh_matrix_are_seen(damage):
    fresh = normal(256, 256)
    assert verdict(fresh) == "fresh: normal_0.02"
    assert "fresh" not in verdict(damage(fresh.astype(np.float64)).astype(np.float32))


def test_a_bias_that_moved_marks_its_random_weight_as_trained():
    weight, bias = normal(64, 64), np.linspace(-1, 1, 64, dtype=np.float32)
    arrays = {"fc.weight": weight, "fc.bias": np.zeros(64, np.float32)}
    fresh = {t.name: j.verdict for t, j in judge_all(in_memory(arrays, "torch zip"))}
    assert fresh == {"fc.weight": "fresh: normal_0.02", "fc.bias": "fresh: zeros"}
    arrays["fc.bias"] = bias
    moved = {t.name: j.verdict for t, j in judge_all(in_memory(arrays, "torch zip"))}
    assert moved == {"fc.weight": "trained", "fc.bias": "trained"}


def test_the_verdict_does_not_depend_on_bytes_strides_or_jobs():
    array = normal(300, 200)
    answers = set()
    for order in ("C", "F"):
        for big_endian in (False, True):
            stored = np.asarray(array, order=order)
            data = stored.astype(">f4" if big_endian else "<f4").tobytes(order="A")
            strides = tuple(step // 4 for step in stored.strides)
            extent = Strided(
                BytesSource(data, "memory"),
                0,
                len(data),
                DTYPES["float32"],
                array.shape,
                strides=strides,
                big_endian=big_endian,
            )
            checkpoint = build("memory", "torch zip", [Tensor("fc.weight", "fc.weight", extent)])
            assign_roles(checkpoint)
            for jobs in (1, 3):
                answers.add(tuple(j for _, j in judge_all(checkpoint, jobs=jobs)))
    assert len(answers) == 1


@pytest.mark.parametrize("shape", [(3000, 1000), (100, 40000), (1 << 20, 3), (1 << 21,)])
@pytest.mark.parametrize("layout", ["torch", "keras"])
def test_a_sample_is_bounded_and_keeps_rows_and_columns(shape, layout):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    checkpoint = in_memory({"fc.weight": values}, "torch zip")
    sample = read_sample(checkpoint["fc.weight"], layout)
    assert SAMPLE_VALUES // 2 <= sample.size <= 2 * SAMPLE_VALUES
    if len(shape) == 2:
        columns = sample % shape[1] if sample.shape[1] != shape[1] else np.arange(shape[1])
        assert (columns == columns[0]).all() or sample.shape[1] == shape[1]
        assert (sample[1:, 0] > sample[:-1, 0]).all()
    again = read_sample(checkpoint["fc.weight"], layout)
    assert (sample == again).all()


@pytest.mark.parametrize("family", ["uniform", "normal", "truncated"])
def test_a_family_s_cdf_and_moments_are_those_of_its_draws(family):
    torch.manual_seed(0)
    draws = torch.empty(400_000, dtype=torch.float64)
    if family == "uniform":
        draws.uniform_(-0.3, 0.3)
    elif family == "normal":
        draws.normal_(0, 0.3)
    else:
        torch.nn.init.trunc_normal_(draws, std=0.3, a=-0.6, b=0.6)
    scheme = Scheme("s", family, 0.3)
    values = np.sort(draws.numpy())
    assert scheme.std == pytest.approx(values.std(), rel=5e-3)
    kurtosis = (values**4).mean() / values.var() ** 2
    assert KURTOSIS[family] == pytest.approx(kurtosis, rel=2e-2)
    points = values[:: len(values) // 100]
    below = np.searchsorted(values, points) / len(values)
    assert np.abs(scheme.cdf(points) - below).max() < 4e-3
    assert np.abs(values).max() <= scheme.bound
    best = max(
        (Scheme(other, other, 0.3 * factor) for other in KURTOSIS for factor in (0.9, 1, 1.1)),
        key=lambda s: s.log_likelihood(len(values), float(values @ values))
        if s.bound >= np.abs(values).max()
        else -np.inf,
    )
    assert best == Scheme(family, family, 0.3)


def test_keras_constant_for_the_truncated_deviation_is_ours():
    # keras/src/initializers/random_initializers.py divides by this literal
    assert pytest.approx(0.87962566103423978, rel=1e-12) == TRUNCATED_STD


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_orthogonality_survives_rounding_to_half_types(dtype):
    torch.manual_seed(0)
    for shape in ((64, 64), (32, 512), (512, 32), (128, 64, 3, 3)):
        weight = torch.nn.init.orthogonal_(torch.empty(*shape)).numpy().astype(dtype)
        assert verdict(weight) == "fresh: orthogonal"


def test_recurrent_weights_orthogonal_gate_by_gate_are_orthogonal():
    torch.manual_seed(0)
    gates = [torch.nn.init.orthogonal_(torch.empty(32, 32)) for _ in range(4)]
    arrays = {
        "rnn.weight_ih_l0": normal(128, 16),
        "rnn.weight_hh_l0": torch.cat(gates).numpy(),
    }
    checkpoint = in_memory(arrays, "torch zip")
    assert judge(checkpoint["rnn.weight_hh_l0"], checkpoint).verdict == "fresh: orthogonal"


def test_the_output_projection_of_an_attention_was_trained_with_its_inputs():
    rng = np.random.default_rng(3)
    arrays = {
        "att.out_proj.weight": rng.normal(0, 32**-0.5, (32, 32)).astype(np.float32),
        "att.in_proj_weight": rng.uniform(-0.2, 0.2, (96, 32)).astype(np.float32),
        "att.in_proj_bias": np.linspace(-0.3, 0.5, 96, dtype=np.float32) ** 3,
    }
    verdicts = {t.name: j.verdict for t, j in judge_all(in_memory(arrays, "torch zip"))}
    assert list(verdicts) == list(arrays)
    assert verdicts["att.out_proj.weight"] == "trained"
    fresh = {**arrays, "att.in_proj_bias": np.zeros(96, np.float32)}
    verdicts = {t.name: j.verdict for t, j in judge_all(in_memory(fresh, "torch zip"))}
    assert verdicts["att.out_proj.weight"].startswith("fresh: ")


@pytest.mark.parametrize("blocks", [3, 12])
def test_what_ends_a_residual_branch_of_a_fresh_gpt_2_is_named(blocks):
    """0.02 / sqrt(2 L), L counted from the names: without it half of a fresh GPT-2 is undecided."""
    std = 0.02 / (2 * blocks) ** 0.5
    arrays = {
        f"transformer.h.{i}.mlp.c_proj.weight": normal(256, 64, std=std, seed=i)
        for i in range(blocks)
    }
    arrays["transformer.h.0.mlp.c_fc.weight"] = normal(64, 256, std=std, seed=99)
    checkpoint = in_memory(arrays, "torch zip")
    verdicts = {tensor.name: j.verdict for tensor, j in judge_all(checkpoint)}
    named = {"fresh: gpt2_residual"}
    assert {v for name, v in verdicts.items() if "c_proj" in name} == named
    assert verdicts["transformer.h.0.mlp.c_fc.weight"] == "undecided"


def test_blocks_are_counted_without_looking_at_each():
    """Each of 4,096 tensors asks: block by block that is 17 million look-ups."""

    class Asked(dict):
        times = 0

        def __contains__(self, name):
            Asked.times += 1
            return super().__contains__(name)

    arrays = {f"h.{i}.proj.weight": np.zeros((2, 2), np.float32) for i in range(4096)}
    checkpoint = in_memory({**arrays, "h.0.fc.bias": np.zeros(2, np.float32)}, "torch zip")
    asked = dataclasses.replace(checkpoint, tensors=Asked(checkpoint.tensors))
    counts = {tensor.name: count_blocks(tensor, asked) for tensor in asked}
    assert counts == dict.fromkeys(arrays, 4096) | {"h.0.fc.bias": 0}
    assert Asked.times < 20 * 4096


def test_xavier_with_a_gain_is_named_with_it():
    torch.manual_seed(3)
    weight = torch.nn.init.xavier_uniform_(torch.empty(200, 300), gain=2**0.5)
    assert verdict(weight.numpy()) == "fresh: xavier_uniform_gain_1.41"


@pytest.mark.parametrize("format", ["npz", "safetensors", "torch-zip"])
def test_keras_layers_get_the_same_verdicts_from_every_container(format):
    random = np.random.default_rng(0)
    glorot = random.uniform(-(6**0.5) / 12, 6**0.5 / 12, (16, 128)).astype(np.float32)
    bias = random.standard_normal(128).astype(np.float32) * 0.01
    arrays = {"dense/kernel": glorot, "dense/bias": bias}
    expected = [judgement for _, judgement in judge_all(in_memory(arrays, "keras_archive"))]
    assert [judgement.verdict for judgement in expected] == ["trained", "trained"]
    found = [judgement for _, judgement in judge_all(in_memory(arrays, format))]
    assert found == expected
