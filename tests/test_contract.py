"""One contract for all formats, run on every fixture; the answers come from the frameworks.

`fixtures/expected.json` is written by the reference libraries (see `fixtures/expectations.py`): no
framework is imported here. A fixture or a format that is added is under the contract at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from wtool.checkpoint import Checkpoint, Tensor
from wtool.errors import InputError
from wtool.formats import Probe, formats, open_checkpoint
from wtool.sources import FileSource

FIXTURES = Path(__file__).parent.parent / "fixtures"
EXPECTED: dict[str, list] = json.loads((FIXTURES / "expected.json").read_text("utf8"))
CASES = sorted(EXPECTED)
TIED = ["odd/ties.pth", "odd/legacy-ties.pth", "odd/rezipped.pth", "odd/deflated.pth"]


def opened(case: str) -> Checkpoint:
    """The whole file, every branch, under the names that it stores."""
    return open_checkpoint(FIXTURES / case, root=".")


def value_bytes(values: np.ndarray) -> bytes:
    """C order, little-endian; a text after its length: what the digests are taken of."""
    if values.dtype == object:
        return b"".join(struct.pack("<Q", len(text)) + text for text in values.reshape(-1))
    return np.ascontiguousarray(values).tobytes()


def read_all(path: Path) -> None:
    """Open and read every value."""
    for tensor in open_checkpoint(path, root="."):
        tensor.load()


def row(tensor: Tensor) -> list:
    digest = hashlib.sha256(value_bytes(tensor.load())).hexdigest()[:16]
    return [tensor.key, tensor.dtype.name, list(tensor.shape), digest]


@pytest.mark.parametrize("case", CASES)
def test_exactly_one_format_claims_a_fixture(case):
    probe = Probe(FIXTURES / case)
    assert len([entry.name for entry in formats() if entry.claims(probe)]) == 1


def test_every_format_has_a_fixture():
    claimed = {
        entry.name for case in CASES for entry in formats() if entry.claims(Probe(FIXTURES / case))
    }
    assert claimed == {entry.name for entry in formats()}


@pytest.mark.parametrize("case", CASES)
def test_keys_dtypes_shapes_order_and_values_are_the_frameworks_own(case):
    checkpoint = opened(case)
    expected = EXPECTED[case]
    found = [row(tensor) for tensor in checkpoint]
    if expected[0][0].startswith("?"):
        # A frozen module: torch knows no stored name of a constant, and orders them by use.
        assert sorted(entry[1:] for entry in found) == sorted(entry[1:] for entry in expected)
        return
    # A tie that only the metadata states is an alias more than the reference gives.
    stated = [tensor.name for tensor in checkpoint if tensor.name in checkpoint.metadata]
    assert set(stated) <= set(checkpoint.aliases)
    found = [row(tensor) for tensor in checkpoint if tensor.name not in stated]
    keys = {entry[0] for entry in found}
    left_out = [entry for entry in expected if entry[0] not in keys]
    if left_out:
        # Keras 3 exports every variable twice; the second is left out, and a note says so.
        assert any("twice" in note for note in checkpoint.notes)
        assert {entry[3] for entry in left_out} <= {entry[3] for entry in found}
    assert found == [entry for entry in expected if entry not in left_out]


@pytest.mark.parametrize("case", CASES)
def test_a_range_and_the_blocks_of_a_tensor_are_parts_of_the_whole(case):
    """read(a, b) equals load()[a:b]; the blocks of any size join to load()."""
    generator = random.Random(case)
    for tensor in opened(case):
        whole = tensor.load()
        assert whole.shape == tensor.shape
        flat = value_bytes(whole)
        for _ in range(4):
            start = generator.randint(0, tensor.count)
            stop = generator.randint(start, tensor.count)
            part = tensor.read(start, stop)
            assert part.dtype == whole.dtype
            assert value_bytes(part) == value_bytes(whole.reshape(-1)[start:stop])
        for max_bytes in {max(1, len(flat) // 7), max(1, len(flat) // 2), 1 << 20}:
            blocks = [value_bytes(block) for block in tensor.blocks(max_bytes)]
            assert b"".join(blocks) == flat


@pytest.mark.parametrize("case", TIED)
def test_ties_keep_their_storage(case):
    checkpoint = opened(case)
    tied = [tensor for tensor in checkpoint if tensor.name != "alone"]
    assert len(tied) == 5
    assert len({tensor.storage for tensor in tied}) == 1
    assert checkpoint["alone"].storage != tied[0].storage
    assert checkpoint.aliases == dict.fromkeys(
        ("decoder.weight", "decoder.view", "decoder.transposed", "decoder.row"), "embedding.weight"
    )


@pytest.mark.parametrize("case", CASES)
def test_listing_a_fixture_opens_what_it_says_it_opens(case):
    """Every file that is named exists, and every tensor with raw bytes lies in one of them."""
    checkpoint = opened(case)
    names = {str(Path(name).resolve()) for name in checkpoint.files}
    assert names
    assert all(Path(name).is_file() for name in names)
    for tensor in checkpoint:
        if tensor.source is not None and isinstance(tensor.source, FileSource):
            assert str(Path(tensor.source.name).resolve()) in names


def cut_lengths(size: int, generator: random.Random) -> list[int]:
    """Lengths to cut a file to, falling: all near both ends (headers, directories), then some."""
    near = 350
    lengths = {*range(min(size, near)), *range(max(0, size - near), size)}
    lengths |= {generator.randrange(size) for _ in range(60)} if size else set()
    return sorted(lengths, reverse=True)


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_that_is_cut_anywhere_is_refused_in_one_line(case, tmp_path):
    """Every file of a fixture in turn, at many lengths: InputError, one line that names a file."""
    files = [Path(name).resolve() for name in opened(case).files]
    place = FIXTURES / case
    folder = place if place.is_dir() else place.parent
    wanted = place.is_dir() or any(file.name != place.name for file in files)
    generator = random.Random(case)
    for file in files:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if wanted:
            shutil.copytree(folder, copy)
            target = copy if place.is_dir() else copy / place.name
        else:
            copy.mkdir()
            shutil.copy(place, copy)
            target = copy / place.name
        victim = copy / file.relative_to(folder.resolve())
        whole = victim.read_bytes()
        for length in cut_lengths(len(whole), generator):
            if victim.suffix == ".json" and not whole[length:].strip():
                continue  # only the line's end is gone
            os.truncate(victim, length)
            with pytest.raises(InputError) as caught:
                read_all(target)
            line = str(caught.value)
            assert "\n" not in line
            assert str(copy) in line, f"cut to {length}: {line}"
