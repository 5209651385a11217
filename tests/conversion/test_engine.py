"""What a conversion refuses, what it verifies by value, and what it sets aside."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import wtool
from wtool.cli import run
from wtool.conversion.engine import choose_side
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.verification import convert_layouts
from wtool.errors import UnsupportedError
from wtool.writers import save

HEAD = """[mapping]
name = "m"
a = { framework = "torch" }
b = { framework = "keras" }
"""
BN = '[[layer]]\nkind = "batchnorm"\na = "bn{i:int}"\nb = "bn{i}"\n'
LINEAR = '[[layer]]\nkind = "linear"\na = "fc"\nb = "fc"\n'
CONV = '[[layer]]\nkind = "conv"\na = "c{i:int}"\nb = "c{i}"\n'
FILLED = CONV + 'bias = { only = "b", fill = 0.0 }\n'
TIED = (
    '[[rule]]\na = "emb.weight"\nb = "emb/embeddings"\n'
    '[[tied]]\nside = "a"\nname = "head.weight"\nsame_as = "emb.weight"\n'
)
LSTM = '[[layer]]\nkind = "lstm"\na = "r"\nb = "r/lstm_cell"\n'


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def norm(i: int = 0, leave: str = "") -> dict[str, torch.Tensor]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    values = {name: randn(4) + n for n, name in enumerate(leaves[:4])}
    values["num_batches_tracked"] = torch.tensor(7)
    return {f"bn{i}.{name}": value for name, value in values.items() if name != leave}


@pytest.fixture
def opened(tmp_path):
    def make(tensors: dict[str, torch.Tensor], name: str = "m.pth"):
        torch.save(tensors, tmp_path / name)
        return wtool.open(tmp_path / name)

    return make


def problems(source, text: str, to="b", **options) -> str:
    outcome = convert_layouts(source, parse_mapping(HEAD + text), to=to, **options)
    with pytest.raises(UnsupportedError) as caught:
        outcome.checkpoint()
    assert caught.value.exit_code == 4
    return "; ".join(map(str, outcome.open))


def test_a_missing_statistic_is_named(opened):
    found = problems(opened(norm(leave="running_var")), BN)
    assert "lacks 'bn0.running_var' beside it ([[layer]] at line 5 (batchnorm))" in found


def test_an_extra_tensor_is_named(opened):
    assert "'x.weight' has no rule" in problems(opened({**norm(), "x.weight": randn(2)}), BN)


def test_two_rules_for_one_tensor_are_named(opened):
    text = BN + '[[ignore]]\nside = "a"\nname = "bn0.{w}"\nreason = "not wanted"\n'
    found = problems(opened(norm()), text)
    assert (
        "'bn0.weight' is taken by two rules: [[layer]] at line 5 (batchnorm) and [[ignore]]"
        in found
    )


def test_a_target_given_twice_is_named(opened):
    text = CONV.replace("c{i:int}", "c0").replace("c{i}", "c") + CONV.replace(
        "c{i:int}", "c1"
    ).replace("c{i}", "c")
    found = problems(opened({"c0.weight": randn(2, 3, 1, 1), "c1.weight": randn(2, 3, 1, 1)}), text)
    assert "'c/kernel' is given twice" in found


def test_a_broken_tie_is_named_and_a_sound_one_dropped_and_made_again(opened, tmp_path):
    weight = randn(5, 3)
    sound = opened({"emb.weight": weight, "head.weight": weight.clone()})
    outcome = convert_layouts(sound, parse_mapping(HEAD + TIED), to="b")
    assert list(outcome.checkpoint().tensors) == ["emb/embeddings"]
    save(outcome.checkpoint(), tmp_path / "b.npz")
    back = convert_layouts(wtool.open(tmp_path / "b.npz"), parse_mapping(HEAD + TIED), to="a")
    assert back.checkpoint().aliases == {"head.weight": "emb.weight"}
    broken = opened({"emb.weight": weight, "head.weight": weight + 1e-6}, "x.pth")
    assert "'head.weight' is not equal to 'emb.weight'" in problems(broken, TIED)
    alone = opened({"head.weight": weight}, "y.pth")
    assert "is tied to 'emb.weight', which is not there" in problems(alone, TIED)


def test_a_fill_is_made_one_way_and_dropped_the_other_only_if_it_is_the_fill(opened, tmp_path):
    mapping = parse_mapping(HEAD + FILLED)
    outcome = convert_layouts(opened({"c0.weight": randn(5, 3, 2, 2)}), mapping, to="b")
    bias = outcome.checkpoint()["c0/bias"]
    assert bias.shape == (5,)
    assert not bias.load().any()
    for value, is_complete in ((0.0, True), (1e-30, False)):
        kernel = np.zeros((2, 2, 3, 5), "f")
        np.savez(tmp_path / "b.npz", **{"c0/kernel": kernel, "c0/bias": np.full(5, value, "f")})
        back = convert_layouts(wtool.open(tmp_path / "b.npz"), mapping, to="a")
        assert (not back.open) is is_complete
        if not is_complete:
            assert "'c0/bias' is dropped as 0, and is not" in str(back.open[0])


def test_a_bias_of_another_length_shows_a_wrong_kind(opened):
    """GPT-2's Conv1D, stored (in, out), called linear; a transposed convolution called one."""
    found = problems(opened({"fc.weight": randn(4, 12), "fc.bias": randn(12)}), LINEAR)
    assert "does not look like linear: axis 0 of [4, 12]" in found
    found = problems(opened({"c0.weight": randn(4, 6, 2, 2), "c0.bias": randn(6)}), CONV)
    assert "does not look like conv" in found


def test_a_rank_that_does_not_fit_is_named_not_reshaped(opened):
    found = problems(opened({"fc.weight": randn(4, 3, 1)}), LINEAR)
    assert "'fc.weight' 'permute 1 0' does not fit" in found


def test_the_template_must_be_covered_exactly(opened, tmp_path):
    source = opened({"fc.weight": randn(2, 3), "fc.bias": randn(2)})
    right = {"fc/kernel": np.zeros((3, 2), "f"), "fc/bias": np.zeros(2, "f")}
    cases = {
        "": right,
        "'x/kernel' of the template is given by no rule": {**right, "x/kernel": right["fc/bias"]},
        "'fc/bias' is not in the template": {"fc/kernel": right["fc/kernel"]},
        "has shape [3, 2], the template [2, 3]": {**right, "fc/kernel": np.zeros((2, 3), "f")},
        "is float32, the template float16: cast": {**right, "fc/bias": np.zeros(2, "e")},
    }
    for index, (message, arrays) in enumerate(cases.items()):
        path = tmp_path / f"t{index}.npz"
        np.savez(path, **arrays)
        template = wtool.open(path)
        if message:
            assert message in problems(source, LINEAR, template=template)
        else:
            mapping = parse_mapping(HEAD + LINEAR)
            assert not convert_layouts(source, mapping, to="b", template=template).open


def test_a_rule_whose_way_back_differs_is_named(opened, monkeypatch):
    """The check itself: an operation with a wrong inverse is caught by the values."""
    from wtool.conversion.operations import Permute

    monkeypatch.setattr(Permute, "inverse", lambda self: self.__class__((0, 1)))
    found = problems(opened({"fc.weight": randn(3, 3)}), LINEAR)
    assert "'fc.weight' comes back with other values" in found


def test_nan_and_every_type_come_back_bit_for_bit(opened):
    values = torch.tensor([[float("nan"), -0.0], [float("inf"), 1e-45]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        source = opened({"fc.weight": values.to(dtype)}, f"{dtype}.pth")
        outcome = convert_layouts(source, parse_mapping(HEAD + LINEAR), to="b")
        assert outcome.verified
        assert not outcome.open


def test_tied_sources_stay_tied(opened, tmp_path):
    weight = randn(4, 3)
    text = LINEAR.replace('"fc"', '"{m}"')
    outcome = convert_layouts(
        opened({"fc.weight": weight, "head.weight": weight}), parse_mapping(HEAD + text), to="b"
    )
    assert outcome.checkpoint().aliases == {"head/kernel": "fc/kernel"}


def test_a_sidecar_makes_the_way_back_exact(opened, tmp_path):
    module = torch.nn.LSTM(3, 4)
    state = {f"r.{name}": value.detach() for name, value in module.state_dict().items()}
    source = opened({**state, **norm()})
    mapping = parse_mapping(HEAD + LSTM + BN)
    outcome = convert_layouts(source, mapping, to="b")
    aside = outcome.sidecar()
    assert set(aside.tensors) == {"r.bias_ih_l0", "r.bias_hh_l0", "bn0.num_batches_tracked"}
    save(aside, tmp_path / "aside.safetensors")
    save(outcome.checkpoint(), tmp_path / "b.npz")
    there, sidecar = wtool.open(tmp_path / "b.npz"), wtool.open(tmp_path / "aside.safetensors")
    back = convert_layouts(there, mapping, to="a", sidecar=sidecar)
    save(back.checkpoint(), tmp_path / "back.pth")
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    for name, value in {**state, **norm()}.items():
        assert torch.equal(again[name], value), name

    arrays = dict(np.load(tmp_path / "b.npz"))
    arrays["r/lstm_cell/bias"][3] += 1
    np.savez(tmp_path / "trained.npz", **arrays)
    trained = wtool.open(tmp_path / "trained.npz")
    other = convert_layouts(trained, mapping, to="a", sidecar=sidecar)
    assert "of the sidecar belongs to other values" in str(other.open[0])
    without = convert_layouts(trained, mapping, to="a")
    assert not without.open
    # Outputs are exact without a sidecar too: one bias holds the sum, the other nothing.
    assert not without.checkpoint()["r.bias_hh_l0"].load().any()


def test_the_side_follows_the_framework_or_the_names(opened):
    source = opened({"fc.weight": randn(2, 3)})
    mapping = parse_mapping(HEAD + LINEAR)
    assert choose_side(source, mapping, "keras") == "b"
    assert choose_side(source, mapping) == "b"
    both = parse_mapping(HEAD.replace("keras", "torch") + LINEAR.replace('b = "fc"', 'b = "out"'))
    assert choose_side(source, both, "torch") == "b"
    assert list(convert_layouts(source, both, to="b").checkpoint().tensors) == ["out.weight"]


def test_the_elements_balance(opened):
    outcome = convert_layouts(
        opened({**norm(), "fc.weight": randn(2, 3)}), parse_mapping(HEAD + BN + LINEAR), to="b"
    )
    totals = outcome.report().totals
    assert totals["source_elements"] == 4 * 4 + 1 + 6
    assert totals["converted_elements"] == totals["target_elements"] == 4 * 4 + 6
    assert totals["lossy_elements"] == 1


REFUSED = {
    "a square matrix that may be a table": ({"x.weight": randn(4, 4)}, "Linear or an Embedding"),
    "a table that is no Linear": ({"emb.weight": randn(9, 4)}, "Linear or an Embedding"),
    "GPT-2's Conv1D": (
        {"h.c_attn.weight": randn(4, 12), "h.c_attn.bias": randn(12)},
        "GPT-2's Conv1D",
    ),
    "a square GPT-2 Conv1D": (
        {"h.c_proj.weight": randn(4, 4), "h.c_proj.bias": randn(4)},
        "GPT-2's Conv1D",
    ),
    "a square kernel": ({"up.weight": randn(4, 4, 2, 2), "up.bias": randn(4)}, "a transposed one"),
    "a kernel of one channel": ({"c.weight": randn(4, 1, 3, 3), "c.bias": randn(4)}, "depthwise"),
    "a kernel without a bias": ({"c.weight": randn(4, 3, 3, 3)}, "a transposed one"),
    "a Linear after Flatten": (
        {
            "c.weight": randn(4, 3, 3, 3),
            "c.bias": randn(4),
            "fc.weight": randn(2, 36),
            "fc.bias": randn(2),
        },
        "may follow Flatten",
    ),
    "a bare parameter": ({"cls_token": randn(1, 1, 4)}, "of no known layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nothing_decides_is_refused_and_nothing_is_written(case, tmp_path, capsys):
    tensors, reason = REFUSED[case]
    torch.save(tensors, tmp_path / "m.pth")
    arguments = ["convert", str(tmp_path / "m.pth"), str(tmp_path / "out.npz"), "--to", "keras"]
    assert run(arguments) == 4
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_siblings_of_one_shape_under_other_names_are_refused(tmp_path, capsys):
    torch.save({"a.weight": randn(4, 3, 1, 1), "b.weight": randn(4, 3, 1, 1)}, tmp_path / "m.pth")
    kernel = np.zeros((1, 1, 3, 4), "f")
    np.savez(tmp_path / "like.npz", **{"first/kernel": kernel, "second/kernel": kernel})
    arguments = ["convert", "m.pth", "out.npz", "--to", "keras", "--like", "like.npz"]
    arguments[1:3] = [str(tmp_path / name) for name in arguments[1:3]]
    arguments[-1] = str(tmp_path / "like.npz")
    assert run(arguments) == 4
    assert "no module of that name" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_assumptions_and_constants_decide_and_are_recorded(tmp_path, capsys):
    tensors = REFUSED["a Linear after Flatten"][0]
    torch.save(tensors, tmp_path / "m.pth")
    arguments = ["convert", str(tmp_path / "m.pth"), str(tmp_path / "o.safetensors")]
    arguments += ["--to", "keras", "--assume", "fc=linear_flatten", "--set", "chw=4,3,3"]
    assert run([*arguments, "--explain", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    row = next(row for row in rows if row["target"] == "fc/kernel")
    assert row["evidence"] == "assumed by the user"
    assert not (tmp_path / "o.safetensors").exists()
    assert run(arguments) == 0
    written = wtool.open(tmp_path / "o.safetensors")
    expected = tensors["fc.weight"].reshape(2, 4, 3, 3).permute(2, 3, 1, 0).reshape(36, 2)
    assert np.array_equal(written["fc/kernel"].load(), expected.numpy())
    assert written.metadata["wtool.mapping"] == "same module paths"
    assert run([*arguments[:-1], "chw=4,9,1", "--force"]) == 0
    assert run([*arguments[:-1], "chw=4,4,3", "--force"]) == 4


def test_a_sidecar_is_written_and_read_by_the_command(tmp_path, capsys):
    torch.save(norm(), tmp_path / "m.pth")
    (tmp_path / "m.toml").write_text(HEAD + BN)
    rules = ["--map", str(tmp_path / "m.toml"), "--sidecar", str(tmp_path / "s.safetensors")]
    there, back = str(tmp_path / "b.safetensors"), str(tmp_path / "back.pth")
    assert run(["convert", str(tmp_path / "m.pth"), there, *rules]) == 0
    assert "set aside in" in capsys.readouterr().err
    assert run(["convert", there, back, *rules, "--allow", "metadata"]) == 0
    again = torch.load(back, weights_only=True)
    assert all(torch.equal(again[name], value) for name, value in norm().items())
    assert run(["convert", str(tmp_path / "m.pth"), there, "--like", there]) == 2


# VmHWM, not ru_maxrss: the latter counts what the parent held when it forked.
MEASURED = """
import re, sys
from wtool.cli import run
code = run(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)
print(code, int(peak) * 1024)
"""


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_large_tensor_is_permuted_within_its_size_and_200_megabytes(kind, tmp_path):
    """256 MB here; tests/bench/bench_layouts.py does the same with 2 GB."""
    shape = (8192, 8192) if kind == "linear" else (2048, 3641, 3, 3)
    nbytes = 4 * int(np.prod(shape))
    header = {"x.weight": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, nbytes]}}
    text = json.dumps(header).encode()
    with (tmp_path / "m.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + nbytes)
        for place in range(0, nbytes, nbytes // 7):
            file.seek(8 + len(text) + place // 4 * 4)
            file.write(np.float32(place).tobytes())
    (tmp_path / "m.toml").write_text(HEAD + f'[[layer]]\nkind = "{kind}"\na = "x"\nb = "x"\n')
    arguments = ["convert", str(tmp_path / "m.safetensors"), str(tmp_path / "o.safetensors")]
    arguments += ["--map", str(tmp_path / "m.toml")]
    command = [sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    code, peak = map(int, done.stdout.split("\n")[-2].split())
    assert code == 0
    assert peak < nbytes + 200e6
    out = wtool.open(tmp_path / "o.safetensors")["x/kernel"]
    order = (1, 0) if kind == "linear" else (2, 3, 1, 0)
    source = np.memmap(tmp_path / "m.safetensors", "f4", "r", 8 + len(text), shape)
    found = np.memmap(tmp_path / "o.safetensors", "f4", "r", out.offset, out.shape)
    assert np.count_nonzero(found) == np.count_nonzero(source) == 7
    assert np.array_equal(np.sort(found[found != 0]), np.sort(source[source != 0]))
    for index in np.argwhere(source):
        assert found[tuple(index[list(order)])] == source[tuple(index)]
