"""What is documented for git and pre-commit: readable diffs of weight files, hooks that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))

from planting import sound, write

from wtool.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_git_shows_a_readable_diff_of_a_weight_file(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return answer.stdout

    git("init", "-q")
    git("config", "diff.wtool.textconv", f"{sys.executable} -m wtool ls --quiet")
    (tmp_path / ".gitattributes").write_text("*.safetensors diff=wtool\n")
    write(sound(), tmp_path / "m.safetensors")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    model = sound()
    model["head.weight"] = model["head.weight"].astype(np.float16)
    write(model, tmp_path / "m.safetensors")
    changed = [line for line in git("diff").splitlines() if line[:1] in "+-"]
    assert any(line.startswith("-head.weight") and "float32" in line for line in changed)
    assert any(line.startswith("+head.weight") and "float16" in line for line in changed)


def test_the_hooks_call_commands_that_exist():
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entries = re.findall(r"^  entry: wtool (\w+)$", text, re.MULTILINE)
    assert entries == ["check", "verify"]
    assert set(entries) <= set(COMMANDS)
    pattern = re.search(r"^  files: '(.*)'$", text, re.MULTILINE)[1]
    assert re.search(pattern, "weights/model.safetensors")
    assert not re.search(pattern, "README.md")
