"""What a failed or killed save leaves: the old target, and nothing that looks like a model."""

from __future__ import annotations

import errno
import json
import os
import random
import select
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from save_server import small
from writer_models import model, strided

from wtool.checkpoint import Tensor, build
from wtool.dtypes import DTYPES
from wtool.errors import OutputError, OutputExists, TruncatedInput, UsageError
from wtool.extents import Strided
from wtool.formats import Probe
from wtool.formats.npz import open_file as open_npz
from wtool.formats.safetensors import open_file as open_safetensors
from wtool.formats.sharded import open_file as open_sharded
from wtool.formats.tf_bundle import open_file as open_tf
from wtool.sources import FileSource
from wtool.writers import outputs, save
from wtool.writers.outputs import OLD_SUFFIX, PARTIAL_SUFFIX, OutputSet

CONTAINERS = {"safetensors": "m.safetensors", "torch": "m.pth", "tensorflow": "m", "npz": "m.npz"}
OLD = b"the old target"


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def shrinking(folder: Path):
    """A model over a file that is cut after it was opened."""
    path = folder / "source.bin"
    path.write_bytes(bytes(4000))
    extent = Strided(FileSource(path), 0, 4000, DTYPES["float32"], (1000,))
    path.write_bytes(bytes(3000))
    path.rename(folder.parent / "source.bin")
    return build("source", "memory", [strided("first", np.ones(3)), Tensor("cut", "cut", extent)])


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_source_that_shrinks_leaves_the_old_target_and_nothing_else(tmp_path, container):
    folder = tmp_path / "out"
    folder.mkdir()
    source = shrinking(folder)
    files = [str(folder / CONTAINERS[container])]
    if container == "tensorflow":
        files = [files[0] + ending for ending in (".index", ".data-00000-of-00001")]
    for file in files:
        Path(file).write_bytes(OLD)
    with pytest.raises(TruncatedInput) as error:
        save(source, folder / CONTAINERS[container], container=container, force=True)
    assert error.value.tensor == "cut"
    assert listing(folder) == {os.path.basename(file): OLD for file in files}


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_existing_target_is_refused_and_intact_until_forced(tmp_path, container):
    path = tmp_path / CONTAINERS[container]
    save(small(), path, container=container)
    before = listing(tmp_path)
    with pytest.raises(OutputExists) as error:
        save(small(2), path, container=container)
    assert error.value.exit_code == 5
    assert "--force" in str(error.value)
    assert listing(tmp_path) == before
    save(small(2), path, container=container, force=True)
    after = listing(tmp_path)
    assert sorted(after) == sorted(before)
    assert after != before


@pytest.mark.parametrize("container", CONTAINERS)
def test_two_runs_give_equal_bytes(tmp_path, container):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        save(small(), folder / CONTAINERS[container], container=container)
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


class Server:
    """The process of save_server.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("save_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: object) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, what: str, container: str, path: Path, number: float = 0) -> int:
        """Exit code of a child."""
        self.ask([what, container, str(path), number])
        return self.ask("wait")


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    running.process.stdin.close()
    running.process.wait()
    running.process.stdout.close()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("nbytes", [0, 1, 100, 3000])
def test_a_disk_that_takes_no_more_leaves_the_old_target(tmp_path, server, container, nbytes):
    save(small(2), tmp_path / CONTAINERS[container], container=container)
    before = listing(tmp_path)
    assert server.run("limited", container, tmp_path / CONTAINERS[container], nbytes) == 5
    assert listing(tmp_path) == before


class Failing:
    """A system call that fails the n-th time; counts from 1, 0 never fails."""

    def __init__(self, monkeypatch, call: str, number: int, nth: int) -> None:
        self.real, self.number, self.nth, self.count = getattr(os, call), number, nth, 0
        monkeypatch.setattr(outputs.os, call, self)

    def __call__(self, *args):
        self.count += 1
        if self.count == self.nth:
            raise OSError(self.number, os.strerror(self.number))
        return self.real(*args)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "pwrite"])
def test_a_failing_system_call_leaves_the_old_set_of_shards(tmp_path, monkeypatch, call, number):
    container = "torch" if call == "pwrite" else "safetensors"
    path = tmp_path / CONTAINERS[container]

    def save_over(value: float) -> None:
        save(small(value), path, container=container, max_shard_bytes=100, force=True)

    save_over(2)
    before = listing(tmp_path)
    with monkeypatch.context() as patched:
        counter = Failing(patched, call, number, 0)
        save_over(2)
    assert counter.count >= 2
    for nth in range(1, counter.count + 1):
        # Syncing the folder after the last rename is best effort: everything is in place by then.
        if call == "fsync" and nth == counter.count:
            continue
        with monkeypatch.context() as patched:
            Failing(patched, call, number, nth)
            with pytest.raises(OutputError) as error:
                save_over(1)
        full = number in (errno.ENOSPC, errno.EDQUOT)
        assert ("the disk is full" in str(error.value)) == full
        assert listing(tmp_path) == before


def test_a_disk_without_room_is_refused_before_a_byte_is_written(tmp_path):
    huge = Strided(
        FileSource(_sparse(tmp_path / "s", 1 << 42)), 0, 1 << 42, DTYPES["int8"], (1 << 42,)
    )
    source = build("huge", "memory", [Tensor("x", "x", huge)])
    with pytest.raises(OutputError, match="no room on the disk"):
        save(source, tmp_path / "m.safetensors")
    assert sorted(listing_names(tmp_path)) == ["s"]


def _sparse(path: Path, nbytes: int) -> Path:
    path.touch()
    os.truncate(path, nbytes)
    return path


def listing_names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir()]


def test_a_read_only_folder_is_refused_with_its_reason(server):
    # Not below tmp_path: others may not enter pytest's folders.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        assert server.run("nobody", "safetensors", Path(name, "m.safetensors")) == 5
        assert listing_names(Path(name)) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/m.safetensors", "folder does not exist"),
        ("file/m.safetensors", "folder does not exist"),
        ("folder.safetensors", "this is a directory"),
        ("fifo.safetensors", "not a regular file: found a pipe"),
        ("x" * 300 + ".safetensors", "file name too long"),
        ("a\x00b.safetensors", "null byte"),
    ],
)
def test_impossible_targets_are_refused(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "fifo.safetensors")
    before = sorted(listing_names(tmp_path))
    with pytest.raises(OutputError, match=message):
        save(small(), tmp_path / name, force=True)
    assert sorted(listing_names(tmp_path)) == before


def test_an_ending_that_names_no_container_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"\.safetensors"):
        save(small(), tmp_path / "m.xyz")
    with pytest.raises(UsageError, match="no such container"):
        save(small(), tmp_path / "m.xyz", container="xyz")
    with pytest.raises(UsageError, match="no such kind"):
        save(small(), tmp_path / "m.npz", allow={"everything"})


def test_the_source_may_be_the_target(tmp_path):
    path = tmp_path / "m.safetensors"
    save(small(3), path)
    source = open_safetensors(Probe(path))
    save(build("m", "m", reversed(list(source))), path, force=True)
    found = open_safetensors(Probe(path))
    assert np.array_equal(found["a"].load(), np.full(1000, 3, np.float32))
    assert np.array_equal(source["b"].load(), np.arange(10))


def test_shards_may_be_saved_over_their_own_source(tmp_path):
    path = tmp_path / "m.safetensors"
    arrays = {f"t{i}": np.full(10, i) for i in range(9)}
    save(model(arrays), path, max_shard_bytes=100)
    source = open_sharded(Probe(f"{path}.index.json"))
    save(build("m", "m", reversed(list(source))), path, max_shard_bytes=100, force=True)
    found = open_sharded(Probe(f"{path}.index.json"))
    assert set(found.tensors) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name].load(), array)


def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path):
    (tmp_path / "blob").write_bytes(OLD)
    (tmp_path / "m.safetensors").symlink_to("blob")
    save(small(), tmp_path / "m.safetensors", force=True)
    assert (tmp_path / "blob").read_bytes() == OLD
    assert not (tmp_path / "m.safetensors").is_symlink()


def test_permissions_of_the_replaced_file_are_kept(tmp_path):
    path = tmp_path / "m.safetensors"
    save(small(), path)
    path.chmod(0o640)
    save(small(2), path, force=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_longest_possible_name_can_be_written(tmp_path):
    name = "é" * 115 + "x" * 13 + ".safetensors"
    assert len(name.encode()) == 255
    save(small(), tmp_path / name)
    assert listing_names(tmp_path) == [name]


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    def interrupted() -> None:
        with OutputSet() as files:
            files.create(tmp_path / "m.safetensors").write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listing_names(tmp_path) == []


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_process_killed_at_any_moment_leaves_a_whole_target_or_none(tmp_path, server, container):
    """25 seeded kills for each container, 100 in all."""
    rng = random.Random(container)
    path = tmp_path / CONTAINERS[container]
    partials = 0
    for run in range(25):
        pid = server.ask(["slow", container, str(path), float(run)])
        if run % 5:  # once in five it may be killed before it writes
            wait_for_a_partial_file(tmp_path)
        # The moment is the test's subject.
        select.select([], [], [], rng.uniform(0.0, 0.12))
        os.kill(pid, signal.SIGKILL)
        assert server.ask("wait") == -signal.SIGKILL
        check_after_kill(path, container, run)
        for left in tmp_path.glob(".*"):
            assert left.suffix in (PARTIAL_SUFFIX, OLD_SUFFIX)
            left.unlink()
            partials += 1
    assert partials > 5


def wait_for_a_partial_file(folder: Path) -> None:
    """Until the child has begun, however busy the machine is; it never ends by itself."""
    for _ in range(60_000):
        if any(folder.glob(".*")):
            return
        select.select([], [], [], 0.001)
    raise AssertionError("the child wrote nothing in a minute")


def check_after_kill(path: Path, container: str, run: int) -> None:
    """Whatever looks whole is whole: every tensor, and all of one generation."""
    index = {
        "safetensors": f"{path}.index.json",
        "torch": f"{path}.index.json",
        "tensorflow": f"{path}.index",
        "npz": str(path),
    }[container]
    if not os.path.exists(index):
        return
    open_it = {"tensorflow": open_tf, "npz": open_npz}.get(container, open_sharded)
    values = {float(x) for t in open_it(Probe(index)) for x in t.load()}
    assert len(values) == 1
    assert 0 <= values.pop() <= run
