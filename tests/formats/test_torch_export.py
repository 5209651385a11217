"""torch.export archives against torch.export.load."""

from __future__ import annotations

import io
import json
import random
import zipfile

import numpy as np
import pytest
import torch

from wtool.errors import InputError, MalformedInput, UsageError, WtoolError
from wtool.formats import Probe, find_format, open_checkpoint
from wtool.formats.torch_export import FORMAT

pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = "data/weights/model_weights_config.json"


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.tied = self.linear
        base = torch.arange(24.0).reshape(4, 6)
        self.turned = torch.nn.Parameter(base.t())
        self.cut = torch.nn.Parameter(base[1:3, ::2])
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 3))
        for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32,
            torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
        ):  # fmt: skip
            self.register_buffer(f"of_{str(dtype)[6:]}", (torch.arange(3) % 2).to(dtype))
        self.fixed = torch.full((2,), 9.0)

    def forward(self, x):
        y = self.norm(self.linear(x)) + self.count + self.hidden.sum() + self.fixed.sum()
        return y + self.turned.sum() + self.cut.sum() + self.tied.bias + torch.tensor([1.0, 2, 3])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    program = torch.export.export(Model().eval(), (torch.randn(4, 2),))
    torch.export.save(program, path, extra_files={"note.txt": "hello"})
    return path


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    wide = tensor.dtype.itemsize < 4 and tensor.dtype.is_floating_point
    return tensor.float().numpy() if wide else tensor.numpy()


def assert_equal(found, tensor: torch.Tensor) -> None:
    assert found.dtype.torch == str(tensor.dtype).removeprefix("torch.")
    assert found.shape == tuple(tensor.shape)
    expected = as_numpy(tensor)
    np.testing.assert_array_equal(found.load().astype(expected.dtype), expected)


def test_weights_and_constants_read_as_torch_reads_them(exported):
    program = torch.export.load(exported)
    found = open_checkpoint(exported)
    assert set(found.tensors) == {*program.state_dict, *program.constants}
    for name, tensor in {**program.state_dict, **program.constants}.items():
        assert_equal(found[name], tensor)
    assert found.format == "torch-export"
    assert found.metadata == {"extra/note.txt": "hello"}


def test_order_is_that_of_the_configurations(exported):
    with zipfile.ZipFile(exported) as archive:
        weights, constants = (
            json.loads(archive.read(f"model/data/{folder}/model_{folder}_config.json"))["config"]
            for folder in ("weights", "constants")
        )
    assert list(open_checkpoint(exported).tensors) == [*weights, *constants]


def test_what_is_no_parameter_is_a_buffer(exported):
    parameters = [name for name, _ in Model().named_parameters(remove_duplicate=False)]
    found = open_checkpoint(exported)
    assert {t.name for t in found if t.role is None} == set(parameters)
    assert {t.role for t in found} == {None, "buffer"}


def test_ties_and_views_share_their_storage(exported):
    found = open_checkpoint(exported)
    assert found.aliases["tied.weight"] == "linear.weight"
    assert found.aliases["cut"] == "turned"
    assert found["turned"].strides == (1, 6)


def test_exactly_one_format_claims_an_archive(exported):
    assert find_format(Probe(exported)) is FORMAT


def test_an_archive_has_no_branches(exported):
    with pytest.raises(UsageError, match="no branches"):
        open_checkpoint(exported, root="linear")


class Doubled(torch.Tensor):
    """A subclass that holds one tensor and has no data of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Doubled(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args = [a.inner if isinstance(a, Doubled) else a for a in args]
        return func(*args, **(kwargs or {}))


def copied(path, out, changes=None, config=None):
    """A copy of an archive with records replaced, and its weights configuration passed through."""
    changes = changes or {}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            prefix, record = name.split("/", 1)
            data = changes.get(record, old.read(name))
            if record == WEIGHTS and config is not None:
                value = json.loads(data)
                config(value["config"])
                data = json.dumps(value)
            if data is not None:
                new.writestr(name, data)
        for record in changes.keys() - {name.split("/", 1)[1] for name in old.namelist()}:
            new.writestr(f"{prefix}/{record}", changes[record])
    return out


def record_of(path, name: str) -> str:
    """The record that holds a weight."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read(f"model/{WEIGHTS}"))["config"]
    return f"data/weights/{config[name]['path_name']}"


def torch_file(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_pickled_subclass_shows_what_it_holds(exported, tmp_path):
    data = torch_file(Doubled(torch.arange(3.0)))

    def config(entries):
        entries["linear.bias"]["use_pickle"] = True
        entries["linear.bias"]["path_name"] = "pickled_0"

    path = copied(exported, tmp_path / "x.pt2", {"data/weights/pickled_0": data}, config)
    found = open_checkpoint(path)
    assert "linear.bias" not in found.tensors
    assert_equal(found["linear.bias.inner"], torch.arange(3.0))
    assert any("Doubled" in note for note in found.notes)


def test_archives_that_hold_a_whole_torch_file_read_as_torch_reads_them(exported, tmp_path):
    state = torch.export.load(exported).state_dict
    constants = torch.export.load(exported).constants
    path = copied(
        exported,
        tmp_path / "x.pt2",
        {
            WEIGHTS: None,
            "data/constants/model_constants_config.json": None,
            "data/weights/model.pt": torch_file(state),
            "data/constants/model.pt": torch_file(constants),
        },
    )
    expected = torch.export.load(path)
    found = open_checkpoint(path)
    assert set(found.tensors) == {*expected.state_dict, *expected.constants}
    for name, tensor in {**expected.state_dict, **expected.constants}.items():
        assert_equal(found[name], tensor)
    assert found["hidden"].role == "buffer"


def test_archives_of_torch_2_7_read_as_they_were_written(tmp_path):
    state = {"a.weight": torch.ones(2, 3), "a.bias": torch.arange(3)}
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.5")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", torch_file(state))
        archive.writestr("serialized_constants.pt", torch_file({"c": torch.zeros(1)}))
    assert find_format(Probe(path)) is FORMAT
    found = open_checkpoint(path)
    assert list(found.tensors) == ["a.weight", "a.bias", "c"]
    for name, tensor in state.items():
        assert_equal(found[name], tensor)
    assert [tensor.role for tensor in found] == [None, None, "buffer"]


def test_weights_exported_without_values_are_shown_without_values(exported, tmp_path):
    path = copied(exported, tmp_path / "x.pt2", {record_of(exported, "linear.weight"): b""})
    found = open_checkpoint(path)
    assert any("without their values" in note for note in found.notes)
    with pytest.raises(WtoolError, match="exported without its values"):
        found["linear.weight"].load()


def first(entries):
    return entries["linear.weight"]


def meta(**changes):
    return lambda entries: first(entries)["tensor_meta"].update(changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (meta(dtype=0), "unknown element type: found 0"),
        (meta(dtype="7"), "'dtype': expected int, found str"),
        (meta(dtype=8), "storage too short"),
        (meta(sizes=[{"as_int": 4}, {"as_int": 2}]), "storage too short"),
        (meta(sizes=[{"as_int": -1}, {"as_int": 2}]), "bad dimension"),
        (meta(sizes=[{"as_int": 1 << 62}, {"as_int": 1 << 62}]), "too many elements"),
        (
            meta(sizes=[{"as_expr": "s0"}, {"as_int": 2}]),
            "size, stride or offset that is no number",
        ),
        (meta(sizes=[3, 2]), "size, stride or offset that is no number"),
        (meta(sizes=[{"as_int": 1.5}]), "no number"),
        (meta(sizes=[{"as_int": True}]), "no number"),
        (meta(sizes=None), "'sizes': expected list"),
        (meta(strides=[{"as_int": 1}]), "strides and shape differ in rank"),
        (meta(strides=[{"as_int": -2}, {"as_int": 1}]), "not strided"),
        (meta(storage_offset={"as_int": -1}), "not strided"),
        (meta(storage_offset={"as_int": 1}), "storage too short"),
        (meta(layout=1), "not strided"),
        (lambda entries: first(entries).update(path_name="weight_99"), "no record"),
        (lambda entries: first(entries).update(path_name="../../etc/passwd"), "no record"),
        (
            lambda entries: first(entries).update(path_name=7),
            "'path_name': expected str, found int",
        ),
        (lambda entries: first(entries).update(is_param="yes"), "'is_param': expected bool"),
        (lambda entries: first(entries).update(use_pickle=True), ""),
        (lambda entries: entries.update({"linear.weight": 3}), "'path_name'"),
        (lambda entries: entries.update(hidden=first(entries)), "same name"),
    ],
)
def test_a_configuration_that_lies_is_one_clear_error(exported, tmp_path, config, message):
    path = copied(exported, tmp_path / "x.pt2", config=config)
    with pytest.raises(InputError, match=message or None) as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "data", "message"),
    [
        ("archive_format", b"pt3", "format of the archive: expected pt2, found 'pt3'"),
        ("byteorder", b"middle", "byte order"),
        (WEIGHTS, b"[]", "no configuration"),
        (WEIGHTS, b'{"config": [1]}', "no configuration"),
        (WEIGHTS, b'{"config": {}} x', "JSON"),
        (WEIGHTS, b'{"config": {"a": 1, "a": 2}}', ""),
        (WEIGHTS, b"[" * 100_000, ""),
    ],
)
def test_broken_records_are_one_clear_error(exported, tmp_path, record, data, message):
    path = copied(exported, tmp_path / "x.pt2", {record: data})
    with pytest.raises(MalformedInput, match=message or None):
        open_checkpoint(path)


def test_a_compiled_package_is_refused_with_the_reason(exported, tmp_path):
    changes = {"models/model.json": None, "data/aotinductor/model/a.so": b"code", WEIGHTS: None}
    with pytest.raises(WtoolError, match="compiled package") as caught:
        open_checkpoint(copied(exported, tmp_path / "x.pt2", changes))
    assert caught.value.exit_code == 4


def test_big_endian_records_are_swapped(exported, tmp_path):
    swapped = np.arange(6, dtype=">f4").tobytes()
    changes = {"byteorder": b"big", record_of(exported, "linear.weight"): swapped}
    found = open_checkpoint(copied(exported, tmp_path / "x.pt2", changes))
    assert found["linear.weight"].load().tolist() == [[0, 1], [2, 3], [4, 5]]


def test_endless_pickled_entries_are_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("wtool.formats.torch_export.MAX_INNER_FILES", 2)

    def config(entries):
        for name in list(entries)[:3]:
            entries[name].update(use_pickle=True, path_name="p")

    path = copied(
        exported, tmp_path / "x.pt2", {"data/weights/p": torch_file(torch.ones(1))}, config
    )
    with pytest.raises(WtoolError, match="too many pickled tensors"):
        open_checkpoint(path)


def test_a_thousand_mutations_end_in_an_error_of_the_file_or_an_answer(tmp_path):
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),)), buffer)
    plain = tmp_path / "plain.pt2"
    plain.write_bytes(buffer.getvalue())
    small = {"models/model.json": b"", "data/sample_inputs/model.pt": b""}
    whole = copied(plain, tmp_path / "x.pt2", small).read_bytes()
    generator = random.Random(4)
    path = tmp_path / "model.pt2"
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
