"""Faults met by the commands that write: the old target stays, message and exit code are right."""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wtool.formats
from wtool.cli import run
from wtool.writers.outputs import OLD_SUFFIX, PARTIAL_SUFFIX

OLD = b"the old target"
COMMANDS = {
    "convert": ["convert", "in.pth", "out/m.safetensors", "--force"],
    "cast": ["cast", "in.pth", "out/m.safetensors", "--to", "float16", "--force"],
    "shards": ["convert", "in.pth", "out/m.safetensors", "--force", "--max-shard-size", "2MB"],
}
# Large enough that a kill finds half a file, small enough for many runs.
ELEMENTS = 1 << 20


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with in.pth and an old target in out/; the working folder of the test."""
    torch.manual_seed(0)
    torch.save({f"t{i}": torch.randn(ELEMENTS // 8) for i in range(8)}, tmp_path / "in.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.safetensors").write_bytes(OLD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def start(arguments: list[str], **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "wtool.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("command", ["convert", "cast"])
def test_a_disk_that_takes_no_more_leaves_the_old_target(folder, command):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start(COMMANDS[command], preexec_fn=limit)
    said = process.communicate()[1]
    assert process.returncode == 5
    assert "nothing was changed" in said
    assert listing(folder) == {"m.safetensors": OLD}


@pytest.mark.parametrize("command", ["convert", "cast"])
def test_a_source_that_shrinks_is_named_and_leaves_the_old_target(
    folder, monkeypatch, capsys, command
):
    real = wtool.formats.open_checkpoint

    def open_then_cut(path: str, **options: object):
        checkpoint = real(path, **options)
        os.truncate(path, os.path.getsize(path) // 2)
        return checkpoint

    monkeypatch.setattr(wtool.formats, "open_checkpoint", open_then_cut)
    assert run(COMMANDS[command]) == 3
    said = capsys.readouterr().err
    assert "in.pth" in said
    assert "file too short" in said
    assert listing(folder) == {"m.safetensors": OLD}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminated_command_removes_what_it_had_begun(folder, command):
    """Ten seeded moments; SIGTERM before the handler is set ends the process as ever."""
    rng = random.Random(command)
    codes = set()
    for _ in range(10):
        process = start(COMMANDS[command])
        # The moment is the test's subject; nothing is waited for.
        select.select([], [], [], rng.uniform(0.1, 0.6))
        process.send_signal(signal.SIGTERM)
        process.communicate()
        codes.add(process.returncode)
        left = [p.name for p in (folder / "out").iterdir() if p.name.startswith(".")]
        assert left == []
    assert codes <= {0, 143, -signal.SIGTERM}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_any_moment_leaves_a_whole_target(folder, command):
    """Twelve seeded kills for each command, beside the hundred of the writers' own tests."""
    rng = random.Random(command)
    arguments = COMMANDS[command]
    expected = run(arguments)
    assert expected == 0
    whole = listing(folder)
    for _ in range(12):
        process = start(arguments)
        select.select([], [], [], rng.uniform(0.2, 0.7))
        process.kill()
        process.communicate()
        seen = {}
        for name, data in listing(folder).items():
            if name.startswith("."):
                assert name.endswith((PARTIAL_SUFFIX, OLD_SUFFIX))
                (folder / "out" / name).unlink()
            else:
                seen[name] = data
        index = "m.safetensors.index.json"
        if command != "shards" or index in seen:
            assert seen == whole
        else:
            # Killed between two renames: the index is missing, so nothing looks whole.
            assert run(arguments) == 0


@pytest.mark.parametrize(
    "words", [["stats", "--units"], ["init"], ["diff", "big.safetensors"], ["stats", "--exact"]]
)
def test_whoever_stops_a_command_does_not_wait_for_a_tensor_of_many_gb(folder, words):
    nbytes = 4 * 5_000_000 * 50_000
    header = json.dumps(
        {"fc.weight": {"dtype": "F32", "shape": [5_000_000, 50_000], "data_offsets": [0, nbytes]}}
    )
    with open("big.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(file.tell() + nbytes)
    process = start([words[0], "big.safetensors", *words[1:]])
    # By now it reads; a whole pass would take minutes.
    select.select([], [], [], 2.5)
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in {143, -signal.SIGTERM}


def test_a_folder_that_does_not_exist_is_said_before_the_work(folder, capsys):
    assert run(["cast", "in.pth", "no/m.pth", "--to", "float16"]) == 5
    assert "the folder does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "in.pth", "-o", "in.pth"],
        ["stats", "in.pth", "-o", "other.safetensors"],
        ["freeze", "in.pth", "--freeze", "*", "-o", "in.pth"],
        ["manifest", "in.pth", "-o", "other.safetensors"],
        ["convert", "in.pth", "new.npz", "-o", "in.pth"],
    ],
    ids=lambda words: words[0],
)
def test_text_never_takes_the_place_of_a_weight_file(folder, capsys, words):
    assert run(["convert", "in.pth", "other.safetensors"]) == 0
    before = {name: (folder / name).read_bytes() for name in ("in.pth", "other.safetensors")}
    assert run([*words, "--force"]) == 5
    assert "would replace a weight file" in capsys.readouterr().err
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not (folder / "new.npz").exists()


def test_an_output_that_exists_is_said_before_the_values_are_read(folder, monkeypatch):
    (folder / "report.txt").write_text("old")

    def opened(*args: object, **options: object):
        raise AssertionError("the model was opened")

    monkeypatch.setattr(wtool, "open", opened)
    assert run(["stats", "in.pth", "-o", "report.txt"]) == 5
