"""A pickle inside any container may ask for a command and for imports: neither ever happens.

The first instructions of every pickle of every container are replaced by an attack, the files are
opened and read in a process of its own, and a canary and the list of loaded modules are looked at.
That the attack works is shown by Python's own unpickler, on the same bytes.
"""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pickle_code import call, text

FIXTURES = Path(__file__).parent.parent / "fixtures"
# Container -> fixture with pickles in it.
CONTAINERS = {
    "torch-zip": "digits-cnn-training.pth",
    "torch-legacy": "digits-cnn-legacy.pth",
    "torch-tar": "odd/tar-of-2016.pth",
    "torchscript": "digits-cnn-script.pt",
    "torch-distributed": "digits-cnn-distributed",
}
RUNNER = """
import json, sys
import wtool
sound, armed = json.load(sys.stdin)
def show(path):
    try:
        checkpoint = wtool.open(path, root=".")
        for tensor in checkpoint:
            tensor.load()
        for command in (wtool.ls, wtool.count, wtool.stats):
            command(checkpoint)
        globals = {row["global"]: row["times"] for row in wtool.ls(checkpoint, globals=True).rows}
        return [len(checkpoint), globals, str(checkpoint.extras)]
    except wtool.WtoolError as error:
        return [error.exit_code, str(error), ""]
answers = [[show(path) for path in sound]]
before = set(sys.modules)
answers.append([show(path) for path in armed])
json.dump([*answers, sorted(set(sys.modules) - before)], sys.stdout)
"""


def attack(canary: Path, module: str = "antigravity") -> bytes:
    """Instructions that write a file and import two modules, and leave no value behind."""
    return (
        call("os.system", text(f"touch {canary}"))
        + b"0"
        + call("importlib.import_module", text(module))
        + b"0"
        + b"cthis\ns\n0"
    )


def armed(data: bytes, code: bytes) -> bytes:
    """The pickle `data` with `code` run first."""
    return data[:2] + code + data[2:]


def arm_zip(source: Path, target: Path, code: bytes) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, armed(data, code) if name.endswith(".pkl") else data)


def arm_legacy(source: Path, target: Path, code: bytes) -> None:
    """The object is the fourth pickle; the third ends where the fourth begins."""
    data = source.read_bytes()
    position = 0
    for _ in range(3):
        *_, (stop, _, at) = pickletools.genops(data[position:])
        assert stop.name == "STOP"
        position += at + 1
    target.write_bytes(data[:position] + armed(data[position:], code))


def arm_tar(source: Path, target: Path, code: bytes) -> None:
    import io
    import tarfile

    with tarfile.open(source) as old, tarfile.open(target, "w:", format=tarfile.PAX_FORMAT) as new:
        for member in old.getmembers():
            data = old.extractfile(member).read()
            if member.name == "pickle":
                data = armed(data, code)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def arm_folder(source: Path, target: Path, code: bytes) -> None:
    target.mkdir()
    for file in source.iterdir():
        data = file.read_bytes()
        (target / file.name).write_bytes(armed(data, code) if file.name == ".metadata" else data)


ARM: dict[str, Callable[[Path, Path, bytes], None]] = {
    "torch-zip": arm_zip,
    "torch-legacy": arm_legacy,
    "torch-tar": arm_tar,
    "torchscript": arm_zip,
    "torch-distributed": arm_folder,
}


class Runs:
    """An object that runs a command when a pickle of it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def write_objects(folder: Path, canary: Path) -> dict[str, Path]:
    """Files of objects: NumPy's, and a pickle of no framework."""
    objects = np.array([Runs(canary)], dtype=object)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    np.savez(folder / "objects.npz", plain=np.ones(2), objects=objects)
    (folder / "plain.pkl").write_bytes(pickle.dumps(Runs(canary)))
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What wtool said of each sound and each armed file, modules that were loaded, the canary."""
    folder = tmp_path_factory.mktemp("armed")
    canary = folder / "canary"
    paths = {}
    for name, fixture in CONTAINERS.items():
        paths[name] = folder / name
        ARM[name](FIXTURES / fixture, paths[name], attack(canary))
    (folder / "objects").mkdir()
    paths |= write_objects(folder / "objects", canary)
    sound = [
        *(FIXTURES / fixture for fixture in CONTAINERS.values()),
        FIXTURES / "digits-cnn.npz",
        FIXTURES / "odd/scalar.npy",
        FIXTURES / "broken/plain-pickle.pkl",
    ]
    asked = json.dumps([[str(path) for path in sound], [str(path) for path in paths.values()]])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, after, modules = json.loads(done.stdout)
    sound_answers = dict(zip(CONTAINERS, before, strict=False))
    return sound_answers, dict(zip(paths, after, strict=True)), modules, canary


def test_the_attack_works_where_a_pickle_is_loaded(tmp_path):
    canary = tmp_path / "canary"
    code = attack(canary, "no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        pickle.loads(armed(pickle.dumps({"a": 1}, protocol=2), code))
    assert canary.exists()


def test_no_command_runs_and_no_module_is_imported(opened):
    _, _, modules, canary = opened
    assert not canary.exists()
    assert modules == []


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_armed_file_opens_with_its_values_and_what_it_asks_for_is_listed(opened, name):
    before, after = opened[0][name], opened[1][name]
    asked = {"os.system", "importlib.import_module", "this.s"}
    assert before[0] == after[0] > 0
    assert set(after[1]) - set(before[1]) == asked
    assert {key: times for key, times in after[1].items() if key not in asked} == before[1]
    assert after[2] == before[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("objects.npy", "object"),
        ("plain.pkl", "a pickle that is not PyTorch's: found it mentions posix.system"),
    ],
)
def test_objects_are_refused_by_what_they_are(opened, name, message):
    code, line, _ = opened[1][name]
    assert code == 3
    assert message in line
