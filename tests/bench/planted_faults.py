"""Faults planted in the trained fixtures of both frameworks, and the rule that is to find each.

A kind is a function (model, draw, folder) -> (path, tensor) or None where the model has no place
for it. PyTorch models are saved again by torch; in Keras files values are changed where they lie.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import wtool
from wtool.checkpoint import Tensor

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TORCH = ("digits-cnn.pth", "topics-rnn.pth", "digits-transformer.pth")
KERAS = ("digits-cnn.weights.h5", "topics-rnn.weights.h5", "digits-transformer.weights.h5")
Planted = tuple[str, str | None] | None
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. certain: whether every one of them must be found."""

    name: str
    code: str
    plant: Callable[[str, np.random.Generator, Path], Planted]
    models: tuple[str, ...]
    certain: bool = True


def kinds() -> Iterator[Kind]:
    """All kinds, values first."""
    both = TORCH + KERAS
    for name, code, accept, change, certain in VALUES:
        yield Kind(name, code, _in_values(accept, change), both, certain)
    for name, code, plant in STRUCTURE:
        yield Kind(name, code, plant, TORCH)
    for name, code, plant in FILES:
        yield Kind(name, code, plant, TORCH)
    whole = ("digits-cnn.pth", "digits-cnn.weights.h5", "digits-cnn-legacy.pth", "digits-cnn.keras")
    yield Kind("bytes behind the end", "WT046", add_tail, (*whole, "digits-cnn-tf1"))
    yield Kind(
        "flipped byte", "WT047", flip_byte, ("digits-cnn.pth", "digits-cnn-tf", "digits-cnn-tf1")
    )
    yield Kind("wrong total_size", "WT027", wrong_total, ("digits-cnn-safetensors-shards",))
    yield Kind("shard not as indexed", "WT028", lose_entry, ("digits-cnn-safetensors-shards",))


def load(model: str) -> dict[str, torch.Tensor]:
    """The state dict of a fixture."""
    return dict(torch.load(FIXTURES / model, weights_only=True))


def save(state: object, model: str, folder: Path) -> str:
    path = folder / model
    torch.save(state, path)
    return str(path)


def _in_values(accept: Callable[[Tensor], bool], change: Change):
    """A kind that changes the values of one tensor that `accept` takes."""

    def plant(model: str, draw: np.random.Generator, folder: Path) -> Planted:
        checkpoint = wtool.open(str(FIXTURES / model))
        places = [t for t in checkpoint if t.dtype.name == "float32" and accept(t)]
        if not places:
            return None
        tensor = places[draw.integers(len(places))]
        values = change(tensor.load().copy(), draw).astype(np.float32)
        if model in TORCH:
            state = load(model)
            state[tensor.name] = torch.from_numpy(np.array(values))
            if change is start_again:
                _reset_bias(state, tensor.name)
            return save(state, model, folder), tensor.name
        path = folder / model
        shutil.copy(FIXTURES / model, path)
        with path.open("r+b") as file:
            file.seek(tensor.offset)
            file.write(values.astype("<f4").tobytes())
            if change is start_again:
                for other in checkpoint:
                    if other.layer == tensor.layer and other.role == "bias":
                        file.seek(other.offset)
                        file.write(bytes(other.nbytes))
        return str(path), tensor.name

    return plant


def _reset_bias(state: dict[str, torch.Tensor], name: str) -> None:
    """A trained bias would show that the layer was trained."""
    layer = name.rpartition(".")[0]
    for key in state:
        if key.rpartition(".")[0] == layer and "bias" in key.rpartition(".")[2]:
            state[key] = torch.zeros_like(state[key])


def _any(tensor: Tensor) -> bool:
    return tensor.role in ("weight", "bias") and tensor.count >= 8


def _matrix(tensor: Tensor) -> bool:
    return tensor.role == "weight" and len(tensor.shape) >= 2 and tensor.count >= 64


def _large(tensor: Tensor) -> bool:
    return _matrix(tensor) and tensor.count >= 512


def _units(tensor: Tensor) -> bool:
    return _matrix(tensor) and tensor.kind in ("dense", "conv", "recurrent")


def _variance(tensor: Tensor) -> bool:
    return tensor.name.endswith(("running_var", "moving_variance"))


def one(value: float) -> Change:
    """A change that puts `value` somewhere."""

    def change(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        values.flat[draw.integers(values.size)] = value
        return values

    return change


def clip(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The upper 3 to 10 % are cut off."""
    return np.minimum(values, np.quantile(values, draw.uniform(0.9, 0.97)))


def start_again(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Xavier's uniform start."""
    fans = values.shape[0] + values.shape[-1]
    bound = np.sqrt(6 / fans)
    return draw.uniform(-bound, bound, values.shape)


def old_memory(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Pointers, integers and texts, as an array that was never filled may hold."""
    size = values.size
    pointers = draw.integers(0x7F00_0000_0000, 0x7FFF_FFFF_FFFF, size // 4 + 1, dtype=np.int64)
    text = np.frombuffer(b"weight_decay=0.1\0torch.optim...." * size, np.float32)
    return np.concatenate([pointers.view(np.float32), text])[:size].reshape(values.shape)


def tiny_part(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A tenth becomes subnormal."""
    return np.where(draw.random(values.shape) < 0.1, np.float32(1e-40), values)


VALUES: tuple[tuple[str, str, Callable[[Tensor], bool], Change, bool], ...] = (
    ("NaN", "WT001", _any, one(np.nan), True),
    ("infinity", "WT002", _any, one(-np.inf), True),
    ("negative variance", "WT003", _variance, one(-0.5), True),
    ("zero weight", "WT004", _matrix, lambda v, d: v * 0, True),
    ("constant weight", "WT005", _matrix, lambda v, d: v * 0 + d.uniform(0.01, 1), True),
    ("exploded scale", "WT006", _matrix, lambda v, d: v * 10 ** d.uniform(4, 6), True),
    ("vanished scale", "WT006", _matrix, lambda v, d: v * 10 ** -d.uniform(4, 6), True),
    ("overflow in float16", "WT007", _any, one(70_000.0), True),
    ("subnormal mass", "WT009", _large, tiny_part, True),
    ("uninitialised memory", "WT013", _any, old_memory, True),
    ("clipped at one bound", "WT015", _large, clip, False),
    ("initialised again", "WT012", _large, start_again, False),
)


def dead(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    return _unit(model, draw, folder, lambda values, at, other: values.__setitem__(at, 0))


def repeated(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    return _unit(model, draw, folder, lambda v, at, other: v.__setitem__(at, v[other].clone()))


def _unit(model, draw, folder, change) -> Planted:
    checkpoint = wtool.open(str(FIXTURES / model))
    places = [t.name for t in checkpoint if _units(t) and t.count // t.shape[0] >= 4]
    name = places[draw.integers(len(places))]
    state = load(model)
    values = state[name].clone()
    at, other = draw.choice(len(values), 2, replace=False)
    change(values, int(at), int(other))
    state[name] = values
    return save(state, model, folder), name


def copied(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    """One weight holds another's values: two of the same shape."""
    state = load(model)
    names = [n for n, v in state.items() if v.dim() >= 2 and v.numel() >= 64]
    pairs = [(a, b) for a in names for b in names if a < b and state[a].shape == state[b].shape]
    if not pairs:
        return None
    first, second = pairs[draw.integers(len(pairs))]
    state[second] = state[first].clone()
    order = list(state)
    return save(state, model, folder), max(first, second, key=order.index)


def optimizer(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    moments = {i: {"exp_avg": torch.zeros_like(v)} for i, v in enumerate(state.values())}
    groups = [{"lr": float(draw.random()), "params": list(moments)}]
    document = {"model": state, "optimizer": {"state": moments, "param_groups": groups}}
    return save(document, model, folder), None


def average(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    copy = {name: value * float(draw.random()) for name, value in state.items()}
    return save({"state_dict": state, "state_dict_ema": copy}, model, folder), None


def prefix(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    front = ("module.", "_orig_mod.", "_orig_mod.module.")[draw.integers(3)]
    return save({front + name: value for name, value in load(model).items()}, model, folder), None


def half_statistics(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    names = [name for name in state if name.endswith(("running_mean", "running_var"))]
    if not names:
        return None
    name = names[draw.integers(len(names))]
    del state[name]
    return save(state, model, folder), name


def float_counter(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    names = [name for name in state if name.endswith("num_batches_tracked")]
    if not names:
        return None
    name = names[draw.integers(len(names))]
    state[name] = state[name].to((torch.float16, torch.float32)[draw.integers(2)])
    return save(state, model, folder), name


def float64(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    names = [n for n, v in state.items() if v.dtype is torch.float32 and "running" not in n]
    names = [name for name in names if state[name].numel() < 1000]
    name = names[draw.integers(len(names))]
    state[name] = state[name].double()
    return save(state, model, folder), name


def nearly_a_name(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    name = list(state)[draw.integers(len(state))]
    state[name.upper()] = state[name] * 2
    return save(state, model, folder), name.upper()


STRUCTURE = (
    ("dead unit", "WT010", dead),
    ("repeated unit", "WT011", repeated),
    ("copy of another weight", "WT014", copied),
    ("optimizer left in", "WT020", optimizer),
    ("average left in", "WT021", average),
    ("leftover prefix", "WT022", prefix),
    ("half of the statistics", "WT023", half_statistics),
    ("counter turned float", "WT025", float_counter),
    ("one float64", "WT026", float64),
    ("name in another case", "WT050", nearly_a_name),
)


class Recipe:
    """A class that no loader knows."""


class Command:
    """An object whose unpickling would run a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def beside(*values: Callable[[np.random.Generator], object]):
    """A kind that stores a value beside the model."""

    def plant(model: str, draw: np.random.Generator, folder: Path) -> Planted:
        value = values[draw.integers(len(values))](draw)
        document = {"state_dict": load(model), "args": value}
        return save(document, model, folder), None

    return plant


def _home(draw: np.random.Generator) -> dict[str, str]:
    place = ("/home/alice/run", "/Users/bob/data", "C:\\Users\\carol\\w")[draw.integers(3)]
    return {"output": f"{place}{draw.integers(100)}"}


def view(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    name = [n for n, v in state.items() if v.dim() >= 1][draw.integers(5)]
    large = torch.zeros(4096, *state[name].shape)
    large[7] = state[name]
    state[name] = large[7]
    return save(state, model, folder), name


def hidden_storage(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    import zipfile

    path = save(load(model), model, folder)
    with zipfile.ZipFile(path, "a") as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        info = zipfile.ZipInfo(f"{prefix}/data/{draw.integers(900, 1000)}")
        archive.writestr(info, draw.bytes(512))
    return path, None


def other_twin(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    state = load(model)
    torch.save(state, folder / "model.bin")
    names = [n for n, v in state.items() if v.is_floating_point() and v.numel() > 1]
    name = names[draw.integers(len(names))]
    state[name].view(-1)[int(draw.integers(state[name].numel()))] += 0.25
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors")
    return str(folder / "model.safetensors"), name


FILES = (
    ("class in the pickle", "WT040", beside(lambda d: Recipe())),
    ("command in the pickle", "WT040", beside(lambda d: Command())),
    ("object beside tensors", "WT041", beside(lambda d: {"recipe": Recipe()})),
    ("absolute path", "WT042", beside(_home)),
    ("user name", "WT043", beside(_home, lambda d: {"hostname": f"node-{d.integers(99)}"})),
    ("hidden storage", "WT044", hidden_storage),
    ("small view, large storage", "WT045", view),
    ("twins differ", "WT055", other_twin),
)


def _copy(model: str, folder: Path) -> Path:
    source, target = FIXTURES / model, folder / model
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
    return target


def _data(path: Path) -> Path:
    return next(path.glob("**/*.data-*")) if path.is_dir() else path


def add_tail(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    path = _copy(model, folder)
    with _data(path).open("ab") as file:
        file.write(draw.bytes(int(draw.integers(1, 2000))))
    return str(path), None


def flip_byte(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    path = _copy(model, folder)
    tensors = [t for t in wtool.open(str(path)) if t.offset is not None and t.count > 4]
    tensor = tensors[draw.integers(len(tensors))]
    file = _data(path)
    data = bytearray(file.read_bytes())
    data[tensor.offset + int(draw.integers(tensor.nbytes))] ^= 1 << int(draw.integers(8))
    file.write_bytes(data)
    return str(path), None


def _index(model: str, folder: Path) -> Path:
    return next(_copy(model, folder).glob("*.index.json"))


def wrong_total(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    path = _index(model, folder)
    document = json.loads(path.read_text())
    document.setdefault("metadata", {})["total_size"] = int(draw.integers(1, 10**6))
    path.write_text(json.dumps(document))
    return str(path), None


def lose_entry(model: str, draw: np.random.Generator, folder: Path) -> Planted:
    path = _index(model, folder)
    document = json.loads(path.read_text())
    names = list(document["weight_map"])
    name = names[draw.integers(len(names))]
    del document["weight_map"][name]
    path.write_text(json.dumps(document))
    return str(path), name
