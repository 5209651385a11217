"""What the commands say of one tensor: numbers and the words after them agree."""

import json
import re
import struct
from pathlib import Path

import pytest

from wtool.cli import run
from wtool.errors import counted

STEPS = {
    "ls": "safetensors: 1 tensor, 1 element, 4 B",
    "count": "1 parameter (0 weights, 1 bias); 0 buffer elements; 1 tensor, 4 B",
    "stats": "1 tensor, 1 element, 4 B",
    "check --only nan": "1 rule: clean",
    "cast cast.safetensors --to float16": "1 of 1 tensor cast, 4 B -> 2 B; 0 values overflowed",
    "manifest -o m.json": "wrote m.json: 1 file, ",
    "freeze -o f.json --freeze *": "frozen 1 tensor, 1 element, 4 B; trained 0 tensors, 0 elements",
    "verify m.json": "one.safetensors: 1 tensor verifies",
    "verify m.json --files": "one.safetensors: 1 file verifies",
    "verify f.json": "verifies: 1 of 1 frozen tensor is as it was, 0 of 0 trained ones changed",
    "diff one.safetensors": "1 of 1 tensor is the same: no difference",
}


def test_one_is_one_in_every_footer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header = {"fc.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + struct.pack("<f", 0.5)
    Path("one.safetensors").write_bytes(data)
    for step, footer in STEPS.items():
        command, *rest = step.split()
        assert run([command, "one.safetensors", *rest]) == 0, step
        out = capsys.readouterr().out
        assert footer in out, step
        said = out.rpartition("\n\n")[2]
        assert re.findall(r"(?<![\d,.])1 (?:of )?((?!bias)[a-z]+s)\b", said) == [], step


@pytest.mark.parametrize(
    ("number", "tensors", "layers"),
    [
        (0, "0 tensors", "0 layers are"),
        (1, "1 tensor", "1 layer is"),
        (2, "2 tensors", "2 layers are"),
        (1234, "1,234 tensors", "1,234 layers are"),
    ],
)
def test_a_number_and_its_word_agree(number, tensors, layers):
    assert counted(number, "tensor") == tensors
    assert counted(number, "layer is", "layers are") == layers
