"""The rules about names, types, indexes and configurations: a file that triggers each.

The sound model of `planting` is the clean file of every rule: `test_value_rules` shows that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from planting import found, outcomes, sound, write

import wtool
from wtool.checks.policy import Policy


def renamed(prefix):
    return {prefix + name: value for name, value in sound().items()}


def without(*names):
    return {name: value for name, value in sound().items() if name not in names}


def retyped(name, dtype):
    model = sound()
    model[name] = model[name].astype(dtype)
    return model


MODELS = {
    "optimizer": (
        lambda: sound() | {"optimizer.state.0.exp_avg": np.ones(9, np.float32)},
        ("WT020", "optimizer.state.0.exp_avg"),
    ),
    "ema": (
        lambda: sound() | {"ema.head.weight": sound(1)["head.weight"]},
        ("WT021", "ema.head.weight"),
    ),
    "module prefix": (
        lambda: renamed("module."),
        ("WT022", "module.blocks.0.norm.num_batches_tracked"),
    ),
    "compiled prefix": (
        lambda: renamed("_orig_mod.module."),
        ("WT022", "_orig_mod.module.blocks.0.norm.num_batches_tracked"),
    ),
    "lost bias": (lambda: without("blocks.4.fc.bias"), ("WT023", "blocks.4.fc.bias")),
    "lost statistics": (
        lambda: without("blocks.0.norm.running_var"),
        ("WT023", "blocks.0.norm.running_var"),
    ),
    "lost block": (
        lambda: {n: v for n, v in sound().items() if not n.startswith("blocks.2.")},
        ("WT024", "blocks.2"),
    ),
    "float counter": (
        lambda: retyped("blocks.1.norm.num_batches_tracked", np.float16),
        ("WT025", "blocks.1.norm.num_batches_tracked"),
    ),
    "one float64": (lambda: retyped("stem.weight", np.float64), ("WT026", "stem.weight")),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_fault_of_structure_is_found_and_nothing_else(tmp_path, case):
    build, expected = MODELS[case]
    assert found(write(build(), tmp_path / "m.safetensors")) == {expected}


def test_half_of_the_statistics_is_an_error(tmp_path):
    path = write(without("blocks.0.norm.running_mean"), tmp_path / "m.safetensors")
    assert [(o.rule.code, o.severity) for o in outcomes(path)] == [("WT023", "error")]


def test_norms_kept_in_float32_are_only_a_note(tmp_path):
    model = {n: v if "norm" in n else v.astype(np.float16) for n, v in sound().items()}
    hits = outcomes(write(model, tmp_path / "m.safetensors"), only=("WT026",))
    assert [hit.severity for hit in hits] == ["note"]
    allowed = Policy(dtypes=("float16", "float32", "int64"))
    assert outcomes(write(model, tmp_path / "n.safetensors"), allowed, only=("WT026",)) == []


def test_sequences_with_free_numbers_have_no_gap(tmp_path):
    """VGG and SqueezeNet number their pooling layers too, which have no tensors."""
    numbers = (0, 3, 4, 5, 7, 8, 9, 10, 12)
    draw = np.random.default_rng(0)
    model = {
        f"features.{n}.{part}.{leaf}": draw.standard_normal(shape).astype(np.float32)
        for n in numbers
        for part in ("squeeze", "expand")
        for leaf, shape in (("weight", (8, 8, 1, 1)), ("bias", (8,)))
    }
    path = write(model, tmp_path / "m.safetensors")
    assert outcomes(path, only=("WT024",)) == []


def test_the_first_stage_of_a_resnet_lacks_nothing(tmp_path):
    model = {
        f"layer{n}.0.{part}.weight": np.random.default_rng(n).normal(size=(8, 8)).astype(np.float32)
        for n in range(1, 5)
        for part in ("conv1", "conv2", *(("downsample",) if n > 1 else ()))
    }
    assert outcomes(write(model, tmp_path / "m.safetensors"), only=("WT023",)) == []


def test_a_convolution_before_a_norm_needs_no_bias(tmp_path):
    """Conv2d(bias=False), BatchNorm2d, ..., Linear in one Sequential: each holds `weight`."""
    shapes = {"0": (8, 3, 3, 3), "1": (8,), "3": (8, 8, 3, 3), "6": (10, 512)}
    model = {
        f"{n}.{leaf}": np.random.default_rng(int(n)).normal(size=size).astype(np.float32)
        for n, shape in shapes.items()
        for leaf, size in (("weight", shape), ("bias", shape[:1]))
        if (n, leaf) != ("0", "bias")
    }
    assert outcomes(write(model, tmp_path / "m.safetensors"), only=("WT023",)) == []
    model |= {f"{n}.weight": model["3.weight"] * n for n in (8, 9, 10)}
    model |= {f"{n}.bias": model["3.bias"] * n for n in (8, 9, 10)}
    hits = outcomes(write(model, tmp_path / "n.safetensors"), only=("WT023",))
    assert [hit.finding.tensor for hit in hits] == ["0.bias"]


def shards(folder, **index):
    """The sound model in two shards and an index, as Hugging Face writes them."""
    model = sound()
    names = list(model)
    halves = (names[::2], names[1::2])
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        write({name: model[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    total = sum(value.nbytes for value in model.values())
    document = {"metadata": {"total_size": total}, "weight_map": weight_map} | index
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_a_sound_sharded_model_is_clean(tmp_path):
    assert found(shards(tmp_path)) == set()


def test_a_wrong_total_size_is_found(tmp_path):
    hits = outcomes(shards(tmp_path, metadata={"total_size": 5}))
    assert [(hit.rule.code, hit.finding.value) for hit in hits] == [("WT027", "5")]


def test_a_tensor_that_the_index_does_not_name_is_found(tmp_path):
    path = Path(shards(tmp_path))
    index = json.loads(path.read_text())
    file = index["weight_map"].pop("head.bias")
    index["metadata"]["total_size"] -= 40
    path.write_text(json.dumps(index))
    (hit,) = outcomes(str(path))
    assert (hit.rule.code, hit.finding.tensor) == ("WT028", "head.bias")
    assert hit.finding.file == str(tmp_path / file)


LANGUAGE = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "tie_word_embeddings": False,
    "architectures": ["SmallForCausalLM"],
}


def language_model(folder, drop=(), **config):
    draw = np.random.default_rng(5)
    words = draw.standard_t(4, (40, 24)).astype(np.float32)
    model = {name.replace("blocks", "model.layers"): value for name, value in sound().items()}
    model = {n: v for n, v in model.items() if not n.startswith(("head", "stem"))}
    model |= {"model.embed_tokens.weight": words, "lm_head.weight": words * 2}
    for name in drop:
        del model[name]
    path = write(model, folder / "model.safetensors")
    return path, {"config": LANGUAGE | config}


@pytest.mark.parametrize(
    ("drop", "config", "expected"),
    [
        ((), {}, set()),
        ((), {"tie_word_embeddings": True}, {("WT029", "lm_head.weight")}),
        (("lm_head.weight",), {}, {("WT029", "model.embed_tokens.weight")}),
        (("lm_head.weight",), {"tie_word_embeddings": True}, set()),
        ((), {"vocab_size": 41}, {("WT030", "model.embed_tokens.weight")}),
        ((), {"vocab_size": 39}, set()),
        ((), {"hidden_size": 32}, {("WT030", "model.embed_tokens.weight")}),
        ((), {"num_hidden_layers": 7}, {("WT030", None)}),
    ],
)
def test_a_configuration_is_compared_with_the_tensors(tmp_path, drop, config, expected):
    path, more = language_model(tmp_path, drop, **config)
    assert found(path, **more) == expected


def test_the_command_reads_the_configuration_beside_the_file(tmp_path):
    path, more = language_model(tmp_path, vocab_size=41)
    (tmp_path / "config.json").write_text(json.dumps(more["config"]))
    for model in (path, str(tmp_path)):
        assert [row["rule"] for row in wtool.check(model).rows] == ["WT030"]


@pytest.mark.parametrize("names", [(), ("fc.weight",)], ids=["no tensors", "no elements"])
def test_a_file_without_values_is_not_clean(tmp_path, names):
    values = {name: np.zeros((0, 4), np.float32) for name in names}
    model = write(values, tmp_path / "m.safetensors")
    report = wtool.check(model)
    assert [(row["rule"], row["severity"]) for row in report.rows] == [("WT031", "error")]
    assert not report.ok
