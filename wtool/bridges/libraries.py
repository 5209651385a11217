"""A written file as its own library reads it: safetensors, torch, TensorFlow, NumPy, h5py.

Nothing of wtool's readers or writers is used here.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wtool.dtypes import ML_DTYPES, DType

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Opened:
    """A file opened by a library.

    names: of all tensors, as `fetch` takes them. fetch(claim) gives the tensor that a claim is
    about as an array of the carrier type, flat; KeyError where there is none. take(claim): its
    name.
    """

    library: str
    names: set[Any]
    take: Callable[[dict[str, Any]], Any]
    fetch: Callable[[Any, DType], np.ndarray]
    shape: Callable[[Any], tuple[int, ...]]


@functools.lru_cache(maxsize=1)
def _read_bytes(path: str) -> dict[str, bytes]:
    """Every tensor's bytes, as the safetensors library cuts them."""
    import safetensors

    with open(path, "rb") as file:
        return {name: view["data"] for name, view in safetensors.deserialize(file.read())}


def _open_safetensors(path: str) -> Opened:
    import numpy
    import safetensors

    framework = "pt" if _has("torch") else "np"
    files, weight_map, _ = _shards(path)
    handles = {name: safetensors.safe_open(file, framework) for name, file in files.items()}
    home = {key: name for name, handle in handles.items() for key in handle.keys()}  # noqa: SIM118
    if weight_map and set(weight_map) != set(home):
        raise ValueError("the index and the shards name different tensors")

    def fetch(name: str, dtype: DType) -> np.ndarray:
        handle = handles[home[name]]
        if framework == "pt":
            return _from_torch(handle.get_tensor(name), dtype)
        if dtype.carrier_name in ML_DTYPES:
            # Without torch, the library gives these types as bytes only, a whole file at once.
            return numpy.frombuffer(_read_bytes(files[home[name]])[name], dtype.carrier)
        return _flat(handle.get_tensor(name), dtype)

    def shape(name: str) -> tuple[int, ...]:
        return tuple(handles[home[name]].get_slice(name).get_shape())

    return Opened(
        f"safetensors {safetensors.__version__}", set(home), lambda c: c["key"], fetch, shape
    )


def _open_torch(path: str) -> Opened:
    import torch

    files, _, _ = _shards(path)
    loaded = [
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for file in files.values()
    ]
    tensors: dict[tuple[str, ...], Any] = {}
    for root in loaded:
        tensors.update(_torch_leaves(root))

    def fetch(name: tuple[str, ...], dtype: DType) -> np.ndarray:
        return _from_torch(tensors[name], dtype)

    def shape(name: tuple[str, ...]) -> tuple[int, ...]:
        found = tuple(tensors[name].shape)
        # torch counts pairs of 4-bit values.
        pairs = str(tensors[name].dtype) == "torch.float4_e2m1fn_x2"
        return (*found[:-1], 2 * found[-1]) if pairs else found

    return Opened(
        f"torch {torch.__version__}", set(tensors), lambda c: tuple(c["path"]), fetch, shape
    )


def _torch_leaves(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, tensor) of every tensor below `root`."""
    import torch

    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, torch.Tensor):
            yield path, node
        elif isinstance(node, dict):
            pending += [((*path, str(key)), value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            pending += [((*path, str(index)), value) for index, value in enumerate(node)]


def _open_tensorflow(path: str) -> Opened:
    import tensorflow

    reader = tensorflow.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    return Opened(
        f"tensorflow {tensorflow.__version__}",
        set(shapes),
        lambda c: c["key"],
        lambda name, dtype: _flat(reader.get_tensor(name), dtype),
        lambda name: tuple(shapes[name]),
    )


def _open_npz(path: str) -> Opened:
    import numpy

    archive = numpy.load(path, allow_pickle=False)
    shapes = {name: archive[name].shape for name in archive.files}
    return Opened(
        f"numpy {numpy.__version__}",
        set(archive.files),
        lambda c: c["key"].removesuffix(".npy"),
        lambda name, dtype: _flat(archive[name], dtype),
        lambda name: shapes[name],
    )


def _open_keras(path: str) -> Opened:
    import h5py

    file = h5py.File(path, "r")
    names: set[str] = set()
    file.visititems(lambda name, node: names.add(name) if hasattr(node, "shape") else None)
    return Opened(
        f"h5py {h5py.__version__}",
        names,
        lambda c: c["key"],
        lambda name, dtype: _flat(file[name][()], dtype),
        lambda name: tuple(file[name].shape),
    )


def _shards(path: str) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """({file name: path}, weight map, metadata) of a file or of an index of several."""
    if not path.endswith(".index.json"):
        return {os.path.basename(path): path}, {}, {}
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    weight_map = index["weight_map"]
    folder = os.path.dirname(path)
    files = {name: os.path.join(folder, name) for name in sorted(set(weight_map.values()))}
    return files, weight_map, index.get("metadata", {})


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _flat(values: Any, dtype: DType) -> np.ndarray:
    """(n,) of the carrier type, little bytes first, from whatever a library gives."""
    import numpy

    array = numpy.asarray(values)
    if array.dtype == object or array.dtype.kind == "S":
        return array.astype(object).reshape(-1)
    flat = numpy.ascontiguousarray(array).reshape(-1)
    if flat.dtype.byteorder == ">":
        flat = flat.byteswap().view(flat.dtype.newbyteorder("<"))
    return flat.view(dtype.carrier)


def _from_torch(tensor: Any, dtype: DType) -> np.ndarray:
    """(n,) of the carrier type from a torch tensor."""
    import numpy
    import torch

    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if dtype.name == "complex32":
        tensor = tensor.to(torch.complex64)
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if not flat.numel():
        return numpy.empty(0, dtype.carrier)
    raw = flat.view(torch.uint8).numpy()
    if dtype.bits < 8:
        planes = numpy.unpackbits(raw[:, None], axis=1, bitorder="little").reshape(-1, dtype.bits)
        raw = numpy.packbits(planes, axis=1, bitorder="little").reshape(-1)
    return raw.view(dtype.carrier)


# How a file of each container is opened.
OPEN: dict[str, Callable[[str], Opened]] = {
    "safetensors": _open_safetensors,
    "torch": _open_torch,
    "tensorflow": _open_tensorflow,
    "npz": _open_npz,
    "keras": _open_keras,
}
