"""The rules about values: each finds its planted fault and nothing in a sound model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from planting import outcomes, sound, write

from wtool.checks.values.scale import median_without

DRAW = np.random.default_rng(7)
CONV = "blocks.3.conv.weight"


def plant(name, change):
    """A sound model with `change` applied to one tensor, in place or by what it returns."""
    model = sound()
    value = model[name].copy()
    answer = change(value)
    model[name] = value if answer is None else answer.astype(value.dtype)
    if change is fresh:  # a trained bias would prove that its layer was trained
        model[name.replace("weight", "bias")] *= 0
    return model


def put(index, value):
    def change(tensor):
        tensor[index] = value

    return change


def memory(tensor):
    """Bytes that lay around: pointers, integers, pieces of text and of other arrays."""
    pointers = DRAW.integers(0x7F00_0000_0000, 0x7FFF_FFFF_FFFF, tensor.size // 4, dtype=np.int64)
    text = np.frombuffer(b"layers.weight_decay=0.1\0torch..." * tensor.size, np.float32)
    mixed = np.concatenate([pointers.view(np.float32), text])[: tensor.size]
    return mixed.reshape(tensor.shape)


def fresh(tensor):
    bound = 1 / np.sqrt(tensor[0].size)
    return DRAW.uniform(-bound, bound, tensor.shape)


def half_tiny(tensor):
    return np.where(np.arange(tensor.size).reshape(tensor.shape) % 2, tensor * 1e-7, tensor)


def tiny(tensor):
    return np.where(np.arange(tensor.size).reshape(tensor.shape) % 5, tensor, 1e-40)


FAULTS = {
    "WT001": (CONV, put((3, 2, 1, 0), np.nan), (3, 2, 1, 0)),
    "WT002": (CONV, put((0, 0, 2, 2), -np.inf), (0, 0, 2, 2)),
    "WT003": ("blocks.2.norm.running_var", put(5, -0.25), (5,)),
    "WT004": ("head.weight", lambda t: t * 0, None),
    "WT005": (CONV, lambda t: t * 0 + 0.01, None),
    "WT006": (CONV, lambda t: t * 1e4, None),
    "WT007": ("blocks.1.fc.weight", put((4, 4), 70_000.0), (4, 4)),
    "WT008": ("blocks.1.fc.weight", half_tiny, None),
    "WT009": ("blocks.1.fc.weight", tiny, None),
    "WT010": (CONV, put(17, 0.0), (17, 0, 0, 0)),
    "WT011": (CONV, lambda t: np.concatenate([t[:20], t[6:7], t[21:]]), (20, 0, 0, 0)),
    "WT012": (CONV, fresh, None),
    "WT013": (CONV, memory, None),
    "WT014": (CONV, lambda t: sound()["blocks.2.conv.weight"], None),
    "WT015": (CONV, lambda t: np.minimum(t, np.quantile(t, 0.96)), None),
}


def test_a_sound_model_is_clean(tmp_path):
    assert outcomes(write(sound(), tmp_path / "sound.safetensors")) == []


@pytest.mark.parametrize("code", FAULTS)
def test_a_planted_fault_is_found_at_its_place(tmp_path, code):
    name, change, index = FAULTS[code]
    path = write(plant(name, change), tmp_path / "m.safetensors")
    hits = [o for o in outcomes(path) if o.rule.code == code]
    assert [hit.finding.tensor for hit in hits] == [name]
    if index is not None:
        assert hits[0].finding.index == index
    assert "; " in hits[0].message


@pytest.mark.parametrize("code", ["WT001", "WT002", "WT003", "WT013"])
def test_values_that_break_a_model_are_errors(tmp_path, code):
    name, change, _ = FAULTS[code]
    hits = outcomes(write(plant(name, change), tmp_path / "m.safetensors"), only=(code,))
    assert [hit.severity for hit in hits] == ["error"]


def test_infinity_in_a_mask_is_only_a_note(tmp_path):
    model = sound() | {"blocks.0.attn_mask": np.triu(np.full((4, 4), -np.inf, np.float32), 1)}
    hits = outcomes(write(model, tmp_path / "m.safetensors"))
    assert [(hit.rule.code, hit.severity) for hit in hits] == [("WT002", "note")]


def test_one_zero_variance_is_a_warning_and_all_are_an_error(tmp_path):
    name = "blocks.2.norm.running_var"
    one = outcomes(write(plant(name, put(5, 0.0)), tmp_path / "one.safetensors"))
    every = outcomes(write(plant(name, lambda t: t * 0), tmp_path / "all.safetensors"))
    assert [(o.rule.code, o.severity) for o in one] == [("WT003", "warning")]
    assert [(o.rule.code, o.severity) for o in every] == [("WT003", "error")]


def test_an_untrained_model_gives_one_finding_for_all(tmp_path):
    model = {
        name: fresh(value).astype(value.dtype) if value.ndim > 1 else value
        for name, value in sound().items()
        if not name.startswith(("head", "stem")) and not name.endswith("bias")
    }
    hits = outcomes(write(model, tmp_path / "m.safetensors"), only=("WT012",))
    assert [hit.finding.tensor for hit in hits] == [None]


def many_layers(change):
    """40 layers, each weight as `change` makes it from a trained one."""
    model = {}
    for number in range(40):
        part = {
            name: value for name, value in sound(number).items() if name.startswith("blocks.1.c")
        }
        for name, value in part.items():
            model[name.replace(".1.", f".{number}.")] = change(value).astype(np.float32)
    return model


def judged(monkeypatch):
    """The names of the weights that are judged from now on."""
    from wtool.layers import initialisation

    names = []
    original = initialisation.judge

    def judge(tensor, checkpoint):
        if tensor.role == "weight":
            names.append(tensor.name)
        return original(tensor, checkpoint)

    monkeypatch.setattr(initialisation, "judge", judge)
    return names


def test_a_few_speak_for_a_large_model_that_was_never_trained(tmp_path, monkeypatch):
    model = many_layers(lambda value: fresh(value) if value.ndim > 1 else value * 0)
    names = judged(monkeypatch)
    (hit,) = outcomes(write(model, tmp_path / "m.safetensors"), only=("WT012",))
    assert hit.finding.message.startswith("40 of 40 weights have scale, mean and tails")
    assert "all of 10 looked at closely" in hit.finding.message
    assert len(names) == 10


def test_a_large_model_that_was_trained_in_part_is_judged_weight_by_weight(tmp_path, monkeypatch):
    """Sorted values keep all moments of an initialiser, and are none that one leaves."""

    def made(change):
        return many_layers(lambda value: change(value) if value.ndim > 1 else value * 0)

    left, moved = made(fresh), made(lambda value: np.sort(fresh(value), axis=1))
    model = {n: (left if int(n.split(".")[1]) % 3 else moved)[n] for n in left}
    names = judged(monkeypatch)
    hits = outcomes(write(model, tmp_path / "m.safetensors"), only=("WT012",))
    assert [hit.finding.message[:28] for hit in hits] == ["26 of 40 weights look as an "]
    assert len(set(names)) == 40


def test_a_weight_whose_moments_no_scheme_has_is_not_read_again(tmp_path, monkeypatch):
    """At the scale of PyTorch's default, but with heavy tails, or with a mean."""
    scale = 1 / np.sqrt(3 * 24)

    def heavy(value):
        return value * scale / value.std() if value.ndim > 1 else value

    def shifted(value):
        return fresh(value) * 0.98 + 0.2 * scale if value.ndim > 1 else value * 0

    names = judged(monkeypatch)
    for change in (heavy, shifted):
        assert (
            outcomes(write(many_layers(change), tmp_path / "m.safetensors"), only=("WT012",)) == []
        )
    assert names == []


def test_tied_weights_are_no_copies(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(sound()[CONV])
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "tied.pth")
    torch.save({"a.weight": weight, "b.weight": weight.clone()}, tmp_path / "copied.pth")
    assert outcomes(str(tmp_path / "tied.pth"), only=("WT014",)) == []
    hits = outcomes(str(tmp_path / "copied.pth"), only=("WT014",))
    assert [hit.finding.tensor for hit in hits] == ["b.weight"]


def test_the_median_of_the_siblings_is_that_of_all_others():
    for count in range(2, 9):
        values = sorted(DRAW.integers(0, 6, count).tolist())
        for own in values:
            others = values.copy()
            others.remove(own)
            assert median_without(values, own) == np.median(others)
