"""PyTorch's zip files against torch itself: every name, type, shape and value."""

import collections
import datetime
import enum
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from torch_oracle import assert_opens_as, assert_same
from torch_zips import rezip, with_byteorder

from wtool.errors import UsageError
from wtool.extents import Absent
from wtool.formats import open_checkpoint

PLAIN_TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
UNTYPED_TYPES = [
    torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e5m2,
    torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz, torch.float8_e8m0fnu,
    torch.bits8, torch.bits16, torch.bits1x8, torch.bits2x4, torch.bits4x2,
]  # fmt: skip


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Different bit patterns in every element, without meaning."""
    count = int(np.prod(shape))
    if not count:
        return torch.empty(shape, dtype=dtype)
    width = torch.empty((), dtype=dtype).element_size()
    raw = np.random.default_rng(7).integers(0, 256, count * width, dtype=np.uint8)
    if dtype is torch.bool:
        raw &= 1
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def saved(tmp_path, value, name="model.pth", **options):
    path = tmp_path / name
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("dtype", PLAIN_TYPES + UNTYPED_TYPES, ids=str)
def test_every_type_is_read_as_torch_reads_it(tmp_path, dtype):
    value = {"w": some(dtype, 3, 5), "scalar": some(dtype, 1).reshape(()), "empty": some(dtype, 0)}
    assert_opens_as(saved(tmp_path, value), value)


def test_float4_shows_two_values_for_each_byte(tmp_path):
    packed = some(torch.uint8, 3, 5)
    value = {
        "w": packed.view(torch.float4_e2m1fn_x2),
        "row": packed[0].clone().view(torch.float4_e2m1fn_x2),
    }
    path = saved(tmp_path, value)
    assert_opens_as(path, value)
    assert open_checkpoint(path)["w"].shape == (3, 10)


def test_transposed_float4_keeps_its_pairs_together(tmp_path):
    packed = some(torch.uint8, 3, 5)
    value = {"w": packed.view(torch.float4_e2m1fn_x2).t()}
    path = saved(tmp_path, value)
    ours = open_checkpoint(path)["w"]
    codes = packed.t().numpy()
    expected = np.stack((codes & 15, codes >> 4), axis=-1).reshape(5, 6)
    assert ours.shape == (5, 6)
    assert (ours.load().view(np.uint8) == expected).all()
    box = np.empty((3, 3), ours.dtype.carrier)
    ours.extent.read_box((1, 1), (4, 4), box)
    assert (box.view(np.uint8) == expected[1:4, 1:4]).all()


def test_every_layout_is_read_as_torch_reads_it(tmp_path):
    base = torch.arange(24.0)
    value = {
        "transposed": base.reshape(2, 3, 4).permute(2, 0, 1),
        "sliced": torch.arange(10)[3:7:2],
        "expanded": torch.tensor([1.0, 2.0])[:, None].expand(2, 5),
        "overlapping": torch.as_strided(base, (4, 3), (1, 2), 2),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0),
        "hollow": torch.zeros(2, 0, 3),
        "late_and_empty": base[24:],
    }
    assert_opens_as(saved(tmp_path, value), value)


def test_conjugate_and_negative_views_are_applied(tmp_path):
    z = torch.randn(3, 4, dtype=torch.complex64)
    value = {"conj": z.conj(), "plain": z}
    assert_opens_as(saved(tmp_path, value), value)
    value = {"imag": z.conj().imag}
    assert value["imag"].is_neg()
    assert_opens_as(saved(tmp_path, value), value)


def test_views_of_one_storage_share_it(tmp_path):
    base = torch.arange(10.0)
    value = {"whole": base, "front": base[:4], "back": base[6:], "apart": base.clone()}
    path = saved(tmp_path, value)
    assert_opens_as(path, value)
    tensors = open_checkpoint(path).tensors
    assert tensors["whole"].storage == tensors["front"].storage == tensors["back"].storage
    assert tensors["apart"].storage != tensors["whole"].storage
    assert open_checkpoint(path).aliases == {"front": "whole", "back": "whole"}


def test_empty_tensors_do_not_share_a_storage(tmp_path):
    value = {"a": torch.zeros(0), "b": torch.zeros(0)}
    checkpoint = open_checkpoint(saved(tmp_path, value))
    assert checkpoint["a"].storage != checkpoint["b"].storage
    assert checkpoint.aliases == {}


def test_tied_parameters_are_aliases(tmp_path):
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    path = saved(tmp_path, model.state_dict())
    assert_opens_as(path, dict(model.state_dict()))
    assert open_checkpoint(path).aliases == {"b.weight": "a.weight"}


def test_nested_containers_give_dotted_names(tmp_path):
    a, b, c, d = (torch.full((2,), float(i)) for i in range(4))
    value = {"x": {"y": [a, (b, {"z": c})]}, 7: d, "epoch": 3, "lr": 0.1, "names": ["p", "q"]}
    path = saved(tmp_path, value)
    assert_opens_as(path, {"x.y.0": a, "x.y.1.0": b, "x.y.1.1.z": c, "7": d})
    assert dict(open_checkpoint(path).extras) == {"epoch": 3, "lr": 0.1, "names": ["p", "q"]}


def test_a_bare_tensor_is_called_tensor(tmp_path):
    value = torch.arange(3)
    assert_opens_as(saved(tmp_path, value), {"tensor": value})


def test_a_list_of_tensors_is_numbered(tmp_path):
    value = [torch.arange(3), torch.arange(4)]
    assert_opens_as(saved(tmp_path, value), {"0": value[0], "1": value[1]})


def test_state_dict_metadata_is_kept(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path = saved(tmp_path, model.state_dict())
    assert_opens_as(path, dict(model.state_dict()))
    checkpoint = open_checkpoint(path)
    assert checkpoint.extras["_metadata"]["1"] == {"version": 2}
    assert list(checkpoint.tree.state["_metadata"]) == ["", "0", "1"]


def test_parameters_buffers_and_attributes_do_not_hide_a_tensor(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(2, 3))
    labelled = torch.nn.Parameter(torch.randn(2))
    labelled.label = "first"
    noted = torch.randn(4)
    noted.note = {"why": "test"}
    buffer = torch.nn.Buffer(torch.randn(3))
    value = {"p": parameter, "labelled": labelled, "noted": noted, "buffer": buffer}
    path = saved(tmp_path, value)
    assert_opens_as(path, value)
    checkpoint = open_checkpoint(path)
    assert checkpoint["buffer"].role == "buffer"
    assert checkpoint.extras["labelled.label"] == "first"
    assert checkpoint.extras["noted.note.why"] == "test"


class Sub(torch.Tensor):
    """A subclass that wtool has never heard of."""


def test_an_unknown_subclass_is_read_as_its_tensor(tmp_path):
    value = {"w": torch.randn(2, 2).as_subclass(Sub)}
    path = saved(tmp_path, value)
    assert_opens_as(path, {"w": value["w"].as_subclass(torch.Tensor)})


def test_meta_tensors_have_a_shape_and_no_values(tmp_path):
    value = {"w": torch.empty(2, 3, device="meta", dtype=torch.float16)}
    tensor = open_checkpoint(saved(tmp_path, value))["w"]
    assert isinstance(tensor.extent, Absent)
    assert (tensor.dtype.name, tensor.shape) == ("float16", (2, 3))


def test_storages_by_themselves_are_one_dimension(tmp_path):
    numbers = torch.arange(5, dtype=torch.int16)
    value = {"typed": numbers.clone().storage(), "untyped": numbers.untyped_storage()}
    path = saved(tmp_path, value)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["typed", "untyped"]
    assert_same(checkpoint["typed"], numbers)
    assert checkpoint["untyped"].load().tobytes() == numbers.numpy().tobytes()


class Net(torch.nn.Module):
    """Every kind of member that a module can have."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.again = self.conv
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.nothing = torch.nn.Linear(2, 2, bias=False)
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("dropped", torch.arange(4), persistent=False)
        self.register_buffer("absent", None)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])


def test_a_whole_module_has_the_names_of_its_state_dict(tmp_path):
    model = Net()
    path = saved(tmp_path, model)
    assert_opens_as(path, dict(model.state_dict()))
    checkpoint = open_checkpoint(path)
    assert checkpoint["norm.running_mean"].role == checkpoint["kept"].role == "buffer"
    assert checkpoint["conv.weight"].role is None
    assert checkpoint.extras["conv.__class__"] == "torch.nn.modules.conv.Conv2d"
    assert checkpoint.extras["conv.kernel_size"] == (3, 3)


def test_an_optimizer_object_opens_with_its_state(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint = open_checkpoint(saved(tmp_path, optimizer))
    assert {t.role for t in checkpoint} == {"optimizer"}
    state = list(optimizer.state.values())
    assert_same(checkpoint["state.0.exp_avg"], state[0]["exp_avg"])
    assert_same(checkpoint["state.1.exp_avg_sq"], state[1]["exp_avg_sq"])
    assert_same(checkpoint["param_groups.0.params.0"], model.weight)


def trained():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_an_optimizer_state_dict_is_optimizer_state(tmp_path):
    _, optimizer = trained()
    state = optimizer.state_dict()
    path = saved(tmp_path, state)
    expected = {
        f"state.{i}.{k}": v for i, slots in state["state"].items() for k, v in slots.items()
    }
    assert_opens_as(path, expected)
    assert {t.role for t in open_checkpoint(path)} == {"optimizer"}
    assert open_checkpoint(path).extras["param_groups.0.lr"] == 0.001


def layouts():
    model, optimizer = trained()
    sd, ema = model.state_dict(), {k: v + 1 for k, v in model.state_dict().items()}
    opt = optimizer.state_dict()
    rng = torch.get_rng_state()
    return {
        "plain": ({"model_state_dict": sd, "optimizer_state_dict": opt, "loss": 1.0}, {}),
        "lightning": (
            {"epoch": 1, "state_dict": sd, "optimizer_states": [opt], "callbacks": {"best": rng}},
            {"callbacks.best": "other"},
        ),
        "deepspeed": ({"module": sd, "optimizer": opt, "ds_version": "0.1"}, {}),
        "yolo": (
            {"model": model, "ema": torch.nn.Linear(2, 2), "optimizer": opt},
            {"ema.weight": "ema", "ema.bias": "ema"},
        ),
        "timm": (
            {"state_dict": sd, "state_dict_ema": ema, "optimizer": opt, "arch": "x"},
            {"state_dict_ema.weight": "ema", "state_dict_ema.bias": "ema"},
        ),
        "net": ({"net": sd, "rng": rng, "optimizer": opt}, {"rng": "other"}),
        "loss_tensor": ({"model": sd, "best": torch.tensor(0.5)}, {"best": "other"}),
        "wrapped": ({"checkpoint": {"model": sd, "optimizer": opt}}, {}),
    }


@pytest.mark.parametrize("name", layouts())
def test_the_model_loses_its_prefix_and_the_rest_keeps_a_role(tmp_path, name):
    value, others = layouts()[name]
    checkpoint = open_checkpoint(saved(tmp_path, value))
    model = [t.name for t in checkpoint if t.role is None]
    assert model == ["weight", "bias"]
    optimizer = [t for t in checkpoint if t.role == "optimizer"]
    assert all("optimizer" in t.name for t in optimizer)
    rest = {t.name: t.role for t in checkpoint if t.role not in (None, "optimizer")}
    assert rest == others
    assert any("its prefix is dropped" in note for note in checkpoint.notes)


def test_an_average_alone_is_the_model(tmp_path):
    value = {"ema": torch.nn.Linear(2, 2), "model": None, "optimizer": None}
    checkpoint = open_checkpoint(saved(tmp_path, value))
    assert [(t.name, t.role) for t in checkpoint] == [("weight", None), ("bias", None)]


def test_root_chooses_a_branch_and_a_dot_keeps_all(tmp_path):
    w, e = torch.ones(2), torch.zeros(2)
    path = saved(tmp_path, {"model": {"w": w}, "ema": {"w": e}, "epoch": 1})
    assert_opens_as(path, {"w": w, "ema.w": e})
    assert_opens_as(path, {"w": e}, root="ema")
    assert open_checkpoint(path, root="ema")["w"].role is None
    assert open_checkpoint(path, root="ema")["w"].key == "ema.w"
    assert_opens_as(path, {"model.w": w, "ema.w": e}, root=".")
    assert open_checkpoint(path, root=".")["ema.w"].role == "ema"
    with pytest.raises(UsageError, match=r"no branch 'nope'.*model, ema, \."):
        open_checkpoint(path, root="nope")


def test_a_file_without_branches_has_none_to_choose_from(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)})
    with pytest.raises(UsageError, match="the file has no branches: found --root nope"):
        open_checkpoint(path, root="nope")


def test_two_candidates_for_the_model_are_both_kept(tmp_path):
    w = torch.ones(2)
    path = saved(tmp_path, {"model": {"w": w}, "state_dict": {"w": w + 1}})
    assert_opens_as(path, {"model.w": w, "state_dict.w": w + 1})
    assert (
        "several branches could be the model: model, state_dict" in open_checkpoint(path).notes[0]
    )


def test_a_dropped_prefix_never_makes_two_names_equal(tmp_path):
    value = {"model": {"best": torch.ones(1)}, "best": torch.zeros(1)}
    path = saved(tmp_path, value)
    assert_opens_as(path, {"model.best": value["model"]["best"], "best": value["best"]})


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_binary_pickle_protocol_is_read(tmp_path, protocol):
    value = collections.OrderedDict(w=torch.randn(3), n=2**40, f=1.5, s="é", b=b"\xff\0", t=(1, 2))
    path = saved(tmp_path, value, pickle_protocol=protocol)
    assert_opens_as(path, {"w": value["w"]})
    extras = dict(open_checkpoint(path).extras)
    assert extras == {k: v for k, v in value.items() if k != "w"}


def test_text_persistent_ids_are_refused_with_the_reason(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)}, pickle_protocol=0)
    with pytest.raises(Exception, match="persistent id written as text") as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 3


class Colour(enum.Enum):
    RED = 1


def test_numpy_values_are_read_and_other_objects_stay_inert(tmp_path):
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i2"),
        "flags": np.array([True, False]),
        "scalar_array": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "z": np.array([1 + 2j]),
    }
    others = {
        "f32": np.float32(1.5), "i64": np.int64(-3), "yes": np.bool_(True),
        "objects": np.array([None, {}], dtype=object),
        "rows": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        "words": np.array(["a", "bc"]), "when": datetime.datetime(2020, 1, 2),
        "path": pathlib.PurePosixPath("a/b"), "colour": Colour.RED,
        "default": collections.defaultdict(list, {"k": 1}), "frozen": frozenset([3]),
        "big": 2**3000, "text": "x" * 70_000, "function": some, "nothing": None,
    }  # fmt: skip
    path = saved(tmp_path, {"arrays": arrays, "others": others})
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == [f"arrays.{name}" for name in arrays]
    for name, array in arrays.items():
        ours = checkpoint[f"arrays.{name}"].load()
        assert ours.shape == array.shape
        assert ours.dtype == array.dtype.newbyteorder("=")
        assert (ours == array).all()
    extras = checkpoint.extras
    assert (extras["others.f32"], extras["others.i64"]) == (1.5, -3)
    assert extras["others.yes"] is True
    assert extras["others.default.k"] == 1
    assert extras["others.frozen"] == [3]
    assert extras["others.big"] == 2**3000
    assert extras["others.text"] == "x" * 70_000
    assert str(extras["others.colour"]).endswith("Colour(1)")
    assert "datetime.datetime" in str(extras["others.when"])
    assert str(extras["others.function"]).endswith(".some")


def test_numpy_arrays_of_the_newest_protocol_are_read(tmp_path):
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }
    checkpoint = open_checkpoint(saved(tmp_path, arrays, pickle_protocol=5))
    assert list(checkpoint.tensors) == ["c", "fortran"]
    for name, array in arrays.items():
        assert checkpoint[name].load().tolist() == array.tolist()


def test_large_dictionaries_and_memos_are_read(tmp_path):
    value = {f"layer.{i}": torch.full((1,), float(i)) for i in range(3000)}
    assert_opens_as(saved(tmp_path, value), value)


@pytest.mark.parametrize("name", ["weird.name.tar.pth", "mödel.pth", "archive", "no suffix"])
def test_any_file_name_is_fine(tmp_path, name):
    value = {"w": torch.randn(3)}
    assert_opens_as(saved(tmp_path, value, name), value)


def test_files_packed_again_by_other_tools_are_read(tmp_path):
    value = {"a": torch.randn(300, 7), "b": torch.arange(11), "c": torch.zeros(0)}
    path = saved(tmp_path, value)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        again = rezip(path, tmp_path / f"again{method}.pth", compression=method)
        assert_opens_as(again, value)


def test_deflated_tensors_are_read_backwards_too(tmp_path):
    value = {"a": torch.randn(70_000)}
    again = rezip(saved(tmp_path, value), tmp_path / "b.pth", compression=zipfile.ZIP_DEFLATED)
    tensor = open_checkpoint(again)["a"]
    expected = value["a"].numpy()
    for start, stop in ((60_000, 70_000), (5, 9), (6, 50_000), (0, 70_000)):
        assert (tensor.read(start, stop) == expected[start:stop]).all()


def test_a_zip_comment_and_trailing_bytes_are_ignored(tmp_path):
    value = {"a": torch.randn(3)}
    again = rezip(saved(tmp_path, value), tmp_path / "b.pth", comment=b"made by hand")
    assert_opens_as(again, value)
    path = saved(tmp_path, value)
    path.write_bytes(path.read_bytes() + b"\0" * 1000)
    assert_opens_as(path, value)


def test_records_are_found_with_case_ignored(tmp_path):
    value = {"a": torch.randn(3)}
    again = rezip(
        saved(tmp_path, value), tmp_path / "b.pth", rename=lambda n: n.replace("/data", "/DATA")
    )
    assert_opens_as(again, value)


def test_checksums_that_were_not_recorded_are_no_fault(tmp_path):
    value = {"a": torch.randn(3)}
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, value)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_opens_as(path, value)


def test_skipped_data_reads_as_the_zeros_of_the_file(tmp_path):
    path = tmp_path / "skipped.pth"
    with torch.serialization.skip_data():
        torch.save({"a": torch.randn(3, 4)}, path)
    assert_opens_as(path, {"a": torch.zeros(3, 4)})


@pytest.mark.parametrize("alignment", [1, 4096])
def test_any_alignment_is_read(tmp_path, alignment):
    from torch.utils.serialization import config

    value = {"a": torch.randn(3), "b": torch.randn(5)}
    before = config.save.storage_alignment
    config.save.storage_alignment = alignment
    try:
        path = saved(tmp_path, value)
    finally:
        config.save.storage_alignment = before
    assert_opens_as(path, value)


def test_files_of_torch_1_6_are_read(tmp_path):
    value = {"a": torch.randn(3), "b": torch.arange(4)}
    addresses = {"/data/0": "/data/94211", "/data/1": "/data/7"}

    def rename(name):
        for old, new in addresses.items():
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name

    def edit(name, data):
        if name.endswith("data.pkl"):
            data = data.replace(b"X\1\0\0\x000", b"X\5\0\0\x0094211")
            return data.replace(b"X\1\0\0\x001", b"X\1\0\0\x007")
        if not name.endswith("/version") and "/data/" not in name:
            return None
        return data

    path = rezip(saved(tmp_path, value), tmp_path / "old.pth", rename=rename, edit=edit)
    with zipfile.ZipFile(path) as archive:
        assert sorted(n.partition("/")[2] for n in archive.namelist()) == [
            "data.pkl", "data/7", "data/94211", "version",
        ]  # fmt: skip
    assert_same(open_checkpoint(path)["a"], torch.load(path)["a"])
    assert_opens_as(path, value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.int64, torch.complex64, torch.bfloat16, torch.bool], ids=str
)
def test_big_endian_files_are_swapped_as_torch_swaps_them(tmp_path, dtype):
    path = with_byteorder(saved(tmp_path, {"a": some(dtype, 6)}), tmp_path / "big.pth", b"big")
    assert_same(open_checkpoint(path)["a"], torch.load(path)["a"])
    assert open_checkpoint(path).metadata["byte order"] == "big"


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_big_endian_untyped_storages_are_swapped_where_torch_forgets_to(tmp_path, dtype):
    # torch 2.13 swaps by the storage's type, which is uint8 here: it gives [0, 256, 512].
    value = torch.arange(3).to(dtype)
    swapped = torch.from_numpy(value.numpy().byteswap())
    path = with_byteorder(saved(tmp_path, {"a": swapped}), tmp_path / "big.pth", b"big")
    assert_same(open_checkpoint(path)["a"], value)


def test_other_devices_are_read_without_them(tmp_path):
    value = {"a": torch.randn(3)}

    def edit(name, data):
        return data.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0")

    path = rezip(saved(tmp_path, value), tmp_path / "cuda.pth", edit=edit)
    assert_opens_as(path, value)

    def rename_class(name, data):
        return data.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")

    path = rezip(saved(tmp_path, value), tmp_path / "cuda.pth", edit=rename_class)
    assert_opens_as(path, value)


def test_a_fact_too_long_to_show_is_noted_as_elsewhere(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)})
    more = tmp_path / "facts.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(more, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for index in range(200):
            new.writestr(f"model/extra/{index}", b"of the user")
        new.writestr("model/extra/wtool.mapping", b"same module paths")
        new.writestr("model/extra/wtool.notes", bytes((1 << 20) + 1))
    checkpoint = open_checkpoint(more)
    assert checkpoint.metadata["wtool.mapping"] == "same module paths"
    assert "wtool.notes" not in checkpoint.metadata
    assert list(checkpoint.notes) == ["'extra/wtool.notes' (1,048,577 bytes) is not shown"]


def test_seventy_thousand_members_open(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)})
    more = tmp_path / "many.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(more, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for index in range(70_000):
            new.writestr(f"model/extra/{index}", b"")
    assert_opens_as(more, {"w": torch.ones(2)})


def test_opening_reads_no_tensor_byte(tmp_path, monkeypatch):
    from wtool.sources import FileSource

    value = {"a": torch.randn(300_000), "b": torch.randn(300_000)}
    path = saved(tmp_path, value)
    read = []
    original = FileSource.read_into

    def spy(self, offset, buffer):
        read.append((offset, offset + len(buffer)))
        original(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", spy)
    tensors = open_checkpoint(path).tensors
    assert sum(stop - start for start, stop in read) < 200_000
    for tensor in tensors.values():
        low = tensor.offset + 70_000
        assert not any(start < low + 1_000_000 and stop > low for start, stop in read)


def test_files_beyond_four_gigabytes_are_read(tmp_path):
    # Sparse on disk: torch leaves the data out, and a marker is written behind 4 GiB.
    path = tmp_path / "large.pth"
    count = (1 << 32) + 16
    with torch.serialization.skip_data():
        torch.save({"big": torch.empty(count, dtype=torch.uint8), "w": torch.empty(4)}, path)
    tensors = open_checkpoint(path).tensors
    with open(path, "r+b") as file:
        file.seek(tensors["big"].offset + count - 1)
        file.write(b"\x07")
        file.seek(tensors["w"].offset)
        file.write(np.arange(4, dtype="<f4").tobytes())
    assert tensors["big"].shape == (count,)
    assert tensors["big"].read(count - 2, count).tolist() == [0, 7]
    assert tensors["w"].load().tolist() == [0, 1, 2, 3]
    assert path.stat().st_blocks * 512 < 1 << 20
