"""README's commands are run, and what it prints under them is what they print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

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


def test_the_commands_of_the_readme_print_what_it_says(tmp_path):
    """In order, in one folder: a later example may read what an earlier one wrote."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    wrong = []
    for command, output in examples():
        words = shlex.split(command)
        assert words[0] == "wtool"
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        printed = "\n".join(line.rstrip() for line in (done.stdout + done.stderr).splitlines())
        if not re.fullmatch(pattern_of(output), printed):
            wrong.append(f"$ {command}\n{printed}")
    assert not wrong, "\n\n".join(wrong)


def test_the_readme_shows_examples():
    assert len(examples()) >= 3


def test_every_command_is_in_the_readme():
    from wtool.cli import COMMANDS

    for command in COMMANDS:
        assert f"wtool {command}" in README
