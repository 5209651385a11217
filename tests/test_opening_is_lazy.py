"""Opening a file reads its headers: the same few bytes however large the tensors are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wtool.formats import formats, open_checkpoint
from wtool.sources import FileSource

ROWS = 2000
COLUMNS = 1000
TENSOR_BYTES = ROWS * COLUMNS * 4
# Heads, tails and directories are read in windows; together they stay far below one tensor.
ALLOWED_BYTES = TENSOR_BYTES // 40


def weight() -> torch.Tensor:
    return torch.ones(ROWS, COLUMNS)


def torch_zip(folder: Path) -> Path:
    torch.save({"weight": weight()}, folder / "model.pth")
    return folder / "model.pth"


def torch_legacy(folder: Path) -> Path:
    path = folder / "legacy.pth"
    torch.save({"weight": weight()}, path, _use_new_zipfile_serialization=False)
    return path


def torchscript(folder: Path) -> Path:
    module = torch.jit.script(torch.nn.Linear(COLUMNS, ROWS, bias=False))
    module.save(str(folder / "script.pt"))
    return folder / "script.pt"


def torch_export(folder: Path) -> Path:
    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    exported = torch.export.export(module, (torch.zeros(1, COLUMNS),))
    torch.export.save(exported, folder / "model.pt2")
    return folder / "model.pt2"


def torch_distributed(folder: Path) -> Path:
    import torch.distributed.checkpoint as dcp

    dcp.save({"weight": weight()}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return folder / "dcp"


def safetensors(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"weight": weight()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def npy(folder: Path) -> Path:
    np.save(folder / "model.npy", weight().numpy())
    return folder / "model.npy"


def npz(folder: Path) -> Path:
    np.savez(folder / "model.npz", weight=weight().numpy())
    return folder / "model.npz"


def tensorflow(folder: Path) -> Path:
    import tensorflow as tf

    prefix = str(folder / "model.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["weight"],
        shape_and_slices=[""],
        tensors=[tf.ones((ROWS, COLUMNS))],
    )
    return folder / "model.ckpt"


def tensorflow_v1(folder: Path) -> Path:
    import tensorflow as tf

    path = folder / "v1.ckpt"
    tf.raw_ops.Save(filename=str(path), tensor_names=["weight"], data=[tf.ones((ROWS, COLUMNS))])
    return path


def keras_file(name: str) -> Callable[[Path], Path]:
    """Saves the weights, or the whole model, as the suffix asks."""

    def save(folder: Path) -> Path:
        import keras

        model = keras.Sequential([keras.Input((COLUMNS,)), keras.layers.Dense(ROWS)])
        whole = name.endswith((".keras", "legacy.h5"))
        (model.save if whole else model.save_weights)(folder / name)
        return folder / name

    return save


# By the name of the format.
WRITERS = {
    "torch-zip": torch_zip,
    "torch-legacy": torch_legacy,
    "torchscript": torchscript,
    "torch-export": torch_export,
    "torch-distributed": torch_distributed,
    "safetensors": safetensors,
    "npy": npy,
    "npz": npz,
    "tensorflow": tensorflow,
    "tensorflow_v1": tensorflow_v1,
    "keras_archive": keras_file("model.keras"),
    "keras_weights_h5": keras_file("model.weights.h5"),
    "keras_h5": keras_file("legacy.h5"),
}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each read that a FileSource was asked for."""
    sizes: list[int] = []
    original = FileSource.read_into

    def read_into(source: FileSource, offset: int, buffer) -> None:
        sizes.append(memoryview(buffer).nbytes)
        original(source, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", read_into)
    return sizes


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore")
def test_opening_reads_no_tensor(name, tmp_path, reads):
    path = WRITERS[name](tmp_path)
    checkpoint = open_checkpoint(path, root=".")
    assert checkpoint.format == name
    assert 0 < sum(reads) < ALLOWED_BYTES
    largest = max(checkpoint, key=lambda tensor: tensor.nbytes)
    assert largest.nbytes == TENSOR_BYTES
    # The count is of what is read: reading the tensor shows in it.
    largest.read(0, largest.count)
    assert sum(reads) >= TENSOR_BYTES


# A V1 table keeps a tensor in one block, and a block's checksum is verified before it is used.
@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"tensorflow_v1"}))
@pytest.mark.filterwarnings("ignore")
def test_reading_a_range_reads_little_more_than_the_range(name, tmp_path, reads):
    path = WRITERS[name](tmp_path)
    checkpoint = open_checkpoint(path, root=".")
    largest = max(checkpoint, key=lambda tensor: tensor.nbytes)
    before = sum(reads)
    values = largest.read(largest.count // 2, largest.count // 2 + 1000)
    assert values.shape == (1000,)
    assert sum(reads) - before < ALLOWED_BYTES


def test_every_format_is_asked():
    """Each but those that open files of others, and the tar of 2016, which no torch writes."""
    wrappers = {"sharded", "model_directory", "keras_shards"}
    assert set(WRITERS) == {entry.name for entry in formats()} - wrappers - {"torch-tar"}
