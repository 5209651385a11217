"""README's commands are run, and what it prints under them is what they print."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def examples() -> list[tuple[str, str]]:
    """(command, output) of every `$ wtool ...` in a console block."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def pattern_of(output: str) -> str:
    """A regular expression for an output in which a line `...` stands for any lines."""
    parts = [re.escape(part.rstrip()) for part in re.split(r"^\.\.\.$\n?", output, flags=re.M)]
    return r"\s*" + r"[\s\S]*".join(parts) + r"\s*"


@pytest.mark.parametrize(("command", "output"), examples(), ids=[c for c, _ in examples()])
def test_a_command_of_the_readme_prints_what_the_readme_says(command, output, tmp_path):
    words = shlex.split(command)
    assert words[0] == "wtool"
    words = [word.replace("/tmp/", f"{tmp_path}/") for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "wtool", *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    printed = (done.stdout + done.stderr).replace(f"{tmp_path}/", "/tmp/")
    printed = "\n".join(line.rstrip() for line in printed.splitlines())
    assert re.fullmatch(pattern_of(output), printed), printed


def test_the_readme_shows_examples():
    assert len(examples()) >= 3


def test_every_command_is_in_the_readme():
    from wtool.cli import COMMANDS

    for command in COMMANDS:
        assert f"wtool {command}" in README
