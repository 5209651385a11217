"""Every public function takes a `pathlib.Path` where it takes a path as text, and answers alike."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import wtool

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = FIXTURES / "digits-cnn.pth"
SAFE = FIXTURES / "digits-cnn.safetensors"
RELEASE = FIXTURES / "manifests" / "release-1.json"
FREEZING = FIXTURES / "manifests" / "freeze-1.json"
RNN = FIXTURES / "topics-rnn.pth"
KERAS = FIXTURES / "topics-rnn.weights.h5"

# Function -> (arguments by position, by name), of two kinds: Paths, and all else. A path that is
# not whole lies in the test's own folder.
CASES: dict[str, tuple[str, tuple[object, ...], Mapping[str, object]]] = {
    "open": ("open", (CNN,), {}),
    "ls": ("ls", (CNN,), {}),
    "count": ("count", (CNN,), {}),
    "stats": ("stats", (CNN,), {}),
    "init": ("init", (CNN,), {}),
    "diff": ("diff", (CNN, SAFE), {}),
    "diff, manifest first": ("diff", (RELEASE, SAFE), {}),
    "diff, manifest last": ("diff", (SAFE, RELEASE), {}),
    "convert": ("convert", (CNN, Path("out.safetensors")), {"prove": True}),
    "convert to shards": ("convert", (CNN, Path("out.safetensors")), {"shards": 2}),
    "convert to TensorFlow": (
        "convert",
        (FIXTURES / "digits-cnn-tf", Path("out")),
        {"template": FIXTURES / "digits-cnn-tf"},
    ),
    "convert to Keras": (
        "convert",
        (RNN, Path("out.weights.h5")),
        {"to": "keras", "like": KERAS, "sidecar": Path("aside.safetensors")},
    ),
    "convert by a mapping": (
        "convert",
        (RNN, Path("out.weights.h5")),
        {"map": Path("mapping.toml"), "like": KERAS, "template": KERAS},
    ),
    "cast": ("cast", (CNN, Path("half.safetensors")), {"to": "float16", "prove": True}),
    "cast on a template": (
        "cast",
        (KERAS, Path("same.weights.h5")),
        {"to": "float32", "template": KERAS},
    ),
    "map": ("map", (RNN, KERAS), {"save": Path("saved.toml")}),
    "check": ("check", (CNN,), {}),
    "check of several": ("check", ([CNN, SAFE],), {"policy": Path("policy.toml")}),
    "doctor": ("doctor", (CNN,), {"against": SAFE}),
    "doctor by a list": ("doctor", (CNN,), {"against": Path("names.txt")}),
    "doctor of a cut file": ("doctor", (FIXTURES / "broken" / "cut.pth",), {}),
    "manifest": ("manifest", (CNN,), {"output": Path("made.json")}),
    "manifest of several": (
        "manifest",
        ([CNN, RNN],),
        {"output": Path("made.json"), "previous": RELEASE},
    ),
    "freeze": ("freeze", (CNN,), {"rules": [("freeze", "*")], "output": Path("freeze.json")}),
    "verify": ("verify", (SAFE, RELEASE), {}),
    "verify of files": ("verify", (CNN, RELEASE), {"files": True}),
    "verify of a frozen model": ("verify", (CNN, FREEZING), {"original": CNN, "tolerance": 0.5}),
    "verify beside the original": ("verify", (CNN, Path("freeze-1.json")), {"tolerance": 0.5}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the cases read that no fixture is: a policy, a list of names, a mapping, a manifest."""
    (tmp_path / "policy.toml").write_text('[check]\nfail_on = "error"\n')
    names = list(wtool.open(str(CNN)).tensors)
    (tmp_path / "names.txt").write_text("\n".join(names))
    wtool.map(str(RNN), str(KERAS), save=str(tmp_path / "mapping.toml"))
    shutil.copy(FREEZING, tmp_path / "freeze-1.json")
    shutil.copy(CNN, tmp_path / "digits-cnn.pth")
    return tmp_path


def with_paths(value: object, folder: Path, make: Callable[[Path], object]) -> Any:
    """`value` with `make` of every path in it, below `folder` where that is not whole."""
    if isinstance(value, list):
        return [with_paths(item, folder, make) for item in value]
    return make(folder / value) if isinstance(value, Path) else value


def answer(case: str, folder: Path, make: Callable[[Path], object]) -> tuple[object, ...]:
    """What the function gives, as far as it can be compared, and the bytes of what it writes."""
    function, args, options = CASES[case]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    given = [with_paths(value, folder, make) for value in args]
    found = getattr(wtool, function)(
        *given, **{name: with_paths(value, folder, make) for name, value in options.items()}
    )
    written = {path: path.read_bytes() for path in folder.iterdir() if path not in before}
    for path in written:
        path.unlink()
    if function == "open":
        return found.path, list(found.tensors)
    facts = found.ok, found.rows, found.totals, list(found.notes), list(found.sources)
    return *facts, list(found.footer), written


@pytest.mark.parametrize("case", CASES)
def test_a_path_of_pathlib_gives_what_its_text_gives(case: str, folder: Path):
    assert answer(case, folder, lambda path: path) == answer(case, folder, str)


def test_every_public_function_is_tried_with_paths():
    assert {function for function, _, _ in CASES.values()} == {"open", *wtool.COMMANDS}


def test_every_parameter_that_takes_a_path_says_so():
    """A text in the place of a path is annotated with it."""
    tried = {
        (function, name)
        for function, args, options in CASES.values()
        for name, value in [
            *zip(inspect.signature(getattr(wtool, function)).parameters, args, strict=False),
            *options.items(),
        ]
        if isinstance(value, Path) or (isinstance(value, list) and isinstance(value[0], Path))
    }
    hints = {
        (function, name): inspect.signature(getattr(wtool, function)).parameters[name].annotation
        for function, name in tried
    }
    assert {place: hint for place, hint in hints.items() if "os.PathLike[str]" not in hint} == {}
