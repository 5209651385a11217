"""The commands as functions: keywords that the command line would have turned away or split up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import wtool
from wtool.errors import UsageError

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = FIXTURES / "digits-cnn.pth"


def names_of(path: Path) -> set[str]:
    return set(wtool.open(path).tensors)


@pytest.mark.parametrize(
    "options",
    [
        {"select": "fc1.*"},
        {"exclude": "fc1.*"},
        {"strip_prefix": "bn1."},
        {"rename": "fc1.*=head.*"},
    ],
)
def test_one_text_alone_is_one_where_convert_takes_several(options, tmp_path):
    alone, listed = tmp_path / "alone.safetensors", tmp_path / "listed.safetensors"
    wtool.convert(CNN, alone, **options)
    wtool.convert(CNN, listed, **{name: [text] for name, text in options.items()})
    assert names_of(alone) == names_of(listed)
    assert alone.read_bytes() == listed.read_bytes()


def test_one_text_alone_is_one_in_every_command(tmp_path):
    assert wtool.check(CNN, only="WT001").totals["rules"] == 1
    assert wtool.check(CNN, ignore="WT001", select="fc1.*").ok
    half = tmp_path / "half.safetensors"
    wtool.cast(CNN, half, to="float16", keep="fc1.*")
    assert wtool.open(half)["fc1.weight"].dtype.name == "float32"
    assert wtool.diff(CNN, half, select="fc1.*").ok
    manifest = tmp_path / "fc1.json"
    wtool.manifest(CNN, output=manifest, select="fc1.*")
    assert json.loads(manifest.read_text())["models"][0]["select"] == ["fc1.*"]
    assert wtool.verify(CNN, manifest, tensors=True, select="fc1.weight").ok


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wtool.stats(CNN, top=-1), "bad number of rows: expected --top 0 or more"),
        (lambda: wtool.check(CNN, fail_on="nope"), "bad --fail-on: expected warning or error"),
        (lambda: wtool.freeze(CNN, rules=[("freezes", "*")], output="x"), "unknown rule: expected"),
    ],
)
def test_a_value_that_the_command_line_refuses_is_refused_here(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_root_is_refused_for_a_checkpoint_that_is_open(tmp_path):
    training = wtool.open(FIXTURES / "digits-cnn-training.pth")
    out = tmp_path / "out.safetensors"
    for call in (
        lambda: wtool.convert(training, out, root="ema", model_only=True),
        lambda: wtool.cast(training, out, to="float16", root="ema", model_only=True),
        lambda: wtool.check(training, root="ema"),
        lambda: wtool.manifest(training, output=out, root="ema"),
        lambda: wtool.freeze(training, rules=[("freeze", "*")], output=out, root="ema"),
    ):
        with pytest.raises(UsageError, match=r"root says how to open a file.*root='ema'"):
            call()
    assert not out.exists()
