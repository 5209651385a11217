"""TensorFlow 1's cells against torch and Keras, by outputs; the cells are the real ones.

They run in a process of their own: TF1's graph mode must not meet the other tests' TensorFlow.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layer_cases import error, layer
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
        kind, _, both = kind.partition(" ")
        options = {"forget_bias": forget} if kind == "lstm" else {}
        cell, other = (CELLS[kind](6, **options) for _ in range(2))
        x = tf.constant(np.load(inputs))
        if both:
            pair, _ = v1.nn.bidirectional_dynamic_rnn(cell, other, x, dtype=tf.float32, scope="m")
            out = tf.concat(pair, 2)
        else:
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
    return cells(framework, layer(kind, a, CELLS[kind], **options))


def cells(framework: str, *layers: str):
    """The mapping of layers of a framework to TF1 cells."""
    head = f"""
    [mapping]
    name = "cell"
    a = {{ framework = "{framework}" }}
    b = {{ framework = "tf1" }}
    """
    return parse_mapping(head + "".join(layers))


def both_directions(kind: str, framework: str, paths: tuple[str, str]):
    """`bidirectional_dynamic_rnn` has its cells in fw/ and bw/."""
    cell = CELLS[kind].removeprefix("m/")
    options = {"forget_bias": 1.0} if kind == "lstm" else {}
    layers = []
    for scope, path, suffix in zip(("fw", "bw"), paths, ("_l0", "_l0_reverse"), strict=True):
        more = {**options, "suffix": suffix} if framework == "torch" else options
        layers.append(layer(kind, path, f"m/{scope}/{cell}", **more))
    return cells(framework, *layers)


@pytest.fixture
def folder(tmp_path):
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype("f")
    np.save(tmp_path / "x.npy", x)
    return tmp_path


def torch_module(kind: str, **options: bool) -> nn.Module:
    torch.manual_seed(3)
    return {"lstm": nn.LSTM, "rnn": nn.RNN}[kind](5, 6, batch_first=True, **options)


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


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("swapped", [False, True])
def test_both_directions_of_tf1_and_torch_compute_the_same(kind, swapped, folder, run_cell):
    """A map with fw/ and bw/ exchanged fits every shape, and is seen by the outputs."""
    rules = both_directions(kind, "torch", ("m", "m"))
    expected = run_cell(f"{kind} both")
    cell = wtool.open(folder / "cell")
    outcome = convert_layouts(cell, rules, to="a")
    save(outcome.checkpoint(), folder / "m.pth")
    state = torch.load(folder / "m.pth", weights_only=True)
    if swapped:
        ends = {"": "_reverse", "_reverse": ""}
        forward = {name: name.removesuffix("_reverse") for name in state}
        state = {forward[n] + ends[n[len(forward[n]) :]]: value for n, value in state.items()}
    module = torch_module(kind, bidirectional=True)
    module.load_state_dict({name.removeprefix("m."): value for name, value in state.items()})
    if swapped:
        assert error(outputs_of(module, folder), expected) > 0.05
        return
    assert error(outputs_of(module, folder), expected) < TOLERANCE

    module = torch_module(kind, bidirectional=True)
    torch.save(
        {f"m.{name}": value for name, value in module.state_dict().items()}, folder / "n.pth"
    )
    back = convert_layouts(wtool.open(folder / "n.pth"), rules, to="b", template=cell)
    save(back.checkpoint(), folder / "back", container="tensorflow")
    found = run_cell(f"{kind} both", restore=str(folder / "back"))
    assert error(found, outputs_of(module, folder)) < TOLERANCE


KERAS_CELLS = {
    "rnn": ("SimpleRNN", "simple_rnn_cell"),
    "lstm": ("LSTM", "lstm_cell"),
    "gru": ("GRU", "gru_cell"),
}


def keras_model(kind: str, library: str, both: bool):
    """A Keras layer called m, of random weights, in one direction or both."""
    keras = importlib.import_module(library)
    options = {"reset_after": False} if kind == "gru" else {}
    make = getattr(keras.layers, KERAS_CELLS[kind][0])
    inputs = keras.Input((4, 5))
    one = make(6, return_sequences=True, name="r" if both else "m", **options)
    model = keras.Model(
        inputs, (keras.layers.Bidirectional(one, name="m") if both else one)(inputs)
    )
    random = np.random.default_rng(7)
    model.set_weights([random.standard_normal(w.shape).astype("f") for w in model.get_weights()])
    return model


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both directions"])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_tf1_and_keras_compute_the_same_either_way(kind, both, library, folder, run_cell):
    leaf = KERAS_CELLS[kind][1]
    if both:
        rules = both_directions(kind, library, (f"m/forward_r/{leaf}", f"m/backward_r/{leaf}"))
    else:
        options = {"forget_bias": 1.0} if kind == "lstm" else {}
        rules = mapping(kind, library, f"m/{leaf}", **options)
    asked = f"{kind} both" if both else kind
    expected = run_cell(asked)
    model = keras_model(kind, library, both)
    suffix = ".weights.h5" if library == "keras" else ".h5"
    own, converted = folder / f"own{suffix}", folder / f"converted{suffix}"
    model.save_weights(own)
    own_outputs = np.asarray(model(np.load(folder / "x.npy")))
    cell = wtool.open(folder / "cell")
    outcome = convert_layouts(cell, rules, to="a", template=wtool.open(own))
    save(outcome.checkpoint(), converted, template=own)
    model.load_weights(converted)
    assert error(np.asarray(model(np.load(folder / "x.npy"))), expected) < TOLERANCE

    back = convert_layouts(wtool.open(own), rules, to="b", template=cell)
    save(back.checkpoint(), folder / "back", container="tensorflow")
    again = run_cell(asked, restore=str(folder / "back"))
    assert error(again, own_outputs) < TOLERANCE
    there = convert_layouts(wtool.open(converted), rules, to="b", template=cell).checkpoint()
    if kind != "lstm":
        assert all(np.array_equal(there[t.name].load(), t.load()) for t in cell)


# As the layer table has them, without the order of the gates.
UNORDERED = {
    "lstm": (
        ("kernel", ["join-cell 4 0"]),
        ("bias", ["shift 2 4 -1"]),
    ),
    "gru": (
        (["gates/kernel", "candidate/kernel"], ["join-cell 3 0", "split 1 2:1"]),
        (["gates/bias", "candidate/bias"], ["split 0 2:1"]),
    ),
}


@pytest.mark.parametrize("kind", UNORDERED)
def test_gates_in_another_order_compute_something_else(kind, folder, run_cell):
    expected = run_cell(kind)
    path = f"m/{KERAS_CELLS[kind][1]}"
    text = ""
    leaves = (["kernel", "recurrent_kernel"], ["bias"])
    for names, (leaf, op) in zip(leaves, UNORDERED[kind], strict=True):
        b = [f"{CELLS[kind]}/{name}" for name in (leaf if isinstance(leaf, list) else [leaf])]
        text += f"[[rule]]\na = {[f'{path}/{n}' for n in names]}\nb = {b}\nop = {op}\n"
        text += 'lossy = "forget-bias"\n' if kind == "lstm" and names == ["bias"] else ""
    model = keras_model(kind, "keras", both=False)
    own, converted = folder / "own.weights.h5", folder / "converted.weights.h5"
    model.save_weights(own)
    outcome = convert_layouts(
        wtool.open(folder / "cell"), cells("keras", text), to="a", template=wtool.open(own)
    )
    save(outcome.checkpoint(), converted, template=own)
    model.load_weights(converted)
    assert error(np.asarray(model(np.load(folder / "x.npy"))), expected) > 0.05


def test_the_forget_bias_must_be_stated():
    with pytest.raises(MalformedInput, match="needs 'forget_bias', which no weight"):
        mapping("lstm", "torch", "m")


def test_a_tf1_gru_has_no_counterpart_in_torch():
    with pytest.raises(MalformedInput, match="resets before the matrix product"):
        mapping("gru", "torch", "m")
