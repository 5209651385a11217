"""Calls and objects that other writers put into torch files, against what torch makes of them."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch_oracle import assert_same
from torch_zips import rezip

from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError
from wtool.formats import open_checkpoint


class Rebuilt:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


VALUES = torch.tensor([[1.5, -2], [0, 4]])
CALLS = {
    "_rebuild_tensor": (torch._utils._rebuild_tensor, VALUES._typed_storage(), 1, (2,), (2,)),
    "_rebuild_device_tensor_from_cpu_tensor": (
        torch._utils._rebuild_device_tensor_from_cpu_tensor, VALUES, torch.float32, "cpu", False
    ),
    "_rebuild_device_tensor_from_numpy": (
        torch._utils._rebuild_device_tensor_from_numpy, VALUES.numpy(), torch.float32, "cpu", False
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_the_tensor_that_torch_makes_of_it(tmp_path, name):
    path = tmp_path / "model.pth"
    torch.save({"w": Rebuilt(*CALLS[name])}, path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.globals[f"torch._utils.{name}"] == 1
    assert_same(checkpoint["w"], torch.load(path, weights_only=False)["w"])


def test_the_old_name_of_a_call_is_known_too(tmp_path):
    torch.save({"w": Rebuilt(*CALLS["_rebuild_device_tensor_from_numpy"])}, tmp_path / "model.pth")
    path = rezip(
        tmp_path / "model.pth",
        tmp_path / "xla.pth",
        edit=lambda name, data: data.replace(
            b"_rebuild_device_tensor_from_numpy", b"_rebuild_xla_tensor"
        ),
    )
    assert_same(open_checkpoint(path)["w"], torch.load(path, weights_only=False)["w"])


def test_a_tensor_of_another_type_than_its_device_had_is_noted(tmp_path):
    function = torch._utils._rebuild_device_tensor_from_cpu_tensor
    torch.save({"w": Rebuilt(function, VALUES, torch.float16, "hpu:0", False)}, tmp_path / "x.pth")
    checkpoint = open_checkpoint(tmp_path / "x.pth")
    assert_same(checkpoint["w"], VALUES)
    assert "a tensor of device hpu:0 is shown as it was stored" in checkpoint.notes


def test_a_device_tensor_of_objects_is_refused(tmp_path):
    function = torch._utils._rebuild_device_tensor_from_numpy
    array = np.array([None], dtype=object)
    torch.save({"w": Rebuilt(function, array, torch.float16, "cpu", False)}, tmp_path / "x.pth")
    with pytest.raises(MalformedInput, match=r"'w'.*expected a numeric NumPy array"):
        open_checkpoint(tmp_path / "x.pth")


@dataclasses.dataclass
class Record:
    weight: torch.Tensor
    step: int


Pair = collections.namedtuple("Pair", "left right")


class Slotted:
    __slots__ = ("weight",)


def slotted(weight: torch.Tensor) -> Slotted:
    result = Slotted()
    result.weight = weight
    return result


# What is saved, the name that its tensor gets, and a value beside it: name -> value.
OBJECTS = {
    "namespace": (argparse.Namespace(weight=VALUES, lr=0.5), "o.weight", {"o.lr": 0.5}),
    "simple namespace": (types.SimpleNamespace(weight=VALUES, lr=2), "o.weight", {"o.lr": 2}),
    "dataclass": (Record(VALUES, 7), "o.weight", {"o.step": 7}),
    "namedtuple": (Pair(1, VALUES), "o.1", {"o.0": 1}),
    "slots": (slotted(VALUES), "o.weight", {}),
    "deque": (collections.deque([VALUES, 3]), "o.0", {"o.1": 3}),
    "default dictionary": (collections.defaultdict(dict, {"w": VALUES}), "o.w", {}),
    "mapping proxy of a dict": (collections.UserDict({"w": VALUES}), "o.data.w", {}),
    "counter": (collections.Counter({"a": 3}), None, {"o.a": 3}),
    "bytes in memory": (io.BytesIO(b"state"), None, {}),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_in_objects_of_any_class_are_found(tmp_path, name, protocol):
    value, tensor, beside = OBJECTS[name]
    path = tmp_path / "model.pth"
    torch.save({"o": value, "last": VALUES + 1}, path, pickle_protocol=protocol)
    checkpoint = open_checkpoint(path, root=".")
    assert list(checkpoint.tensors) == ([tensor] if tensor else []) + ["last"]
    if tensor:
        assert_same(checkpoint[tensor], VALUES)
    assert {key: checkpoint.extras[key] for key in beside} == beside


def test_entries_of_one_name_are_sound_and_one_of_them_can_be_opened(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"a.b": VALUES, "a": {"b": VALUES + 1}}, path)
    with pytest.raises(UnsupportedError, match=r"'a\.b' and 'a' -> 'b' \(--root a opens"):
        open_checkpoint(path)
    assert_same(open_checkpoint(path, root="a")["b"], VALUES + 1)
    torch.save({1: VALUES, "1": VALUES}, path)
    with pytest.raises(UnsupportedError, match=r"two entries get one name: found '1' and '1'$"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_of_a_quantised_module_have_the_names_of_its_state_dict(tmp_path):
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(4, 2))
    quantise = torch.ao.quantization.quantize_dynamic
    module = quantise(layers, {torch.nn.Linear, torch.nn.LSTM}, dtype=torch.qint8)
    torch.save(module, tmp_path / "module.pth")
    found = open_checkpoint(tmp_path / "module.pth")
    weight, bias = module.state_dict()["0._packed_params._packed_params"]
    name = "0._packed_params._packed_params"
    np.testing.assert_array_equal(found[f"{name}.0"].load(), weight.int_repr().numpy())
    assert_same(found[f"{name}.1"], bias)
    inner = [tensor for tensor in found if tensor.name.startswith("1.")]
    assert [tensor.count for tensor in inner if tensor.dtype.name == "qint8"] == [8 * 4, 8 * 2]


def test_a_compiled_module_has_the_names_of_its_state_dict(tmp_path):
    inner = torch.compile(torch.nn.Linear(2, 3))
    for module in (inner, torch.nn.Sequential(inner)):
        torch.save(module, tmp_path / "module.pth")
        found = open_checkpoint(tmp_path / "module.pth", root=".")
        assert list(found.tensors) == list(module.state_dict())


def test_tensors_in_plain_attributes_of_a_module_are_noted(tmp_path):
    noted = ("tensors that modules hold as plain attributes are not listed",)
    for held in (VALUES, [VALUES], {"a": VALUES}):
        module = torch.nn.Linear(2, 3)
        module.anchors = held
        torch.save(module, tmp_path / "module.pth")
        found = open_checkpoint(tmp_path / "module.pth")
        assert (list(found.tensors), found.notes) == (["weight", "bias"], noted)
    torch.save(torch.nn.LSTM(2, 3), tmp_path / "module.pth")  # _flat_weights are its parameters
    assert open_checkpoint(tmp_path / "module.pth").notes == ()


def test_a_long_list_that_objects_share_is_not_read_for_ever(tmp_path):
    shared = argparse.Namespace(numbers=list(range(20_000)))
    torch.save([shared] * 20_000, tmp_path / "model.pth")
    with pytest.raises(UnsafeInput, match="shared values multiply"):
        open_checkpoint(tmp_path / "model.pth")
