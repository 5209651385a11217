"""TensorFlow 1's cells against torch and Keras, by outputs; the cells are the real ones.

They run in a process of their own: TF1's graph mode must not meet the other tests' TensorFlow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wtool
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.verification import convert_layouts
from wtool.errors import MalformedInput
from wtool.writers import save

TOLERANCE = 1e-5
# Answers requests line by line: builds a cell, restores or randomises its variables, saves them and
# its outputs.
SERVER = """
import json
import sys
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import rnn_cell_impl as cells
v1 = tf.compat.v1
v1.disable_v2_behavior()
CELLS = {"lstm": cells.LSTMCell, "rnn": cells.BasicRNNCell, "gru": cells.GRUCell}
for line in sys.stdin:
    kind, forget, inputs, restore, prefix, outputs = json.loads(line)
    with tf.Graph().as_default(), v1.Session() as session:
        cell = CELLS[kind](6, **({"forget_bias": forget} if kind == "lstm" else {}))
        x = tf.constant(np.load(inputs))
        out, _ = v1.nn.dynamic_rnn(cell, x, dtype=tf.float32, scope="m")
        saver = v1.train.Saver()
        random = np.random.default_rng(5)
        if restore:
            saver.restore(session, restore)
        else:
            for variable in v1.global_variables():
                variable.load(random.standard_normal(variable.shape).astype("f") * 0.5, session)
            saver.save(session, prefix)
        np.save(outputs, session.run(out))
    print("done", flush=True)
"""
CELLS = {"lstm": "m/lstm_cell", "rnn": "m/basic_rnn_cell", "gru": "m/gru_cell"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    with process:
        yield process
        process.stdin.close()


@pytest.fixture
def run_cell(server, folder):
    """Outputs of a real TF1 cell on `x.npy`; its variables are in `folder / "cell"`."""

    def run(kind: str, forget: float = 1.0, restore: str = "") -> np.ndarray:
        outputs = str(folder / "outputs.npy")
        request = [kind, forget, str(folder / "x.npy"), restore, str(folder / "cell"), outputs]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "done\n"
        return np.load(outputs)

    return run


def mapping(kind: str, framework: str, a: str, **options: object):
    lines = [f"{key} = {value!r}" for key, value in options.items()]
    return parse_mapping(
        f"""
        [mapping]
        name = "cell"
        a = {{ framework = "{framework}" }}
        b = {{ framework = "tf1" }}
        [[layer]]
        kind = "{kind}"
        a = "{a}"
        b = "{CELLS[kind]}"
        """
        + "\n".join(lines)
    )


@pytest.fixture
def folder(tmp_path):
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype("f")
    np.save(tmp_path / "x.npy", x)
    return tmp_path


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def torch_module(kind: str) -> nn.Module:
    torch.manual_seed(3)
    return {"lstm": nn.LSTM, "rnn": nn.RNN}[kind](5, 6, batch_first=True)


def outputs_of(module: nn.Module, folder: Path) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(np.load(folder / "x.npy")))[0].numpy()


@pytest.mark.parametrize(("kind", "forget"), [("rnn", 1.0), ("lstm", 1.0), ("lstm", 0.0)])
def test_a_tf1_cell_and_torch_compute_the_same_in_both_directions(kind, forget, folder, run_cell):
    options = {"forget_bias": forget} if kind == "lstm" else {}
    rules = mapping(kind, "torch", "m", **options)
    expected = run_cell(kind, forget)
    outcome = convert_layouts(wtool.open(folder / "cell"), rules, to="a")
    save(outcome.checkpoint(), folder / "m.pth")
    state = torch.load(folder / "m.pth", weights_only=True)
    module = torch_module(kind)
    module.load_state_dict({name.removeprefix("m."): value for name, value in state.items()})
    assert error(outputs_of(module, folder), expected) < TOLERANCE

    module = torch_module(kind)
    torch.save(
        {f"m.{name}": value for name, value in module.state_dict().items()}, folder / "n.pth"
    )
    back = convert_layouts(wtool.open(folder / "n.pth"), rules, to="b")
    save(back.checkpoint(), folder / "back", container="tensorflow")
    found = run_cell(kind, forget, restore=str(folder / "back"))
    assert error(found, outputs_of(module, folder)) < TOLERANCE


def test_a_forgotten_forget_bias_computes_something_else(folder, run_cell):
    expected = run_cell("lstm", 1.0)
    rules = mapping("lstm", "torch", "m", forget_bias=0.0)
    outcome = convert_layouts(wtool.open(folder / "cell"), rules, to="a")
    save(outcome.checkpoint(), folder / "m.pth")
    state = torch.load(folder / "m.pth", weights_only=True)
    module = torch_module("lstm")
    module.load_state_dict({name.removeprefix("m."): value for name, value in state.items()})
    assert error(outputs_of(module, folder), expected) > 0.05


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_tf1_cell_and_keras_compute_the_same(kind, folder, run_cell):
    import keras

    options = {"forget_bias": 1.0} if kind == "lstm" else {}
    path = {"lstm": "m/lstm_cell", "rnn": "m/simple_rnn_cell", "gru": "m/gru_cell"}[kind]
    rules = mapping(kind, "keras", path, **options)
    expected = run_cell(kind)
    more = {"reset_after": False} if kind == "gru" else {}
    layer = {"lstm": keras.layers.LSTM, "rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU}[
        kind
    ]
    inputs = keras.Input((4, 5))
    model = keras.Model(inputs, layer(6, return_sequences=True, name="m", **more)(inputs))
    fresh, converted = folder / "fresh.weights.h5", folder / "converted.weights.h5"
    model.save_weights(fresh)
    cell = wtool.open(folder / "cell")
    outcome = convert_layouts(cell, rules, to="a", template=wtool.open(fresh))
    save(outcome.checkpoint(), converted, template=fresh)
    model.load_weights(converted)
    assert error(np.asarray(model(np.load(folder / "x.npy"))), expected) < TOLERANCE

    back = convert_layouts(wtool.open(converted), rules, to="b", template=cell)
    save(back.checkpoint(), folder / "back", container="tensorflow")
    again = run_cell(kind, restore=str(folder / "back"))
    assert error(again, expected) < TOLERANCE


def test_the_forget_bias_must_be_stated():
    with pytest.raises(MalformedInput, match="needs 'forget_bias', which no weight"):
        mapping("lstm", "torch", "m")


def test_a_tf1_gru_has_no_counterpart_in_torch():
    with pytest.raises(MalformedInput, match="resets before the matrix product"):
        mapping("gru", "torch", "m")
