"""The registry: unique names, ties and views, errors that carry the tensor's name."""

import copy
import gc
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import wtool
from wtool.checkpoint import Tensor, build
from wtool.dtypes import DTYPES
from wtool.errors import InputError, MalformedInput, TruncatedInput
from wtool.extents import Strided
from wtool.sources import BytesSource, FileSource, WindowSource

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = BytesSource(np.arange(64, dtype=np.float32).tobytes(), "memory")


def view(name: str, shape, *, storage="s", first=0, strides=None, dtype="float32") -> Tensor:
    extent = Strided(
        DATA, 0, 256, DTYPES[dtype], shape, first=first, strides=strides, storage=storage
    )
    return Tensor(name, name, extent)


def aliases(*tensors: Tensor) -> dict[str, str]:
    return dict(build("m.pth", "test", tensors).aliases)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(MalformedInput, match=r"m\.pth: tensor 'a': two tensors have the same name"):
        build("m.pth", "test", [view("a", (2,)), view("a", (3,))])


def test_a_tied_tensor_is_an_alias_of_the_first():
    assert aliases(view("tok", (8, 8)), view("head", (8, 8))) == {"head": "tok"}


def test_a_transposed_tie_is_an_alias_too():
    head = view("head", (8, 8), strides=(1, 8))
    assert aliases(view("tok", (8, 8)), head) == {"head": "tok"}


def test_a_slice_of_a_whole_is_an_alias_whichever_comes_first():
    part, whole = view("part", (3, 8), first=8), view("whole", (8, 8))
    assert aliases(part, whole) == {"part": "whole"}
    assert aliases(whole, part) == {"part": "whole"}


def test_disjoint_and_overlapping_parts_are_no_aliases():
    assert aliases(view("q", (4, 8)), view("k", (4, 8), first=32)) == {}
    assert aliases(view("a", (5, 8)), view("b", (5, 8), first=24)) == {}


def test_a_view_with_holes_owns_nothing_but_its_equal():
    holes = view("even", (32,), strides=(2,))
    assert aliases(holes, view("first", (2,))) == {}
    assert aliases(holes, view("same", (32,), strides=(2,))) == {"same": "even"}


def test_other_storages_and_empty_tensors_are_never_aliases():
    assert aliases(view("a", (8,), storage=1), view("b", (8,), storage=2)) == {}
    assert aliases(view("a", (0,)), view("b", (0,))) == {}


def test_many_views_of_one_storage_are_sorted_out_quickly():
    tensors = [view(f"t{i}", (1,), first=i % 64) for i in range(50_000)]
    assert len(aliases(*tensors)) == 50_000 - 64


def test_a_tensor_knows_its_place_in_the_file_through_windows():
    window = WindowSource(DATA, 16, 64)
    tensor = Tensor("a", "a", Strided(window, 8, 32, DTYPES["float32"], (4,), first=2))
    assert (tensor.source, tensor.offset) == (DATA, 16 + 8 + 8)
    assert tensor.load().tolist() == [8, 9, 10, 11]
    assert (tensor.count, tensor.nbytes, tensor.strides) == (4, 16, (1,))


def test_a_file_that_shrinks_while_it_is_read_is_an_error_with_the_tensor(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(bytes(400))
    source = FileSource(path)
    tensor = Tensor("fc.weight", "fc.weight", Strided(source, 0, 400, DTYPES["float32"], (100,)))
    path.write_bytes(bytes(100))
    with pytest.raises(TruncatedInput) as caught:
        tensor.load()
    assert str(caught.value) == (
        f"{path}: tensor 'fc.weight': at byte 0: file too short: expected 400 bytes, found 100"
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fifo", r"found a pipe \(save what it gives to a file first\)"),
        ("directory", r"found a directory \(name a file in it\)"),
        ("device", r"found a device \(save what it gives to a file first\)"),
    ],
)
def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path, kind, message):
    import os

    path = {"fifo": tmp_path / "f", "directory": tmp_path, "device": "/dev/zero"}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(InputError, match=message):
        FileSource(path)


def copied(checkpoint):
    return copy.deepcopy(checkpoint)


def pickled(checkpoint):
    return pickle.loads(pickle.dumps(checkpoint))


@pytest.mark.parametrize("again", [copied, pickled])
@pytest.mark.parametrize(
    "name",
    [
        "digits-cnn.pth",
        "digits-cnn-bin-shards",
        "digits-cnn-distributed",
        "digits-cnn-tf",
        "digits-cnn.keras",
        "digits-cnn.npz",
        "digits-cnn.weights.h5",
    ],
)
def test_a_copy_of_a_checkpoint_reads_the_same_and_leaves_the_first_as_it_was(name, again):
    first = wtool.open(FIXTURES / name)
    values = {tensor.name: tensor.load() for tensor in first}
    second = again(first)
    for tensor in second:
        np.testing.assert_array_equal(tensor.load(), values[tensor.name], tensor.name)
        assert tensor.dtype is first[tensor.name].dtype
    assert second.aliases == first.aliases
    # What a copy holds is its own: a descriptor that it gives back is not the first one's.
    del second, tensor
    gc.collect()
    for tensor in first:
        np.testing.assert_array_equal(tensor.load(), values[tensor.name], tensor.name)


def test_a_pickled_checkpoint_is_not_read_from_another_file_of_that_name(tmp_path):
    path = tmp_path / "m.pth"
    shutil.copy(FIXTURES / "digits-cnn.pth", path)
    kept = pickle.dumps(wtool.open(path))
    shutil.copy(FIXTURES / "digits-cnn-fresh.pth", path)
    with pytest.raises(InputError, match=r"m\.pth: file was changed or replaced|shrank"):
        pickle.loads(kept)


def test_a_checkpoint_contains_the_names_of_its_tensors():
    tensor = view("fc.weight", (2,))
    checkpoint = build("m.pth", "test", [tensor])
    assert "fc.weight" in checkpoint
    assert tensor in checkpoint
    assert "fc.bias" not in checkpoint
    assert view("fc.weight", (2,)) not in checkpoint


@pytest.mark.parametrize(
    "out",
    [
        np.empty(4),
        np.empty(3, np.float32),
        np.empty(5, np.float32),
        np.empty((2, 2), np.float32),
        np.empty(8, np.float32)[::2],
    ],
)
def test_read_refuses_an_array_that_the_elements_would_not_fill(out):
    with pytest.raises(ValueError, match=r"tensor 'w': out: expected float32 \(4,\), contiguous;"):
        view("w", (8,)).read(0, 4, out)


def test_read_fills_the_array_that_it_is_given():
    out = np.empty(4, np.float32)
    assert view("w", (8,)).read(2, 6, out) is out
    assert out.tolist() == [2, 3, 4, 5]
