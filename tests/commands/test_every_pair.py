"""Every fixture through `wtool convert` into every container, judged by the reference libraries.

What a fixture holds comes from `fixtures/expected.json`, which the frameworks wrote; what the
output holds is read by the target's own library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import torch
from safetensors import safe_open

import wtool
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXPECTED: dict[str, list] = json.loads((FIXTURES / "expected.json").read_text("utf8"))
EVERY_LOSS = ("extras", "metadata", "ties", "structure")
# The reference does not name the constants of a frozen script ("?0"); its contract test pairs them.
CASES = sorted(case for case, rows in EXPECTED.items() if not rows[0][0].startswith("?"))
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
NAMES = {"safetensors": "m.safetensors", "torch": "m.pth", "tensorflow": "m", "npz": "m.npz"}
# Types that each library holds, by its own documentation.
NUMPY = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {
    *("float16", "float32", "float64", "complex64", "complex128", "bool")
}
# Type as the library calls it, shape, digest of the values.
Answer = tuple[str, list[int], str]


def holds(container: str, dtype: str) -> bool:
    """Whether the container's library has the type."""
    if container == "npz":
        return dtype in NUMPY
    if container == "torch":
        return hasattr(torch, DTYPES[dtype].torch or "") and not dtype.startswith("q")
    if container == "tensorflow":
        return DTYPES[dtype].tensorflow is not None
    return DTYPES[dtype].safetensors is not None


def digest(values: np.ndarray) -> str:
    """As in expected.json: C order, little-endian; a text after its length."""
    if values.dtype == object:
        data = b"".join(struct.pack("<Q", len(text)) + text for text in values.reshape(-1))
    else:
        data = np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def torch_values(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    if dtype == "complex32":
        tensor = tensor.to(torch.complex64)
    flat = tensor.contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    if DTYPES[dtype].bits == 4:
        raw = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)
    return raw.view(DTYPES[dtype].carrier)


def torch_answer(tensor: torch.Tensor, dtype: str) -> Answer:
    shape = list(tensor.shape)
    if DTYPES[dtype].bits == 4:
        shape[-1] *= 2
    return str(tensor.dtype).removeprefix("torch."), shape, digest(torch_values(tensor, dtype))


def by_torch(path: Path, dtypes: dict[str, str]) -> dict[str, Answer]:
    loaded = torch.load(path, weights_only=True, mmap=True)
    found: dict[str, Answer] = {}
    pending = [((), loaded)]
    while pending:
        keys, node = pending.pop()
        if isinstance(node, torch.Tensor):
            name = ".".join(keys)
            found[name] = torch_answer(node, dtypes[name])
        elif isinstance(node, dict):
            pending += [((*keys, str(key)), value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            pending += [((*keys, str(i)), value) for i, value in enumerate(node)]
    return found


def by_safetensors(path: Path, dtypes: dict[str, str]) -> dict[str, Answer]:
    with safe_open(path, "pt") as file:
        loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for removed, kept in (file.metadata() or {}).items():
            if kept in loaded and removed in dtypes:
                loaded[removed] = loaded[kept]
    return {name: torch_answer(t, dtypes[name]) for name, t in loaded.items()}


def by_tensorflow(path: Path, dtypes: dict[str, str]) -> dict[str, Answer]:
    reader = tf.train.load_checkpoint(str(path))
    types = reader.get_variable_to_dtype_map()
    found = {}
    for name, shape in reader.get_variable_to_shape_map().items():
        value = np.asarray(reader.get_tensor(name))
        value = value.astype(object) if value.dtype.kind in "SO" else value
        carrier = DTYPES[dtypes[name]].carrier
        flat = value if value.dtype == object else value.reshape(-1).view(carrier)
        found[name] = (types[name].name, list(shape), digest(flat))
    return found


def by_numpy(path: Path, dtypes: dict[str, str]) -> dict[str, Answer]:
    with np.load(path) as file:
        return {name: (a.dtype.name, list(a.shape), digest(a)) for name, a in file.items()}


JUDGES = {
    "safetensors": by_safetensors,
    "torch": by_torch,
    "tensorflow": by_tensorflow,
    "npz": by_numpy,
}


def library_name(container: str, dtype: str) -> str | None:
    """What the container's library calls a type."""
    row = DTYPES[dtype]
    return {"tensorflow": row.tensorflow, "npz": row.carrier_name}.get(container, row.torch)


def takes_name(container: str, name: str) -> bool:
    """Whether the container's library takes a name: no empty key, no zero in a zip's member."""
    return {"tensorflow": bool(name), "npz": "\0" not in name}.get(container, True)


@pytest.mark.parametrize("container", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_a_fixture_comes_back_equal_from_another_container(tmp_path, case, container):
    source = wtool.open(FIXTURES / case, root=".")
    rows = {key: tuple(rest) for key, *rest in EXPECTED[case]}
    assert {t.key for t in source} <= rows.keys()
    names = [t.name for t in source if t.name != GRAPH_KEY]
    kept, refused = {}, []
    for tensor in source:
        dtype, *_ = rows[tensor.key]
        if tensor.name == GRAPH_KEY:
            continue
        if not holds(container, dtype) or not takes_name(container, tensor.name):
            refused.append(tensor.name)
        elif not (container == "safetensors" and dtype.startswith("float6")):
            # The library lists float6, but gives it to no framework.
            kept[tensor.name] = (tensor.name, *rows[tensor.key])
    target = str(tmp_path / NAMES[container])
    options = {"allow": EVERY_LOSS, "container": container}
    if refused:
        with pytest.raises(UnsupportedError):
            wtool.convert(source, target, **options)
    if not kept:
        return
    left_out = [name for name in names if name not in kept]
    exclude = tuple(f"re:^{re.escape(name)}$" for name in left_out)
    wtool.convert(source, target, exclude=exclude, **options)
    if container == "tensorflow" and GRAPH_KEY in source.tensors:
        # On its template, a file of objects keeps all its keys, those of repeated values too.
        kept = {key: (key, *row) for key, row in rows.items() if key != GRAPH_KEY}
    dtypes = {GRAPH_KEY: "string"} | {name: dtype for name, dtype, *_ in kept.values()}
    found = JUDGES[container](Path(target), dtypes)
    found.pop(GRAPH_KEY, None)
    expected = {
        name: (library_name(container, dtype), shape, value)
        for name, dtype, shape, value in kept.values()
    }
    assert found == expected
