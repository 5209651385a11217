"""A model of more files than a process may have open: it lists and reads all the same."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tf_files

from wtool.errors import InputError, MissingInput, TruncatedInput
from wtool.formats import open_checkpoint
from wtool.sources import Descriptors, FileSource, read_bytes

# The usual limit of a Linux process is 1,024, that of macOS 256.
LIMIT = 256
SHARDS = 3000


@pytest.fixture(autouse=True)
def few_descriptors() -> Iterator[None]:
    """No more than LIMIT files open at once beside those that this process has open already."""
    gc.collect()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_in_use() + LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def descriptors_in_use() -> int:
    return len(os.listdir("/proc/self/fd"))


def files(folder: Path, count: int, shared: Descriptors) -> list[FileSource]:
    """`count` files, each holding its own number in 8 bytes."""
    sources = []
    for number in range(count):
        path = folder / f"{number}.bin"
        path.write_bytes(number.to_bytes(8, "little"))
        sources.append(FileSource(path, descriptors=shared))
    return sources


def number(source: FileSource) -> int:
    return int.from_bytes(read_bytes(source, 0, 8), "little")


def test_three_thousand_safetensors_shards_list_and_read(tmp_path):
    weight_map = {}
    for place in range(SHARDS):
        shard = f"model-{place:05d}-of-{SHARDS:05d}.safetensors"
        weight_map[f"w{place}"] = shard
        safetensors.numpy.save_file({f"w{place}": np.float32([place, 0])}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf8")
    checkpoint = open_checkpoint(index)
    assert [tensor.load()[0] for tensor in checkpoint] == list(range(SHARDS))
    assert [tensor.load()[0] for tensor in checkpoint] == list(range(SHARDS))


def test_a_thousand_data_files_of_a_tensorflow_checkpoint_read(tmp_path):
    count = 1000
    shards = [np.float32([place, 1]).tobytes() for place in range(count)]
    entries = {
        b"w%04d" % place: tf_files.entry(
            tf_files.FLOAT, (2,), size=8, crc=tf_files.masked(data), shard=place
        )
        for place, data in enumerate(shards)
    }
    head = tf_files.header(shards=count)
    tf_files.write_bundle(tmp_path / "m", entries, head=head, shards=shards)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert [tensor.load()[0] for tensor in checkpoint] == list(range(count))


def test_few_files_are_open_at_rest_and_none_when_the_model_is_gone(tmp_path):
    gc.collect()
    before = descriptors_in_use()
    shared = Descriptors(limit=5)
    sources = files(tmp_path, 50, shared)
    assert descriptors_in_use() == before
    assert [number(source) for source in sources] == list(range(50))
    assert descriptors_in_use() == before + 5
    del sources, shared
    gc.collect()
    assert descriptors_in_use() == before


def test_threads_read_many_files_through_few_descriptors(tmp_path):
    before = descriptors_in_use()
    sources = files(tmp_path, 200, Descriptors(limit=2))
    wrong: list[int] = []

    def read_all(start: int) -> None:
        for step in range(2000):
            place = (start + step * 7) % len(sources)
            if number(sources[place]) != place:
                wrong.append(place)

    threads = [threading.Thread(target=read_all, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # Eight readers may have exceeded the limit for a moment; at rest it holds again.
    assert number(sources[0]) == 0
    assert descriptors_in_use() <= before + 2


def test_a_file_that_changed_since_it_was_opened_is_an_error(tmp_path):
    first, second = files(tmp_path, 2, Descriptors(limit=1))
    (tmp_path / "0.bin").write_bytes(b"something longer")
    with pytest.raises(InputError, match="file was changed or replaced while it was read"):
        number(first)
    os.replace(tmp_path / "0.bin", tmp_path / "1.bin")
    with pytest.raises(InputError, match=r"1\.bin: file was changed or replaced"):
        number(second)


def test_a_file_that_shrank_or_went_since_it_was_opened_is_an_error(tmp_path):
    first, second = files(tmp_path, 2, Descriptors(limit=1))
    os.truncate(tmp_path / "0.bin", 3)
    with pytest.raises(TruncatedInput, match=r"file shrank.*: expected 8 bytes, found 3"):
        number(first)
    (tmp_path / "1.bin").unlink()
    with pytest.raises(MissingInput, match=r"1\.bin: cannot open: no such file"):
        number(second)


def test_a_file_is_found_again_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes((7).to_bytes(8, "little"))
    source = FileSource("x.bin", descriptors=Descriptors())
    monkeypatch.chdir("/")
    assert number(source) == 7
