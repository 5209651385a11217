"""Proof that a written file is right: its own library reads it, and every tensor is compared.

The library runs in a process of its own (`wtool.bridges.prove`), since TensorFlow aborts on what it
dislikes. This side streams to it what the values must be, block by block.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO

from wtool.checkpoint import Tensor
from wtool.dtypes import DType
from wtool.errors import UsageError

# The library that reads a container: what to import, and the extra that installs it.
LIBRARIES = {
    "safetensors": ("safetensors", "safetensors"),
    "torch": ("torch", "torch"),
    "tensorflow": ("tensorflow", "tensorflow"),
    "npz": ("numpy", None),
    "keras": ("h5py", None),
}
BLOCK_BYTES = 1 << 20
_END = (0).to_bytes(8, "little")
# Of what a library that broke off says, the end is what counts.
_SAID_CHARACTERS = 300


@dataclass(frozen=True)
class Bound:
    """How far a cast may have moved values.

    relative, absolute: of the two the larger holds for each value, but for `overflowed` of them at
    most. stated: the largest relative error that the report states.
    """

    relative: float
    absolute: float
    overflowed: int
    stated: float


@dataclass(frozen=True)
class Claim:
    """What one tensor of the output must be.

    tensor: the source's, as wtool reads it. written: the output's, as wtool finds it: its key, path
    and type. bound: for a cast; else every bit is compared.
    """

    tensor: Tensor
    written: Tensor
    bound: Bound | None = None


@dataclass(frozen=True)
class Proof:
    """What the library found: `faults` is empty where all is as claimed."""

    library: str
    tensors: int
    nbytes: int
    faults: tuple[str, ...] = ()


def require_library(container: str) -> None:
    """UsageError with the install command where the library of `container` is not there."""
    module, extra = LIBRARIES[container]
    if importlib.util.find_spec(module) is None:
        raise UsageError(
            f"--prove needs {module}, which is not installed",
            hint=f'pip install "wtool[{extra}]"',
        )


def prove(path: str, container: str, claims: Sequence[Claim], *, complete: bool = True) -> Proof:
    """Have the library of `container` read `path`, and compare every claim with what it gives.

    path: the file, the index of its shards, or TensorFlow's prefix. complete: a tensor that is not
    claimed is a fault. The memory taken here is a block; there, what the library needs.
    """
    arguments = [sys.executable, "-P", "-m", "wtool.bridges.prove"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment
        ) as process,
    ):
        order, answer = process.stdin, process.stdout
        if order is None or answer is None:
            raise OSError("no pipes to the library's process")
        try:
            _send(order, {"path": os.path.abspath(path), "container": container})
            for claim in claims:
                _send_claim(order, claim)
            _send(order, {"complete": complete})
            order.close()
        except BrokenPipeError:
            pass  # it ended early; its exit code tells
        text = answer.read()
        code = process.wait()
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip()[-_SAID_CHARACTERS:]
    if code != 0 or not text:
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        library = LIBRARIES[container][0]
        return Proof(library, 0, 0, (f"{library} broke off with {end}: {last}",))
    found = json.loads(text)
    return Proof(found["library"], found["tensors"], found["nbytes"], tuple(found["faults"]))


def _send(order: IO[bytes], message: dict[str, object]) -> None:
    data = json.dumps(message).encode()
    order.write(len(data).to_bytes(8, "little") + data)


def _send_claim(order: IO[bytes], claim: Claim) -> None:
    tensor, written = claim.tensor, claim.written
    _send(
        order,
        {
            "name": tensor.name,
            "key": written.key,
            "path": written.path,
            "dtype": tensor.dtype.name,
            "written": written.dtype.name,
            "shape": tensor.shape,
            "bound": None if claim.bound is None else asdict(claim.bound),
        },
    )
    for data in _blocks(tensor, tensor.dtype):
        order.write(len(data).to_bytes(8, "little"))
        order.write(data)
    order.write(_END)


def _blocks(tensor: Tensor, dtype: DType) -> Iterator[memoryview | bytes]:
    """The values as bytes of the carrier type; texts each after its length."""
    for block in tensor.blocks(BLOCK_BYTES):
        if dtype.kind == "string":
            yield b"".join(len(text).to_bytes(8, "little") + text for text in block)
        elif len(block):
            yield block.view("uint8").data
