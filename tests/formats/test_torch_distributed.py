"""Folders of torch.distributed against torch's own conversion, and the ones that attack."""

from __future__ import annotations

import dataclasses
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from wtool.errors import InputError, MissingInput, UnknownFormat, WtoolError
from wtool.formats import Probe, find_format, formats, open_checkpoint
from wtool.formats.torch_distributed import FORMAT

pytestmark = pytest.mark.filterwarnings("ignore")

WRITER = Path(__file__).with_name("distributed_writer.py")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed") / "step_7"
    done = subprocess.run(
        [sys.executable, str(WRITER), str(folder), "2"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


STATE = {
    "w": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.float16),
    "scalar": torch.tensor(4),
    "empty": torch.zeros(0, 2),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
    "epoch": 3,
    "inner": {"list": [torch.zeros(2), 1.5]},
}


@pytest.fixture
def one_rank(tmp_path):
    folder = tmp_path / "alone"
    dcp.save(STATE, checkpoint_id=str(folder), no_dist=True)
    return folder


def flatten(value, prefix="") -> dict:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    pairs = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    flat = {}
    for key, inner in pairs:
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()


def assert_as_torch_converts(folder, tmp_path) -> None:
    dcp_to_torch_save(folder, tmp_path / "whole.pt")
    expected = flatten(torch.load(tmp_path / "whole.pt", weights_only=False))
    found = open_checkpoint(folder, root=".")
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype.torch == str(tensor.dtype)[6:]
        assert found[name].shape == tuple(tensor.shape)
        wanted = as_numpy(tensor)
        np.testing.assert_array_equal(found[name].load().astype(wanted.dtype), wanted)


def test_sharded_tensors_of_two_ranks_read_as_torch_converts_them(two_ranks, tmp_path):
    assert_as_torch_converts(two_ranks, tmp_path)


def test_one_rank_reads_as_torch_converts_it(one_rank, tmp_path):
    assert_as_torch_converts(one_rank, tmp_path)


def test_a_sharded_tensor_is_read_in_parts_across_its_chunks(two_ranks):
    tensor = open_checkpoint(two_ranks)["rows"]
    whole = np.arange(35, dtype="float32")
    for start in range(0, 35, 4):
        np.testing.assert_array_equal(tensor.read(start, 35), whole[start:])
    np.testing.assert_array_equal(np.concatenate([b.copy() for b in tensor.blocks(40)]), whole)


def test_model_optimizer_and_objects_are_told_apart(two_ranks):
    found = open_checkpoint(two_ranks)
    assert list(found.tensors)[:4] == ["rows", "columns", "few", "whole"]
    assert found["optimizer.state.rows.exp_avg"].role == "optimizer"
    assert found.extras["optimizer.param_groups.0.lr"] == 0.1
    assert found.extras["epoch"] == 5
    assert found.extras["list.1"] == "text"
    assert [Path(file).name for file in found.files] == [
        ".metadata", "__0_0.distcp", "__1_0.distcp",
    ]  # fmt: skip


def test_a_dtensor_in_a_plain_file_shows_the_part_that_it_holds(two_ranks):
    found = open_checkpoint(str(two_ranks) + ".pt")
    np.testing.assert_array_equal(
        found["rows.local_tensor"].load(), np.arange(35.0).reshape(7, 5)[:4]
    )
    np.testing.assert_array_equal(found["whole"].load(), np.arange(4))
    assert any("DTensor of shape (7, 5), Shard(0)" in note for note in found.notes)


def test_opening_opens_no_chunk(two_ranks, monkeypatch):
    monkeypatch.setattr(
        "wtool.dialects.torch_shard_extent.ShardExtent._open", lambda self: pytest.fail("opened")
    )
    assert open_checkpoint(two_ranks)["rows"].shape == (7, 5)


@pytest.mark.parametrize("name", ["", ".metadata"])
def test_exactly_one_format_claims_a_folder(one_rank, name):
    assert find_format(Probe(one_rank / name)) is FORMAT


def test_one_data_file_is_told_to_name_its_folder(two_ranks, tmp_path):
    one = two_ranks / "__0_0.distcp"
    with pytest.raises(UnknownFormat, match=r"data file of torch.distributed \(name its folder\)"):
        open_checkpoint(one)
    alone = shutil.copy(one, tmp_path / "__0_0.distcp")
    with pytest.raises(UnknownFormat, match=r"which lacks the file \.metadata"):
        open_checkpoint(alone)
    assert [entry.name for entry in formats() if entry.claims(Probe(one))] == []


def test_a_shard_that_is_not_there_is_named(two_ranks, tmp_path):
    folder = shutil.copytree(two_ranks, tmp_path / "x")
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(MissingInput, match=r"missing: __1_0\.distcp: expected 2 files, found 1"):
        open_checkpoint(folder)


def test_a_cut_shard_is_found_when_the_folder_is_opened(two_ranks, tmp_path):
    folder = shutil.copytree(two_ranks, tmp_path / "x")
    data = (folder / "__1_0.distcp").read_bytes()
    (folder / "__1_0.distcp").write_bytes(data[:-1])
    with pytest.raises(WtoolError, match="chunk ends outside its file") as caught:
        open_checkpoint(folder)
    assert caught.value.exit_code == 3


def test_metadata_cut_at_any_length_is_an_error(one_rank):
    data = (one_rank / ".metadata").read_bytes()
    for length in range(len(data)):
        (one_rank / ".metadata").write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            open_checkpoint(one_rank)
        assert "\n" not in str(caught.value)


def changed(folder, change) -> None:
    """Rewrite `.metadata` with `change` applied to torch's own object."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))


def place(**changes):
    """Change where the tensor `w` is stored."""

    def change(metadata):
        index = next(i for i in metadata.storage_data if i.fqn == "w")
        found = metadata.storage_data[index]
        metadata.storage_data[index] = dataclasses.replace(found, **changes)

    return change


def described(**changes):
    """Change what the metadata say of the tensor `w`."""

    def change(metadata):
        for field, value in changes.items():
            setattr(metadata.state_dict_metadata["w"], field, value)

    return change


def chunk(offsets, sizes):
    return dcp.metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def forget(metadata):
    del metadata.storage_data[next(i for i in metadata.storage_data if i.fqn == "w")]


def forget_object(metadata):
    del metadata.storage_data[next(i for i in metadata.storage_data if i.fqn == "epoch")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (place(relative_path="../w.distcp"), "not a plain file name"),
        (place(relative_path="/etc/passwd"), "not a plain file name"),
        (place(relative_path="a\\b"), "not a plain file name"),
        (place(relative_path=""), "not a plain file name"),
        (place(relative_path="a\0b"), "not a plain file name"),
        (place(relative_path="gone.distcp"), "data files are missing: gone.distcp"),
        (place(relative_path=7), "place of a chunk"),
        (place(offset=1 << 40), "chunk ends outside its file"),
        (place(offset=-1), "chunk ends outside its file"),
        (place(length=1 << 62), "chunk ends outside its file"),
        (place(length=-1), "chunk ends outside its file"),
        (place(length="all"), "place of a chunk"),
        (forget, r"chunk at \(0, 0\) is stored nowhere: the checkpoint is incomplete"),
        (forget_object, "object is stored nowhere"),
        (described(chunks=[]), "slices do not cover the tensor"),
        (described(chunks="x"), "without a list of chunks"),
        (described(chunks=[chunk((0, 0), (2, 2))]), "slices do not cover the tensor"),
        (described(chunks=[chunk((0, 0), (2, 4))]), "slice outside its tensor"),
        (described(chunks=[chunk((0,), (6,))]), "chunk at"),
        (described(chunks=[chunk((0, 0), (1, 3))] * 2), "slices overlap"),
        (described(size=torch.Size((3, 3))), "slices do not cover the tensor"),
        (described(size=(1 << 62, 1 << 62)), "too many elements"),
        (described(size=(2.5,)), "sizes that are no numbers"),
        (described(properties=None), "unknown element type"),
        (lambda metadata: setattr(metadata, "storage_data", None), "metadata without its tables"),
        (lambda metadata: setattr(metadata, "state_dict_metadata", []), "without its tables"),
        (lambda metadata: metadata.state_dict_metadata.update(w=5), "unexpected object"),
        (lambda metadata: metadata.planner_data.update(w=(("a",),)), "path of neither text"),
        (
            lambda metadata: metadata.state_dict_metadata.update(
                {"w.b": metadata.state_dict_metadata["w"]}
            ),
            "",
        ),
    ],
)
def test_metadata_that_lie_are_one_clear_error(one_rank, change, message):
    changed(one_rank, change)
    with pytest.raises(InputError, match=message or None) as caught:
        open_checkpoint(one_rank)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_compressed_chunks_are_refused_with_the_reason(one_rank):
    changed(one_rank, place(transform_descriptors=["stream.zstd"]))
    with pytest.raises(WtoolError, match="transformed") as caught:
        open_checkpoint(one_rank)
    assert caught.value.exit_code == 4


def swap_places(metadata):
    keys = {i.fqn: i for i in metadata.storage_data}
    data = metadata.storage_data
    data[keys["w"]], data[keys["half"]] = data[keys["half"]], data[keys["w"]]


def test_a_chunk_that_holds_something_else_is_found_when_it_is_read(one_rank):
    changed(one_rank, swap_places)
    found = open_checkpoint(one_rank)
    with pytest.raises(WtoolError, match=r"differs from the metadata: expected float32 \(2, 3\)"):
        found["w"].load()
    with pytest.raises(WtoolError, match="differs from the metadata"):
        found["w"].extent.raw_span()


def test_a_broken_chunk_names_its_file_and_offset(one_rank):
    data = bytearray((one_rank / "__0_0.distcp").read_bytes())
    metadata = pickle.loads((one_rank / ".metadata").read_bytes())
    where = next(p for i, p in metadata.storage_data.items() if i.fqn == "w")
    data[where.offset : where.offset + where.length] = bytes(where.length)
    (one_rank / "__0_0.distcp").write_bytes(data)
    with pytest.raises(InputError, match=r"__0_0\.distcp: tensor 'w'"):
        open_checkpoint(one_rank)["w"].load()


def test_a_thousand_mutations_end_in_an_error_of_the_file_or_an_answer(one_rank):
    generator = random.Random(5)
    files = [one_rank / ".metadata", one_rank / "__0_0.distcp"]
    whole = {path: path.read_bytes() for path in files}
    for _ in range(1000):
        for path, content in whole.items():
            data = bytearray(content)
            if path.name == ".metadata" or generator.random() < 0.5:
                for _ in range(generator.choice((0, 1, 2))):
                    data[generator.randrange(len(data))] = generator.randrange(256)
            path.write_bytes(data)
        try:
            for tensor in open_checkpoint(one_rank):
                if tensor.count < 1000:
                    tensor.load()
        except WtoolError:
            continue
