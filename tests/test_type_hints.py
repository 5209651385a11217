"""What a type checker makes of a script that imports wtool: the package says `py.typed`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import wtool

ROOT = Path(__file__).parents[1]
REPORT = "wtool.report.Report"


def test_a_type_checker_knows_every_command_and_its_keywords(tmp_path):
    lines = ["import wtool", "wtool.open('m.pth')", "wtool.stats('m.pth', bye=1)", "wtool.nope"]
    lines += [f"reveal_type(wtool.{name})" for name in wtool.COMMANDS]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    said = done.stdout.splitlines()
    assert any('Unexpected keyword argument "bye" for "stats"' in line for line in said)
    assert any('Module has no attribute "nope"' in line for line in said)
    revealed = [line for line in said if "Revealed type is" in line]
    assert len(revealed) == len(wtool.COMMANDS)
    assert all(line.endswith(f'-> {REPORT}"') for line in revealed), said
