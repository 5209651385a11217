"""Hugging Face's rules of names: complete on both sides, or nothing."""

from __future__ import annotations

import dataclasses

import pytest

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.conversion.engine import plan_layouts
from wtool.conversion.huggingface import rules_text
from wtool.conversion.huggingface_names import is_huggingface
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.presets import find_preset
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError
from wtool.extents import Absent
from wtool.layers import assign_roles

TORCH = {
    "tiny.embeddings.word_embeddings.weight": (5, 4),
    "tiny.layer.0.dense.weight": (4, 4),
    "tiny.layer.0.dense.bias": (4,),
    "tiny.layer.0.norm.weight": (4,),
    "tiny.layer.0.norm.bias": (4,),
    "lm_head.dense.weight": (4, 4),
    "lm_head.bias": (5,),
    "lm_head.decoder.weight": (5, 4),
    "lm_head.decoder.bias": (5,),
}
TF = {
    "tiny/tf_tiny_for_masked_lm/tiny/embeddings/word_embeddings/weight:0": (5, 4),
    "tiny/tf_tiny_for_masked_lm/tiny/layer_._0/dense/kernel:0": (4, 4),
    "tiny/tf_tiny_for_masked_lm/tiny/layer_._0/dense/bias:0": (4,),
    "tiny/tf_tiny_for_masked_lm/tiny/layer_._0/norm/gamma:0": (4,),
    "tiny/tf_tiny_for_masked_lm/tiny/layer_._0/norm/beta:0": (4,),
    "lm_head/tf_tiny_for_masked_lm/mlm___lm_head/dense/kernel:0": (4, 4),
    "lm_head/tf_tiny_for_masked_lm/mlm___lm_head/bias:0": (5,),
    "lm_head/tf_tiny_for_masked_lm/tiny/embeddings/word_embeddings/weight:0": (5, 4),
}


def checkpoint(shapes: dict[str, tuple[int, ...]], container: str) -> Checkpoint:
    tensors = []
    for key, shape in shapes.items():
        # As a reader of legacy HDF5 shows a name: from its layer on.
        layer, *rest = key.removesuffix(":0").split("/")
        name = "/".join(rest[rest.index(layer) :] if layer in rest else rest) or key
        tensors.append(Tensor(name, key, Absent(DTYPES["float32"], shape, "names only")))
    made = build("model", container, tensors)
    assign_roles(made)
    return made


def torch_side(**changes: tuple[int, ...] | None) -> Checkpoint:
    shapes = {**TORCH, **{name.replace("__", "."): s for name, s in changes.items()}}
    return checkpoint({n: s for n, s in shapes.items() if s is not None}, "torch-zip")


def steps(text: str | None, a: Checkpoint, b: Checkpoint) -> dict[str, tuple[str, str]]:
    """Target name -> (source names, operations) of the plan towards TensorFlow."""
    assert text is not None
    outcome = plan_layouts(a, parse_mapping(text), to="b", template=b)
    assert outcome.open == ()
    return {
        target.name: (", ".join(s.name for s in step.sources) or step.reason, step.operations)
        for step in outcome.steps
        for target in step.targets
    }


def test_every_name_of_both_sides_follows_from_the_other() -> None:
    a, b = torch_side(), checkpoint(TF, "keras_h5")
    assert steps(rules_text(a, b), a, b) == {
        "tiny/embeddings/word_embeddings/weight": ("tiny.embeddings.word_embeddings.weight", ""),
        "tiny/layer_._0/dense/kernel": ("tiny.layer.0.dense.weight", "permute 1 0"),
        "tiny/layer_._0/dense/bias": ("tiny.layer.0.dense.bias", ""),
        "tiny/layer_._0/norm/gamma": ("tiny.layer.0.norm.weight", ""),
        "tiny/layer_._0/norm/beta": ("tiny.layer.0.norm.bias", ""),
        "tf_tiny_for_masked_lm/mlm___lm_head/dense/kernel": ("lm_head.dense.weight", "permute 1 0"),
        "tf_tiny_for_masked_lm/mlm___lm_head/bias": ("lm_head.bias", ""),
        "tf_tiny_for_masked_lm/tiny/embeddings/word_embeddings/weight": (
            "equal to 'tiny/embeddings/word_embeddings/weight'", "",
        ),
    }  # fmt: skip


def test_names_of_pytorch_follow_from_tensorflow_alone() -> None:
    b = checkpoint(TF, "keras_h5")
    text = rules_text(None, b)
    assert text is not None
    outcome = plan_layouts(b, parse_mapping(text), to="a")
    assert outcome.open == ()
    assert {name: tensor.shape for name, tensor in outcome.tensors.items()} == TORCH


@pytest.mark.parametrize(
    "change",
    [
        {"head__weight": (4, 4)},
        {"tiny__layer__0__dense__bias": None},
        {"lm_head__bias": None},
    ],
)
def test_one_tensor_too_many_or_too_few_and_the_rules_do_not_apply(change) -> None:
    b = checkpoint(TF, "keras_h5")
    assert find_preset(torch_side(), b) is not None
    assert rules_text(torch_side(**change), b) is None
    assert find_preset(torch_side(**change), b) is None


def test_another_shape_is_open_and_nothing_is_reshaped_to_fit() -> None:
    a, b = torch_side(tiny__layer__0__dense__weight=(2, 8)), checkpoint(TF, "keras_h5")
    text = rules_text(a, b)
    assert text is not None
    found = plan_layouts(a, parse_mapping(text), to="b", template=b).open
    assert any("tiny/layer_._0/dense/kernel" in str(item) for item in found)


def test_a_users_own_model_is_not_taken_for_hugging_face() -> None:
    own = checkpoint({"dense/net/dense/kernel:0": (4, 4)}, "keras_h5")
    assert not is_huggingface(own)
    assert is_huggingface(checkpoint(TF, "keras_h5"))
    other = dataclasses.replace(checkpoint(TF, "keras_h5"), format="keras_weights_h5")
    assert not is_huggingface(other)


def test_a_head_that_shares_all_it_has_is_not_guessed() -> None:
    hidden = {k.replace("masked_lm", "causal_lm"): s for k, s in TF.items() if "lm_head" not in k}
    b = checkpoint(hidden, "keras_h5")
    with pytest.raises(UnsupportedError, match="may have a head that shares all it has"):
        rules_text(None, b)
    bare = {k.replace("tf_tiny_for_masked_lm", "tf_tiny_model"): s
            for k, s in TF.items() if "lm_head" not in k}  # fmt: skip
    text = rules_text(None, checkpoint(bare, "keras_h5"))
    assert text is not None
    assert "layer.0.dense" in text
    assert '"tiny.layer' not in text


HEADS = ("masked_lm", "question_answering", "multiple_choice")


@pytest.mark.parametrize("head", HEADS)
def test_a_pooler_is_left_out_where_the_head_does_not_read_it(head: str) -> None:
    scope = f"mpnet/tfmp_net_for_{head}/mpnet"
    shapes = {f"{scope}/layer_._0/dense/kernel:0": (4, 4), f"{scope}/pooler/dense/kernel:0": (4, 4)}
    if head == "masked_lm":
        shapes |= {f"{scope}/embeddings/word_embeddings/weight:0": (5, 4)}
        shapes |= {f"lm_head/tfmp_net_for_{head}/lm_head/bias:0": (5,)}
    b = checkpoint(shapes, "keras_h5")
    text = rules_text(None, b)
    assert text is not None
    outcome = plan_layouts(b, parse_mapping(text), to="a")
    assert outcome.open == ()
    assert ("mpnet.pooler.dense.weight" in outcome.tensors) == (head == "multiple_choice")


@pytest.mark.parametrize("name", ["clip/logit_scale:0", "swiftformer/net_._0/layer_scale_1:0",
                                  "prompt_encoder/point_embed_._0:0"])  # fmt: skip
def test_a_name_or_shape_that_does_not_follow_is_refused(name: str) -> None:
    levels = name.split("/")
    b = checkpoint({"/".join([levels[0], "tf_some_model", *levels]): (1,)}, "keras_h5")
    with pytest.raises(UnsupportedError, match="its name and shape in PyTorch do not follow"):
        rules_text(None, b)


def test_a_decoders_table_is_shared_only_where_there_is_a_decoder() -> None:
    scope = "shared/tft5_encoder_model"
    shapes = {f"{scope}/shared/weight:0": (5, 4), f"{scope}/encoder/block_._0/kernel:0": (4, 4)}
    b = checkpoint(shapes, "keras_h5")
    text = rules_text(None, b)
    assert text is not None
    assert "encoder.embed_tokens.weight" in text
    assert "decoder.embed_tokens.weight" not in text
