"""Plain tensors of large torch files are what they are found to be one by one, errors included.

The same pickle is read twice: as torch wrote it, and with a value remembered far away in front. The
second takes every opcode by itself, and so every tensor is found by the rule of its call.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
from typing import Any

import pytest
import torch

from wtool.dialects import torch_plain, torch_tree
from wtool.dialects.torch_checkpoint import build_checkpoint
from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_storages import StorageTable
from wtool.encodings.pickle_machine import parse
from wtool.errors import MalformedInput, WtoolError
from wtool.extents import Strided
from wtool.sources import BytesSource

STORAGES = BytesSource(bytes(1 << 16), "storages")
MUTATIONS = 800


def saved(value: Any) -> bytes:
    """`data.pkl` of what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


def one_by_one(pickled: bytes) -> bytes:
    """The same with `None` remembered at a place that no pickle of this length gets to."""
    return pickled[:2] + b"Nr" + struct.pack("<I", len(pickled)) + b"0" + pickled[2:]


def in_runs(pickled: bytes) -> bytes:
    """The same and as many bytes more, which say nothing."""
    return pickled[:2] + b"N0N0K\x000" + pickled[2:]


def locate(key: str, nbytes: int) -> tuple[BytesSource, int]:
    """Where a storage is; some lie outside of the file, some are missing."""
    if key == "60" or not (key.isascii() and key.isdigit() and len(key) < 4):
        raise MalformedInput(f"no storage {key}")
    return STORAGES, STORAGES.size - 1 if key == "61" else 8 * int(key)


def answer(pickled: bytes, root: str | None = None) -> Any:
    """All that is known of each tensor, and of the file; or the error."""
    reader = ObjectReader(StorageTable(locate, scope="test"))
    try:
        checkpoint = build_checkpoint("p", "f", parse(pickled), reader, root=root)
    except WtoolError as error:
        return type(error), str(error)
    tensors = []
    for tensor in checkpoint:
        extent = tensor.extent
        facts = extent.dtype, extent.shape, extent.storage, tensor.path, tensor.is_parameter
        if isinstance(extent, Strided):
            held = extent.geometry
            facts += extent.source, extent.base, extent.storage_nbytes, held.strides, held.first
            facts += held.count, held.low, held.high, held.bits
        tensors.append((tensor.name, tensor.key, tensor.role, tensor.layer, tensor.kind, facts))
    rest = [(name, type(value)) for name, value in checkpoint.extras.items()]
    return tensors, rest, checkpoint.notes, checkpoint.globals, dict(checkpoint.aliases)


def both(pickled: bytes, root: str | None = None) -> tuple[Any, Any]:
    """The answers of the two ways."""
    return answer(in_runs(pickled), root), answer(one_by_one(pickled), root)


def state(count: int = 56, start: str = "layer") -> dict[str, Any]:
    shapes = [(4,), (3, 5), (2, 3, 1), (1, 2, 3, 4), (), (0, 3)]
    return {f"{start}{i}.weight": torch.zeros(shapes[i % len(shapes)]) for i in range(count)}


def tied() -> dict[str, Any]:
    tensors = state()
    table = torch.zeros(10, 4)
    tensors["tied"], tensors["early"] = tensors["layer50.weight"], tensors["layer1.weight"]
    tensors["upper"], tensors["lower"], tensors["turned"] = table[:5], table[5:], table.t()
    tensors["again"] = torch.zeros(3, 5)
    return tensors


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 3) for _ in range(20))
        self.norm = torch.nn.BatchNorm1d(3)


def trained() -> dict[str, Any]:
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


MODELS: dict[str, Any] = {
    "flat": state,
    "tied": tied,
    "module": Net,
    "trained": trained,
    "nested": lambda: {"state_dict": state(20) | {"a.b": torch.zeros(2)}, "ema": state(20), "n": 1},
    "lists": lambda: [state(40), [torch.zeros(3), torch.zeros(3)], {1: torch.zeros(3), "x": None}],
    "parameters": lambda: {k: torch.nn.Parameter(v) for k, v in state(40).items()} | state(10, "b"),
    "no storage": lambda: state(70),
    "outside": lambda: state(60) | {"gone": torch.zeros(3)} | state(9, "b"),
    "one name twice": lambda: {"a": state(40), "a.layer38": {"weight": torch.zeros(3)}},
    "names meet": lambda: {"model": state(40), "layer39.weight": torch.zeros(4), "ema_x": state(3)},
    "shared": lambda: [(one := state(40)), one, {"x": one}],
    "odd keys": lambda: {(1, i) if i % 3 else i: torch.zeros(4) for i in range(50)},
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_what_its_tensors_are_one_by_one(model):
    pickled = saved(MODELS[model]())
    for root in (None, ".", "model", "optimizer", "ema", "state_dict", "a"):
        fast, slow = both(pickled, root)
        assert fast == slow


def test_the_two_ways_are_two():
    counts = []
    take = torch_plain.take_plain

    def counted(*args):
        before = len(args[-1])
        found = take(*args)
        counts[-1] += len(args[-1]) - before
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_tree, "take_plain", counted)
        for pickled in (in_runs(saved(state())), one_by_one(saved(state()))):
            counts.append(0)
            assert len(answer(pickled)[0]) == 56
    assert counts[0] > 10
    assert counts[1] == 0


@pytest.mark.parametrize("model", ["flat", "tied", "trained", "nested"])
def test_a_broken_model_ends_as_it_does_one_by_one(model):
    """Seeded changes: to numbers and texts of tensors above all."""
    pickled = saved(MODELS[model]())
    choose = random.Random(7)
    marks = [i for i, byte in enumerate(pickled) if byte in b"KMXh" and i > len(pickled) // 2]
    for _ in range(MUTATIONS):
        data = bytearray(pickled)
        for _ in range(choose.randint(1, 2)):
            at = choose.choice(marks) + choose.randint(0, 5)
            if at < len(data):
                data[at] = choose.choice((choose.randrange(256), (data[at] + 1) % 256, ord("1")))
        fast, slow = both(bytes(data))
        assert fast == slow


WRONG = {
    # name of the fault: (bytes of tensor 50, what stands there instead, what the error says)
    "too short": (b"K\x04t", b"K\x03t", "storage too short"),
    "no storage": (b"X\x02\0\0\x0050", b"X\x02\0\0\x0060", "no storage 60"),
    "outside": (b"X\x02\0\0\x0050", b"X\x02\0\0\x0061", "storage ends outside the file"),
    "said twice": (b"X\x02\0\0\x0050", b"X\x02\0\0\x0056", "storage '56' is named in two ways"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_tensor_in_a_run_is_named_with_its_fault(fault):
    tensors = {f"layer{i}": torch.zeros(4) for i in range(56)}
    pickled = saved(tensors | {"half": torch.zeros(4, dtype=torch.float16)})
    right, wrong, message = WRONG[fault]
    at = pickled.index(b"layer50")
    broken = pickled[:at] + pickled[at:].replace(right, wrong, 1)
    assert broken != pickled
    fast, slow = both(broken)
    assert fast == slow
    assert message in fast[1]
    assert ("half" if fault == "said twice" else "layer50") in fast[1]


@pytest.mark.parametrize("limit", ["MAX_NAME_CHARACTERS", "MAX_ALL_NAME_CHARACTERS"])
def test_names_are_bounded_where_they_are_one_by_one(limit, monkeypatch):
    pickled = saved({"a": state()} | {"b": {f"{'n' * i}": torch.zeros(4) for i in range(1, 90)}})
    outcomes = set()
    for most in range(20, 6000, 19):
        monkeypatch.setattr(torch_tree, limit, most)
        fast, slow = both(pickled)
        assert fast == slow
        outcomes.add(str(fast[0])[:40])
    assert len(outcomes) > 1
