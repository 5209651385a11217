"""Each file of `fixtures/broken/` is answered as in its `expected.toml`; nothing in it runs."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from pathlib import Path

import pytest

import wtool
from wtool import errors

BROKEN = Path(__file__).parent.parent / "fixtures" / "broken"
EXPECTED = tomllib.loads((BROKEN / "expected.toml").read_text("utf8"))
SECONDS = 5


def test_the_table_has_every_file_and_no_other():
    there = {path.name for path in BROKEN.iterdir()} - {"expected.toml"}
    assert there == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_broken_file_gets_the_answer_of_the_table(name, tmp_path, monkeypatch):
    expected = EXPECTED[name]
    monkeypatch.chdir(tmp_path)  # where a command in a file would leave its trace
    before = set(sys.modules)
    start = time.process_time()
    if "opens" in expected:
        checkpoint = wtool.open(BROKEN / name)
        assert len(checkpoint) == expected["opens"]
        assert set(expected.get("globals", [])) <= set(checkpoint.globals)
    else:
        with pytest.raises(getattr(errors, expected["error"])) as caught:
            read_all(BROKEN / name)
        line = str(caught.value)
        assert "\n" not in line
        assert line.startswith(str(BROKEN / name))
        rest = line.removeprefix(str(BROKEN / name)).lower()
        wanted = [word.lower() for word in expected["words"]]
        missing = [word for word in wanted if word not in rest]
        assert not missing, line
        assert caught.value.exit_code == 3
    assert time.process_time() - start < SECONDS
    assert os.listdir(tmp_path) == []
    imported = {module.split(".")[0] for module in set(sys.modules) - before}
    assert not imported & {"torch", "tensorflow", "keras", "safetensors"}


def read_all(path: Path) -> None:
    """Open and read every value."""
    for tensor in wtool.open(path):
        tensor.load()
