"""`wtool map`: no certain match is wrong, values decide where both sides hold them, drafts load."""

from __future__ import annotations

import dataclasses
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from map_pairs import Pair, applications, hugging_face, tensorflow_1, trained
from model_zoo import make_checkpoint

import wtool
from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.cli import run
from wtool.conversion.derived import same_bits
from wtool.conversion.drafts import draft, propose, rows
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.signatures import measure_signature
from wtool.conversion.verification import convert_layouts
from wtool.errors import UnsupportedError
from wtool.layers import assign_roles

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CNN_MAPPING = """
[mapping]
name = "digits-cnn"
a = { framework = "torch" }
b = { framework = "keras" }
[const]
chw = [16, 4, 4]
[[layer]]
kind = "conv"
a = "{name:conv1|pointwise}"
b = "{name:conv1|pointwise}"
[[layer]]
kind = "depthwise"
a = "depthwise"
b = "depthwise"
[[layer]]
kind = "batchnorm"
a = "bn{n:int}"
b = "bn{n:int}"
[[layer]]
kind = "linear_flatten"
a = "fc1"
b = "fc1"
[[layer]]
kind = "linear"
a = "fc2"
b = "fc2"
"""


@cache
def pairs() -> dict[str, Pair]:
    return {pair.name: pair for pair in applications()}


# Tensors that are certain without any preset or value, as tests/bench/score_map.py prints them.
@pytest.mark.parametrize(
    ("name", "certain"),
    [
        ("resnet50", 267),
        ("vgg16", 17),
        ("densenet121", 606),
        ("mobilenet_v2", 254),
        ("tf_efficientnet_b0", 127),
    ],
)
def test_no_certain_match_is_wrong_in_whatever_order_the_files_are(name: str, certain: int) -> None:
    assert score_both_orders(pairs()[name]) == [certain, certain]


def score_both_orders(pair: Pair) -> list[int]:
    """How many tensors are certain, in the order of definition and in none; each must be right."""
    found = []
    for one in (pair, pair.sorted()):
        sure = 0
        for row in rows(propose(one.a, one.b, values=False)):
            names = [name for name in (row.get("a") or "").split(", ") if name in one.truth]
            if row["grade"] == "certain":
                targets = frozenset((row.get("b") or "").split(", "))
                assert {one.truth[name] for name in names} <= {targets}, (pair.name, row)
                sure += len(names)
        found.append(sure)
    return found


@pytest.mark.slow
def test_no_certain_match_is_wrong_of_hugging_face(tmp_path: Path) -> None:
    names = ("BertForPreTraining", "MobileBertForPreTraining", "BartModel", "ConvNextV2Model")
    for pair in (*hugging_face(tmp_path, names), *tensorflow_1(tmp_path)):
        assert sum(score_both_orders(pair)) > 0


def test_no_certain_match_is_wrong_of_the_trained_fixtures() -> None:
    for pair in trained():
        assert min(score_both_orders(pair)) >= len(pair.truth) - 1


def test_order_decides_nothing_where_files_are_sorted() -> None:
    pair = pairs()["vgg16"].sorted()
    assert {row["grade"] for row in rows(propose(pair.a, pair.b))} == {"certain", "ambiguous"}


def test_two_siblings_of_one_shape_are_never_certain_by_their_order() -> None:
    a = make_checkpoint(
        [("left.weight", (8, 8, 3, 3), ""), ("left2.weight", (8, 8, 3, 3), "")], "torch-zip"
    )
    for names in (("conv2d", "conv2d_1"), ("conv2d_1", "conv2d_2")):
        b = make_checkpoint(
            [(f"{name}/kernel", (3, 3, 8, 8), "Conv2D") for name in names], "keras_weights_h5"
        )
        assert {row["grade"] for row in rows(propose(a, b))} <= {"ordered", "ambiguous"}


def test_numbers_alone_do_not_make_equal_layers_certain() -> None:
    a = make_checkpoint([(f"block.{n}.weight", (4, 4), "") for n in range(3)], "torch-zip")
    for tensor in a:
        tensor.kind = "dense"
    b = make_checkpoint([(f"dense_{n}/kernel", (4, 4), "Dense") for n in (1, 2, 3)], "keras")
    assert {row["grade"] for row in rows(propose(a, b))} == {"ordered"}


def test_names_count_only_where_both_sides_count_alike() -> None:
    """Three layers from 0 and three from 1: two names are equal, and none is the same layer."""
    a = make_checkpoint(
        [(f"net.layer{n}.conv.weight", (4, 4, 3, 3), "") for n in range(3)], "torch-zip"
    )
    for prefix in ("net/", "", "model/"):
        b = make_checkpoint(
            [(f"{prefix}layer_{n}/conv/kernel", (3, 3, 4, 4), "Conv2D") for n in (1, 2, 3)], "keras"
        )
        assert {row["grade"] for row in rows(propose(a, b))} == {"ordered"}, prefix


def test_what_all_names_begin_with_is_the_model_and_no_layer() -> None:
    leaves = ("encoder.0.self", "encoder.1.self", "decoder.0.self", "decoder.1.self")
    a = make_checkpoint([(f"{leaf}.weight", (4, 4), "") for leaf in leaves], "npz")
    for tensor in a:
        tensor.kind = "dense"
    names = [f"model/{leaf.replace('.', '/')}/kernel" for leaf in reversed(leaves)]
    b = make_checkpoint([(name, (4, 4), "Dense") for name in names], "keras")
    found = rows(propose(a, b))
    assert {row["grade"] for row in found} == {"certain"}
    assert {(row["a"], row["b"]) for row in found} == {
        (f"{leaf}.weight", f"model/{leaf.replace('.', '/')}/kernel") for leaf in leaves
    }


def test_a_table_without_a_leaf_of_its_own_is_a_tensor_and_converts() -> None:
    """As TensorFlow 1 calls the embeddings of BERT."""
    source = wtool.open(FIXTURES / "topics-rnn.pth")
    a = dataclasses.replace(
        source, tensors={"embedding.weight": source.tensors["embedding.weight"]}
    )
    table = source["embedding.weight"]
    b = build("x", "tensorflow", [Tensor("embedding", "embedding", table.extent)])
    assign_roles(b)
    for values in (True, False):
        proposal = propose(a, b, values=values)
        assert [(r["a"], r["b"], r["grade"]) for r in rows(proposal)] == [
            ("embedding.weight", "embedding", "certain")
        ]
        mapping = parse_mapping(draft(proposal, "x"))
        outcome = convert_layouts(a, mapping, to="b", template=b)
        assert not outcome.open
        assert list(outcome.tensors) == ["embedding"]


def test_names_that_end_in_a_number_of_tensorflow_make_a_draft_that_converts() -> None:
    source = wtool.open(FIXTURES / "digits-transformer.pth")
    kept = [source[f"projection.{leaf}"] for leaf in ("weight", "bias")]
    a = dataclasses.replace(source, tensors={tensor.name: tensor for tensor in kept})
    like = wtool.open(FIXTURES / "digits-transformer.weights.h5")
    slots = [like[f"projection/{leaf}"] for leaf in ("kernel", "bias")]
    b = build("x", "keras", [Tensor(f"{t.name}:0", t.key, t.extent, kind=t.kind) for t in slots])
    assign_roles(b)
    mapping = parse_mapping(draft(propose(a, b), "x"))
    outcome = convert_layouts(a, mapping, to="b", template=b)
    assert not outcome.open
    assert set(outcome.tensors) == {"projection/kernel:0", "projection/bias:0"}


@pytest.fixture(scope="module")
def renamed_cnn() -> tuple[Checkpoint, Checkpoint]:
    """The trained digits CNN, and the same in Keras's layouts under names that say nothing."""
    source = wtool.open(FIXTURES / "digits-cnn.pth")
    outcome = convert_layouts(source, parse_mapping(CNN_MAPPING), to="b")
    layers = sorted({name.rpartition("/")[0] for name in outcome.tensors}, reverse=True)
    target = wtool.open(FIXTURES / "digits-cnn.weights.h5")
    kinds = {t.name: t.kind for t in target}
    tensors = []
    for name, tensor in sorted(outcome.tensors.items()):
        layer, _, leaf = name.rpartition("/")
        new = f"layer_{layers.index(layer)}x/{leaf}"
        tensors.append(Tensor(new, new, tensor.extent, kind=kinds[name]))
    made = build("renamed", "tensorflow", tensors)
    assign_roles(made)
    return source, made


def test_equal_values_decide_every_layer_and_the_order_of_flattened_inputs(renamed_cnn) -> None:
    source, target = renamed_cnn
    proposal = propose(source, target)
    found = rows(proposal)
    assert {row["grade"] for row in found} == {"certain"}
    assert {row["evidence"] for row in found} == {"same values"}
    mapping = parse_mapping(draft(proposal, "by values"))
    outcome = convert_layouts(source, mapping, to="b", template=target)
    assert not outcome.open
    assert set(outcome.tensors) == set(target.tensors)
    for name, tensor in outcome.tensors.items():
        assert same_bits(tensor.extent, target[name].extent)


def test_one_changed_bit_is_not_the_same_value(renamed_cnn) -> None:
    source, target = renamed_cnn
    kernel = next(t for t in target if t.shape == (256, 24))
    path = kernel.name
    values = kernel.load().copy()
    values[0, 0] = np.nextafter(values[0, 0], np.float32(1))

    from wtool.conversion.derived import Derived

    extent = Derived(kernel.dtype, kernel.shape, (), lambda: values, "changed")
    changed = dataclasses.replace(
        target, tensors={**target.tensors, path: Tensor(path, path, extent, kind="dense")}
    )
    found = {row["b"]: row for row in rows(propose(source, changed))}
    assert found[path]["evidence"] != "same values"
    assert found[path]["grade"] == "ambiguous"


def test_a_signature_knows_no_order_and_every_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((6, 10)).astype("f4")
    np.savez(
        tmp_path / "x.npz",
        x=values,
        turned=np.ascontiguousarray(values.T),
        mixed=rng.permutation(values.ravel()),
        top=values[:2],
        rest=values[2:],
        other=np.nextafter(values, 9, dtype="f4"),
        negative_zero=np.float32([-0.0, 1]),
        zero=np.float32([0.0, 1]),
        ones=np.ones(7, "f4"),
    )
    found = {t.name: measure_signature(t) for t in wtool.open(tmp_path / "x.npz")}
    assert found["x"] == found["turned"] == found["mixed"] == found["top"] + found["rest"]
    assert found["x"] != found["other"]
    assert found["zero"] != found["negative_zero"]
    assert found["x"].varied
    assert not found["ones"].varied


@pytest.mark.parametrize("target", ["weights.h5", "keras", "tf"])
def test_models_with_the_same_names_are_matched_and_the_draft_converts(target: str) -> None:
    name = "topics-rnn" if target == "tf" else "digits-transformer"
    suffix = "-tf" if target == "tf" else f".{target}"
    a, b = wtool.open(FIXTURES / f"{name}.pth"), wtool.open(FIXTURES / f"{name}{suffix}")
    proposal = propose(a, b)
    assert proposal.pairing.is_complete
    mapping = parse_mapping(draft(proposal, "draft"))
    outcome = convert_layouts(a, mapping, to="b", template=b)
    assert outcome.open == ()
    model = {t.name for t in b if t.role != "other"}
    assert {t.name for t in outcome.checkpoint() if t.role != "other"} == model


def test_a_linear_after_flatten_stays_open_and_is_named(tmp_path: Path) -> None:
    save = tmp_path / "draft.toml"
    files = (str(FIXTURES / "digits-cnn.pth"), str(FIXTURES / "digits-cnn.weights.h5"))
    result = wtool.map(*files, save=str(save))
    doubtful = [row for row in result.rows if row["grade"] != "certain"]
    assert [row["source"] for row in doubtful] == ["fc1.weight"]
    assert not result.ok
    text = save.read_text()
    assert '# a = "fc1"' in text
    assert {block["a"] for block in tomllib.loads(text)["layer"]} == {
        "conv1", "bn1", "depthwise", "pointwise", "bn2", "fc2",
    }  # fmt: skip


def test_matches_by_order_are_rules_only_where_order_was_accepted() -> None:
    vgg = pairs()["vgg16"]
    a, b = vgg.a, vgg.b
    proposal = propose(a, b)
    ordered = [m for m in proposal.pairing.matches if m.grade == "ordered"]
    assert ordered
    strict = tomllib.loads(draft(proposal, "x"))
    assert not {m.a.path for m in ordered} & {block["a"] for block in strict["layer"]}
    loose = tomllib.loads(draft(propose(a, b, accept_ordered=True), "x"))
    assert {m.a.path for m in ordered} <= {block["a"] for block in loose["layer"]}
    assert loose["mapping"]["notes"] == [
        f"{len(ordered)} layers were matched by their order alone, as --accept-ordered allows"
    ]


def test_names_within_one_framework_are_no_work_for_map() -> None:
    model = str(FIXTURES / "digits-cnn.pth")
    with pytest.raises(UnsupportedError, match="both models have the names of PyTorch"):
        wtool.map(model, model)


def test_the_exit_code_says_whether_all_is_certain(capsys: pytest.CaptureFixture[str]) -> None:
    cnn = [str(FIXTURES / f"digits-cnn.{suffix}") for suffix in ("pth", "weights.h5")]
    rnn = [str(FIXTURES / f"topics-rnn.{suffix}") for suffix in ("weights.h5", "pth")]
    assert run(["map", *cnn]) == 1
    assert "16 certain, 0 ordered, 1 ambiguous" in capsys.readouterr().out
    assert run(["map", *rnn]) == 0
    assert "embedding/embeddings" in capsys.readouterr().out.splitlines()[2]
