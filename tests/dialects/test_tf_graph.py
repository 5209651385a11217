"""Layer kinds from graphs: what consumes a variable, in exports, SavedModels and TF1 graphs."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_files
import tf_keras

from wtool.dialects.tf_graph import read_meta_graph, read_saved_model
from wtool.dialects.tf_kinds import variable_kinds
from wtool.errors import InputError
from wtool.formats import open_checkpoint

v1 = tf.compat.v1


def text_model(library):
    layers = library.layers
    words = library.Input((None,), dtype="int32")
    x = layers.Embedding(20, 8, name="emb")(words)
    x = layers.LSTM(6, return_sequences=True, name="rnn")(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="bi")(x)
    x = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    x = layers.LayerNormalization(name="ln")(x)
    return library.Model(words, layers.Dense(2, name="out")(x))


def image_model(library):
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Conv2D(4, 3, name="c2"),
            layers.SeparableConv2D(4, 3, name="sep"),
            layers.Conv2DTranspose(2, 3, name="ct"),
            layers.Reshape((-1, 2)),
            layers.Conv1D(3, 3, name="c1"),
            layers.Flatten(),
            layers.Dense(3, name="d"),
        ]
    )


TEXT_KINDS = {
    "emb": "embedding",
    "rnn": "recurrent",
    "bi": "recurrent",
    "mha": "attention",
    "ln": "norm",
    "out": "dense",
}
IMAGE_KINDS = {"c2": "conv", "ct": "transposed_conv", "c1": "conv", "d": "dense"}


def kinds_of(path):
    """(name without the model's own, kind) of every weight."""
    found = {}
    for tensor in open_checkpoint(path):
        if tensor.role is None and "seed_generator" not in tensor.name:
            found[tensor.name.removeprefix("sequential/")] = tensor.kind
    return found


def assert_kinds(found, expected):
    assert {name.split("/")[0] for name in found} == set(expected)
    assert found == {name: expected[name.split("/")[0]] for name in found}


def test_an_export_of_keras_3_states_the_kind_of_each_weight(tmp_path):
    text_model(keras).export(str(tmp_path / "e"), verbose=False)
    assert_kinds(kinds_of(tmp_path / "e"), TEXT_KINDS)


def split_separable(found):
    """The separable layer's own kinds, taken out of `found`."""
    return {name.split("/")[-1]: found.pop(name) for name in list(found) if "sep/" in name}


def test_convolutions_of_keras_3_are_told_apart(tmp_path):
    image_model(keras).export(str(tmp_path / "e"), verbose=False)
    found = {
        name.rpartition("sequential_")[2]: kind for name, kind in kinds_of(tmp_path / "e").items()
    }
    found = {name.partition("/")[2] if name[0].isdigit() else name: k for name, k in found.items()}
    separable = split_separable(found)
    assert separable["pointwise_kernel"] == "conv"
    assert separable["depthwise_kernel"] == "depthwise"
    assert_kinds(found, IMAGE_KINDS)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_saved_model_of_keras_2_states_the_kind_of_each_weight(tmp_path, metadata):
    for name, build, kinds in (("t", text_model, TEXT_KINDS), ("i", image_model, IMAGE_KINDS)):
        build(tf_keras).save(str(tmp_path / name), save_format="tf")
        if not metadata:
            (tmp_path / name / "keras_metadata.pb").unlink()
        found = kinds_of(tmp_path / name)
        separable = split_separable(found)
        if separable:
            assert separable == {
                "depthwise_kernel": "depthwise",
                "pointwise_kernel": "conv",
                "bias": None,
            }
        assert_kinds(found, kinds)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("resource", [True, False])
def test_a_training_graph_beside_a_checkpoint_states_kinds(tmp_path, version, resource):
    with tf.Graph().as_default(), v1.Session() as session:
        variable = lambda name, shape, **rest: v1.get_variable(  # noqa: E731
            name, shape, use_resource=resource, **rest
        )
        words = v1.placeholder(tf.int32, (None, 64))
        x = tf.nn.embedding_lookup(variable("emb/table", (9, 4)), words)
        x = tf.reshape(x, (-1, 16, 16, 1))
        x = tf.nn.conv2d(x, variable("conv/kernel", (3, 3, 1, 4)), 1, "SAME")
        x = tf.nn.bias_add(x, variable("conv/bias", (4,)))
        x = tf.nn.depthwise_conv2d(x, variable("dw/kernel", (3, 3, 4, 1)), [1] * 4, "SAME")
        x, *_ = v1.nn.fused_batch_norm(
            x, variable("bn/gamma", (4,)), variable("bn/beta", (4,)), is_training=True
        )
        up = variable("up/kernel", (3, 3, 2, 4))
        x = tf.nn.conv2d_transpose(x, up, (1, 16, 16, 2), 1, "SAME")
        part = variable("part", (512, 4), partitioner=v1.fixed_size_partitioner(3))
        x = tf.reshape(x, (-1, 512)) @ part
        step = v1.train.get_or_create_global_step()
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(x), step)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(write_version=version).save(session, str(tmp_path / "m"))
    kinds = {tensor.name: tensor.kind for tensor in open_checkpoint(tmp_path / "m")}
    stated = {name: kind for name, kind in kinds.items() if "Adam" not in name and kind}
    assert stated == {
        "emb/table": "embedding",
        "conv/kernel": "conv",
        "conv/bias": "conv",
        "dw/kernel": "depthwise",
        "bn/gamma": "norm",
        "bn/beta": "norm",
        "up/kernel": "transposed_conv",
        "part": "dense",
    }


def node(name, op, *inputs, **functions):
    parts = tf_files.nested(1, name.encode()) + tf_files.nested(2, op.encode())
    parts += b"".join(tf_files.nested(3, value.encode()) for value in inputs)
    for key, function in functions.items():
        value = tf_files.nested(10, tf_files.nested(1, function.encode()))
        parts += tf_files.nested(5, tf_files.nested(1, key.encode()) + tf_files.nested(2, value))
    return parts


def function(name, arguments, *nodes):
    signature = tf_files.nested(1, name.encode())
    signature += b"".join(
        tf_files.nested(2, tf_files.nested(1, argument.encode())) for argument in arguments
    )
    return tf_files.nested(1, signature) + b"".join(tf_files.nested(3, n) for n in nodes)


def meta_graph(nodes, functions=()):
    library = b"".join(tf_files.nested(1, f) for f in functions)
    graph = b"".join(tf_files.nested(1, n) for n in nodes) + tf_files.nested(2, library)
    return tf_files.nested(2, graph)


def test_functions_that_call_each_other_forever_end():
    data = meta_graph(
        [node("w", "VarHandleOp"), node("call", "PartitionedCall", "x", "w", f="one")],
        [
            function("one", ("x", "w"), node("c", "PartitionedCall", "x", "w", f="two")),
            function(
                "two",
                ("x", "w"),
                node("c", "PartitionedCall", "x", "w", f="one"),
                node("r", "ReadVariableOp", "w"),
                node("m", "MatMul", "x", "r:value:0"),
            ),
        ],
    )
    assert variable_kinds(read_meta_graph(data), {"w": 2}) == {"w": "dense"}


def test_gradients_are_not_evidence():
    nodes = [
        node("w", "VariableV2"),
        node("read", "Identity", "w"),
        node("y", "Conv2D", "x", "read"),
        node("gradients/y_grad/Conv2DBackpropInput", "Conv2DBackpropInput", "s", "read", "g"),
    ]
    assert variable_kinds(read_meta_graph(meta_graph(nodes)), {"w": 4}) == {"w": "conv"}
    without = meta_graph([nodes[0], nodes[1], nodes[3]])
    assert variable_kinds(read_meta_graph(without), {"w": 4}) == {}


@pytest.mark.parametrize("seed", range(5))
def test_broken_graphs_are_errors_of_the_file_only(seed):
    nodes = [node("w", "VarHandleOp"), node("c", "PartitionedCall", "x", "w", f="one")]
    data = meta_graph(nodes, [function("one", ("x", "w"), node("m", "MatMul", "x", "w"))])
    saved = tf_files.nested(2, data)
    rng = np.random.default_rng(seed)
    for _ in range(400):
        broken = bytearray(saved)
        for place in rng.integers(0, len(broken), rng.integers(1, 4)):
            broken[place] = rng.integers(256)
        try:
            variable_kinds(read_saved_model(bytes(broken)), {"w": 2})
        except InputError:
            continue


def test_a_graph_that_cannot_be_read_leaves_a_note(tmp_path):
    entries = {b"w": tf_files.entry(1, (1,), size=4)}
    prefix = tf_files.write_bundle(tmp_path / "m", entries, bytes(4))
    (tmp_path / "m.meta").write_bytes(b"\x12\xff")
    checkpoint = open_checkpoint(prefix)
    assert checkpoint["w"].kind is None
    assert "m.meta not used" in " ".join(checkpoint.notes)
    with (tmp_path / "m.meta").open("wb") as file:
        file.truncate(1 << 40)
    assert "m.meta (1099511627776 bytes) not used" in " ".join(open_checkpoint(prefix).notes)
