"""TorchScript archives against torch.jit.load, which weights_only torch.load refuses."""

from __future__ import annotations

import io
import random
import zipfile

import numpy as np
import pytest
import torch

import wtool
from wtool.errors import InputError, MalformedInput, WtoolError
from wtool.formats import Probe, find_format, open_checkpoint
from wtool.formats.torch_script import FORMAT

pytestmark = pytest.mark.filterwarnings("ignore")


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.list = [torch.ones(2), torch.arange(3)]
        self.dict = {"a.b": torch.full((1,), 5.0), "c": torch.zeros(2, 2)}
        self.by_number = {3: torch.ones(1, dtype=torch.float64)}
        self.sizes = [1, 2]
        self.rates = [0.5]
        self.flags = [True, False]
        self.half = 1 + 2j

    def forward(self, x):
        return self.norm(x) + self.list[0].sum() + self.dict["c"].sum() + self.sizes[0]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.blocks = torch.nn.Sequential(Block(), torch.nn.ReLU())
        self.tied = self.linear
        self.register_buffer("scale", torch.arange(3.0))
        self.register_buffer("hidden", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.blocks(self.linear(x) * self.scale) + self.hidden.sum() + self.tied.bias


def saved(module, path, **options):
    torch.jit.save(module, str(path), **options)
    return path


def assert_equal(found, tensor: torch.Tensor) -> None:
    assert found.dtype.torch == str(tensor.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(found.load(), tensor.detach().numpy(), strict=True)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.pt"
    module = torch.jit.script(Model().eval())
    return saved(module, path, _extra_files={"labels.txt": "cat\ndog"})


def test_names_and_values_are_those_of_the_loaded_module(scripted):
    found = open_checkpoint(scripted)
    module = torch.jit.load(str(scripted))
    expected = dict(module.state_dict())
    block = "blocks.0."
    attributes = {
        f"{block}list.0": torch.ones(2),
        f"{block}list.1": torch.arange(3),
        f"{block}dict.a.b": torch.full((1,), 5.0),
        f"{block}dict.c": torch.zeros(2, 2),
        f"{block}by_number.3": torch.ones(1, dtype=torch.float64),
    }
    assert set(found.tensors) == {*expected, *attributes}
    # state_dict lists parameters first; the file has the order of the attributes.
    assert [name for name in found.tensors if name in expected] == sorted(
        expected, key=list(found.tensors).index
    )
    for name, tensor in {**expected, **attributes}.items():
        assert_equal(found[name], tensor)
    assert found.format == "torchscript"


def test_buffers_are_those_that_the_code_states(scripted):
    found = open_checkpoint(scripted)
    buffers = [name for name, _ in torch.jit.load(str(scripted)).named_buffers()]
    assert [tensor.name for tensor in found if tensor.role == "buffer"] == sorted(
        buffers, key=list(found.tensors).index
    )
    assert found["linear.weight"].role is None


def parameters_of(path) -> tuple[int, int]:
    """How many parameters wtool counts, and how many torch has."""
    theirs = sum(p.numel() for p in torch.jit.load(str(path)).parameters())
    return wtool.count(path).totals["parameters"], theirs


def test_tensors_that_the_code_lists_as_neither_are_not_learned(scripted):
    ours, theirs = parameters_of(scripted)
    assert ours == theirs
    assert open_checkpoint(scripted)["blocks.0.dict.c"].role == "other"


def test_constants_of_code_are_learned_only_in_a_frozen_module(tmp_path):
    class Shift(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.tensor([0.5, 1.5])

    traced = saved(torch.jit.trace(Shift(3, 2), torch.ones(1, 3)), tmp_path / "traced.pt")
    ours, theirs = parameters_of(traced)
    assert ours == theirs
    assert open_checkpoint(traced)["CONSTANTS.c0"].role == "other"
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Linear(3, 2).eval()))
    path = saved(frozen, tmp_path / "frozen.pt")
    assert {tensor.role for tensor in open_checkpoint(path)} == {None}


def test_the_flat_weights_of_a_recurrent_layer_are_its_parameters_again(tmp_path):
    path = saved(torch.jit.script(torch.nn.LSTM(3, 4)), tmp_path / "lstm.pt")
    ours, theirs = parameters_of(path)
    assert ours == theirs
    assert open_checkpoint(path)["_flat_weights.0"].role is None


def test_a_shared_module_is_tied(scripted):
    found = open_checkpoint(scripted)
    assert found.aliases == {"tied.weight": "linear.weight", "tied.bias": "linear.bias"}


def test_plain_attributes_and_files_of_the_user_are_kept(scripted):
    found = open_checkpoint(scripted)
    assert found.metadata["extra/labels.txt"] == "cat\ndog"
    assert found.extras["blocks.0.sizes"] == [1, 2]
    assert found.extras["blocks.0.rates"] == [0.5]
    assert found.extras["blocks.0.flags"] == [True, False]
    assert found.extras["blocks.0.half"] == 1 + 2j
    assert found.extras["linear.__class__"] == "torch.nn.modules.linear.Linear"
    assert found.extras["linear.training"] is False


def test_a_part_of_the_module_can_be_chosen(scripted):
    found = open_checkpoint(scripted, root="linear")
    assert list(found.tensors) == ["weight", "bias"]


def test_exactly_one_format_claims_an_archive(scripted):
    assert find_format(Probe(scripted)) is FORMAT


def test_frozen_modules_show_their_constants(tmp_path):
    module = Model().eval()
    frozen = torch.jit.freeze(torch.jit.script(module))
    path = saved(frozen, tmp_path / "frozen.pt")
    found = open_checkpoint(path)
    assert all(name.startswith("CONSTANTS.c") for name in found.tensors)
    # The names in the code are the names here.
    with zipfile.ZipFile(path) as archive:
        code = b"".join(archive.read(n) for n in archive.namelist() if n.endswith(".py")).decode()
    assert all(name in code for name in found.tensors)
    loaded = torch.jit.load(str(path))
    nodes = loaded.graph.findAllNodes("prim::Constant")
    constants = [
        node.t("value")
        for node in nodes
        if "value" in node.attributeNames() and node.kindOf("value") == "t"
    ]
    stored = [tensor.load().tolist() for tensor in found]
    assert len(constants) == len(stored)
    assert all(constant.tolist() in stored for constant in constants)
    assert any(np.array_equal(t.load(), module.linear.weight.detach()) for t in found)


def test_traced_modules_read_as_torch_reads_them(tmp_path):
    path = saved(
        torch.jit.trace(torch.nn.Conv2d(1, 2, 3), torch.ones(1, 1, 4, 4)), tmp_path / "t.pt"
    )
    expected = torch.jit.load(str(path)).state_dict()
    found = open_checkpoint(path)
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        assert_equal(found[name], tensor)


def test_quantised_modules_show_their_packed_weights(tmp_path):
    class Quantised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.quantize_per_channel(
                torch.randn(3, 2), torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3), 0, torch.qint8
            )

        def forward(self, x):
            return x + self.weight.dequantize().sum()

    path = saved(torch.jit.script(Quantised()), tmp_path / "q.pt")
    found = open_checkpoint(path)
    weight = torch.jit.load(str(path)).weight
    assert list(found.tensors) == ["weight", "weight.scales", "weight.zero_points"]
    np.testing.assert_array_equal(found["weight"].load(), weight.int_repr().numpy())
    np.testing.assert_array_equal(found["weight.scales"].load(), weight.q_per_channel_scales())


def rewritten(path, out, change):
    """A copy of a zip file, stored anew, with `change(name, data)` applied; None drops a member."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


def test_without_its_code_an_archive_still_opens(scripted, tmp_path):
    path = rewritten(scripted, tmp_path / "x.pt", lambda n, d: None if "/code/" in n else d)
    found = open_checkpoint(path)
    assert list(found.tensors) == list(open_checkpoint(scripted).tensors)
    assert not any(tensor.role for tensor in found)


def test_an_archive_with_the_records_of_torch_1_6_alone_reads_the_same(scripted, tmp_path):
    later = ("/byteorder", "/.format_version", "/.storage_alignment", "serialization_id")
    path = rewritten(scripted, tmp_path / "model.pt", lambda n, d: None if n.endswith(later) else d)
    module = torch.jit.load(str(path))
    found = open_checkpoint(path)
    for name, tensor in module.state_dict().items():
        assert_equal(found[name], tensor)
    assert list(found.tensors) == list(open_checkpoint(scripted).tensors)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        (b"\x80\x02].", "constants.pkl: expected a tuple, found list"),
        (b"\x80\x02(.", ""),
        (b"", ""),
    ],
)
def test_broken_constants_are_an_error(scripted, tmp_path, constants, message):
    path = rewritten(
        scripted, tmp_path / "x.pt", lambda n, d: constants if n.endswith("constants.pkl") else d
    )
    with pytest.raises(InputError, match=message or None):
        open_checkpoint(path)


def test_a_module_inside_itself_is_an_error_not_a_loop(scripted, tmp_path):
    # GLOBAL, NEWOBJ, memo 0; BUILD with {"self": memo 0}
    cycle = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    path = rewritten(
        scripted, tmp_path / "x.pt", lambda n, d: cycle if n.endswith("/data.pkl") else d
    )
    with pytest.raises(MalformedInput, match="container that contains itself"):
        open_checkpoint(path)


def test_code_that_is_a_bomb_is_not_read(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr("wtool.formats.torch_script.MAX_CODE_BYTES", 10)
    assert not any(tensor.role for tensor in open_checkpoint(scripted))


def test_a_thousand_mutations_end_in_an_error_of_the_file_or_an_answer(tmp_path):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), buffer)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(buffer.getvalue())
    whole = rewritten(
        plain, tmp_path / "x.pt", lambda n, d: None if n.endswith("debug_pkl") else d
    ).read_bytes()
    generator = random.Random(3)
    path = tmp_path / "model.pt"
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 5))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            for tensor in open_checkpoint(path):
                if tensor.count < 1000:
                    tensor.load()
        except WtoolError:
            continue
