"""Roles, layers and kinds against what PyTorch and Keras say of their own tensors."""

import os
import subprocess
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import torch
from torch import nn

import wtool
from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dtypes import DTYPES
from wtool.extents import Absent
from wtool.layers import assign_roles, split_depth

LEARNED = ("weight", "bias")


def listing(names: dict[str, tuple], format: str = "torch zip") -> Checkpoint:
    """A checkpoint of absent tensors from name -> shape or (shape, dtype), roles assigned."""
    tensors = []
    for name, entry in names.items():
        shape, dtype = entry if entry and isinstance(entry[0], tuple) else (entry, "float32")
        tensors.append(Tensor(name, name, Absent(DTYPES[dtype], tuple(shape), "a listing")))
    checkpoint = build("listing", format, tensors)
    assign_roles(checkpoint)
    return checkpoint


def roles(names: dict[str, tuple], format: str = "torch zip") -> dict[str, str]:
    return {tensor.name: tensor.role for tensor in listing(names, format)}


def kinds(names: dict[str, tuple], format: str = "torch zip") -> dict[str, str]:
    return {tensor.name: tensor.kind for tensor in listing(names, format)}


class Zoo(nn.Module):
    """One of each layer, with parameters and buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.register_buffer("relative_position_index", torch.zeros(4, 4, dtype=torch.int64))
        self.register_buffer("causal_mask", torch.ones(4, 4, dtype=torch.bool))
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.PReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24)
        )
        self.grouped = nn.Conv2d(24, 48, 3, groups=4)
        self.sequence = nn.Conv1d(8, 16, 3)
        self.volume = nn.Conv3d(2, 4, 3)
        self.deconv = nn.ConvTranspose2d(48, 12, 2)
        self.embed_tokens = nn.Embedding(50, 8)
        self.rnn = nn.LSTM(8, 6, num_layers=2, bidirectional=True)
        self.cell = nn.GRUCell(8, 6)
        self.transformer = nn.TransformerEncoderLayer(8, 2, 16)
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        self.head = nn.Linear(8, 5)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 9, 3))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 7))


KIND_OF_CLASS = {
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.ConvTranspose2d: "transposed_conv",
    nn.Embedding: "embedding",
    nn.LSTM: "recurrent",
    nn.GRUCell: "recurrent",
    nn.MultiheadAttention: "attention",
    nn.BatchNorm2d: "norm",
    nn.GroupNorm: "norm",
    nn.LayerNorm: "norm",
    nn.Linear: "dense",
}


def zoo_checkpoint() -> tuple[nn.Module, Checkpoint]:
    model = Zoo()
    shapes = {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in model.state_dict().items()
    }
    return model, listing(shapes)


def test_roles_are_those_of_named_parameters_and_named_buffers():
    model, checkpoint = zoo_checkpoint()
    parameters = set(dict(model.named_parameters()))
    truth = {name: name in parameters for name in model.state_dict()}
    assert {t.name: t.role in LEARNED for t in checkpoint} == truth
    assert {t.role for t in checkpoint if not truth[t.name]} == {"buffer"}
    biases = {t.name for t in checkpoint if t.role == "bias"}
    assert biases == {n for n in parameters if "bias" in n.rpartition(".")[2] and "table" not in n}


def test_kinds_are_those_of_the_modules():
    model, checkpoint = zoo_checkpoint()
    modules = dict(model.named_modules())
    for tensor in checkpoint:
        module = modules.get(tensor.layer)
        kind = next((k for c, k in KIND_OF_CLASS.items() if isinstance(module, c)), "unknown")
        if tensor.layer == "block.0":
            kind = "depthwise"
        if tensor.layer == "transformer.self_attn.out_proj":
            kind = "attention"
        assert (tensor.name, tensor.kind) == (tensor.name, kind)


def test_layers_are_the_paths_of_the_modules():
    model, checkpoint = zoo_checkpoint()
    assert {t.layer for t in checkpoint} <= set(dict(model.named_modules()))
    assert checkpoint["normed.parametrizations.weight.original0"].layer == "normed"


def test_roles_are_those_of_keras_trainable_and_non_trainable_variables():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Normalization(),
            keras.layers.Conv2D(4, 3, name="c1"),
            keras.layers.DepthwiseConv2D(3, name="dw1"),
            keras.layers.BatchNormalization(name="bn1"),
            keras.layers.Conv2DTranspose(6, 2, name="up1"),
            keras.layers.Reshape((-1, 6)),
            keras.layers.Dropout(0.1, seed=1),
            keras.layers.LSTM(5, name="rnn"),
            keras.layers.LayerNormalization(name="ln"),
            keras.layers.Dense(3, name="d1"),
        ]
    )
    shapes = {
        variable.path: (tuple(variable.shape), str(variable.dtype)) for variable in model.variables
    }
    checkpoint = listing(shapes, "keras")
    trainable = {variable.path for variable in model.trainable_variables}
    assert {t.name: t.role in LEARNED for t in checkpoint} == {n: n in trainable for n in shapes}
    assert {t.role for t in checkpoint if t.name not in trainable} == {"buffer"}
    found = {t.layer: t.kind for t in checkpoint if t.name in trainable}
    prefix = f"{model.name}/" if next(iter(shapes)).startswith(model.name) else ""
    assert found == {
        f"{prefix}{name}": kind
        for name, kind in {
            "c1": "conv",
            "dw1": "depthwise",
            "bn1": "norm",
            "up1": "transposed_conv",
            "rnn/lstm_cell": "recurrent",
            "ln": "norm",
            "d1": "dense",
        }.items()
    }


def test_tensorflow_slots_counters_and_averages_are_not_parameters():
    names = {
        "global_step": ((), "int64"),
        "beta1_power": (),
        "bert/encoder/layer_0/attention/self/query/kernel": (8, 8),
        "bert/encoder/layer_0/attention/self/query/kernel/adam_m": (8, 8),
        "bert/encoder/layer_0/attention/self/query/kernel/adam_v": (8, 8),
        "bert/encoder/layer_0/attention/self/query/bias": (8,),
        "bert/encoder/layer_0/attention/self/query/bias/Adam": (8,),
        "bert/encoder/layer_0/attention/self/query/bias/Adam_1": (8,),
        "bert/embeddings/word_embeddings": (50, 8),
        "bert/embeddings/word_embeddings/Momentum": (50, 8),
        "bert/embeddings/LayerNorm/gamma": (8,),
        "bert/embeddings/LayerNorm/beta": (8,),
        "bert/embeddings/LayerNorm/beta/ExponentialMovingAverage": (8,),
        "conv/BatchNorm/moving_mean": (8,),
        "conv/BatchNorm/moving_variance": (8,),
        "conv/weights": (3, 3, 4, 8),
        "conv/weights/RMSProp_1": (3, 3, 4, 8),
        "conv/biases": (8,),
    }
    assert list(roles(names, "tensorflow").values()) == [
        "other",
        "optimizer",
        "weight",
        "optimizer",
        "optimizer",
        "bias",
        "optimizer",
        "optimizer",
        "weight",
        "optimizer",
        "weight",
        "bias",
        "ema",
        "buffer",
        "buffer",
        "weight",
        "optimizer",
        "bias",
    ]
    checkpoint = listing(names, "tensorflow")
    query = "bert/encoder/layer_0/attention/self/query"
    assert checkpoint[f"{query}/kernel"].layer == query
    assert checkpoint[f"{query}/kernel/adam_m"].layer == query
    assert checkpoint[f"{query}/kernel/adam_m"].kind == "dense"
    assert checkpoint["bert/embeddings/word_embeddings"].kind == "embedding"
    assert checkpoint["conv/weights"].kind == "conv"


def test_a_slot_is_known_by_the_variable_that_it_belongs_to():
    names = {"a/kernel": (2, 2), "a/kernel/some_new_slot": (2, 2)}
    assert list(roles(names, "tensorflow").values()) == ["weight", "optimizer"]


def test_keras_2_optimizer_weights_are_known_by_their_scope():
    names = {
        "dense/kernel:0": (4, 2),
        "training/Adam/dense/kernel/m:0": (4, 2),
        "Adam/dense/kernel/v:0": (4, 2),
        "SGD/iter:0": ((), "int64"),
        "training_head/kernel:0": (4, 2),
    }
    found = list(roles(names, "keras h5").values())
    assert found == ["weight", "optimizer", "optimizer", "optimizer", "weight"]


def test_object_based_and_numbered_names_are_split_as_variables():
    names = {"net/d1/kernel/.ATTRIBUTES/VARIABLE_VALUE": (4, 2), "net/d2/bias:0": (2,)}
    checkpoint = listing(names, "tensorflow")
    assert [(t.layer, t.role) for t in checkpoint] == [("net/d1", "weight"), ("net/d2", "bias")]


def test_branches_of_a_training_file_keep_their_roles():
    names = {
        "model.fc.weight": (3, 2),
        "optimizer.state.0.exp_avg": (3, 2),
        "ema.fc.weight": (3, 2),
        "rng_state": ((16,), "uint8"),
        "lr_scheduler.base": (1,),
    }
    assert list(roles(names).values()) == ["weight", "optimizer", "ema", "other", "other"]


def test_a_plain_parameter_is_a_weight_only_in_a_file_that_holds_a_model():
    assert roles({"a": (3,), "b": ((3,), "int64")}) == {"a": "unknown", "b": "unknown"}
    found = roles({"logit_scale": (), "steps_done": ((), "int64"), "fc.weight": (3, 2)})
    assert found == {"logit_scale": "weight", "steps_done": "buffer", "fc.weight": "weight"}


def test_tensors_beside_the_one_model_branch_stay_unknown():
    names = {"state_dict.fc.weight": (3, 2), "state_dict.token": (3,), "loss_history": (100,)}
    assert list(roles(names).values()) == ["weight", "weight", "unknown"]


def test_what_the_reader_stated_is_kept():
    extent = Absent(DTYPES["float32"], (3,), "a listing")
    tensor = Tensor("bn.weight", "bn.weight", extent, role="buffer", layer="there", kind="norm")
    assign_roles(build("listing", "torch zip", [tensor]))
    assert (tensor.role, tensor.layer, tensor.kind) == ("buffer", "there", "norm")


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("h.0.attn.bias", (1, 1, 16, 16), "buffer"),  # GPT-2's causal mask
        ("h.0.attn.masked_bias", (), "buffer"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (32,), "buffer"),
        ("bert.embeddings.position_ids", (1, 512), "buffer"),
        ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (2, 8), "buffer"),  # SAM
        ("rope.freqs", (64,), "buffer"),  # Llama's own files
        ("rope.freqs", (2, 12, 384), "weight"),  # timm's, which are learned
        ("pos_encoder.pe", (5000, 1, 8), "buffer"),  # PyTorch's tutorial on transformers
        ("model.24.anchors", (3, 3, 2), "buffer"),  # YOLOv5
        ("criterion.weight", (3,), "buffer"),
        ("losses.0.weight", (3,), "weight"),
        ("ce_loss.weight", (3,), "buffer"),
        ("loss_fn.pos_weight", (3,), "buffer"),
        ("loss.weight", (3, 8), "weight"),  # a prototype of each class
        ("mel.fb", (201, 80), "buffer"),
        ("layer.0.q_bias", (8,), "bias"),
        ("rnn.bias_hh_l1_reverse", (24,), "bias"),
        ("layer.lora_A.weight", (4, 8), "weight"),
        ("blocks.0.gamma_1", (8,), "weight"),
        ("mask_token", (1, 1, 8), "weight"),
    ],
)
def test_hugging_face_and_timm_names_have_their_roles(name, shape, role):
    assert roles({"fc.weight": (3, 2), name: shape})[name] == role


def test_the_schedule_of_a_diffusion_is_state():
    names = [
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
        *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod"),
        *("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance"),
        *("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    ]
    found = roles({"model.diffusion_model.out.weight": (3, 2), **dict.fromkeys(names, (1000,))})
    assert list(found.values()) == ["weight"] + ["buffer"] * len(names)
    assert roles({"fc.weight": (3, 2), "betas": (10,)})["betas"] == "weight"


def test_the_scale_of_an_adapter_is_state_and_that_of_an_activation_is_learned():
    lora = {"a.lora_down.weight": (4, 8), "a.lora_up.weight": (8, 4), "a.alpha": ()}
    loha = {"b.hada_w1_a": (8, 4), "b.hada_w1_b": (4, 8), "b.alpha": ()}
    found = roles({**lora, **loha, "act.alpha": ()})
    assert [name for name, role in found.items() if role == "buffer"] == ["a.alpha", "b.alpha"]
    assert found["act.alpha"] == "weight"


def test_the_base_of_an_orthogonal_parametrisation_is_state():
    model = torch.nn.Sequential(torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(4, 4)))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    assert {n: r != "buffer" for n, r in roles(shapes).items()} == {
        n: n in parameters for n in shapes
    }


def test_old_weight_norm_learns_what_old_spectral_norm_only_keeps():
    normed = {"a.weight_g": (8, 1), "a.weight_v": (8, 4)}
    spectral = {"b.weight_orig": (8, 4), "b.weight_u": (8,), "b.weight_v": (4,)}
    assert list(roles(normed).values()) == ["weight", "weight"]
    assert list(roles(spectral).values()) == ["weight", "buffer", "buffer"]


def test_frozen_batch_norm_is_state_where_other_layers_count_their_batches():
    frozen = {f"bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    counted = {
        **{name.replace("bn1", "bn2"): shape for name, shape in frozen.items()},
        "bn2.num_batches_tracked": ((), "int64"),
    }
    assert set(roles({**frozen, **counted}).values()) == {"buffer", "weight", "bias"}
    assert roles({**frozen, **counted})["bn1.weight"] == "buffer"
    assert roles(frozen)["bn1.weight"] == "weight"  # files older than the counter


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"proj_in.w.weight": (4, 3)}, "unknown"),  # rank 2, no bias, a name that says nothing
        ({"model.q_proj.weight": (4, 4)}, "dense"),
        ({"wte.weight": (50, 4)}, "embedding"),
        ({"conv1.weight": (32, 1, 3, 3)}, "conv"),  # the first layer: one input channel
        ({"a.weight": (32, 8, 1, 1), "conv1.weight": (32, 1, 3, 3)}, "depthwise"),
        ({"a.weight": (7, 8, 1, 1), "conv1.weight": (32, 1, 3, 3)}, "unknown"),
        ({"mask.weight": (256, 256, 2, 2)}, "unknown"),  # patches or transposed: not in the file
        ({"up.weight": (8, 4, 2, 2), "up.bias": (4,)}, "transposed_conv"),
        ({"group_conv3x3.weight": (96, 32, 3, 3)}, "conv"),
        ({"mlp.experts.fc1.weight": (8, 64, 128)}, "unknown"),  # matrices of a mixture, stacked
        ({"moe.input_linear.weight": (8, 22016, 4096)}, "unknown"),  # the same, GraniteMoe's
        ({"codebooks_head.weight": (31, 1024, 2051)}, "unknown"),  # Csm's
        ({"up.weight": (1, 512, 512), "up.bias": (1,)}, "unknown"),  # nn.Bilinear
        ({"bilinear.weight": (6, 4, 5)}, "unknown"),
        ({"pos_conv_embed.conv.weight": (768, 48, 128)}, "conv"),  # wav2vec's long window
        ({"a.weight": (64, 8, 1, 1), "conv2.weight": (64, 1, 1, 1)}, "unknown"),  # EfficientLoFTR's
        ({"a.weight": (64, 8, 3), "dw.weight": (64, 1, 1)}, "depthwise"),  # named so
        ({"a.weight": (512, 512, 1), "upsample.conv.weight": (512, 1, 4)}, "unknown"),  # transposed
        (
            {"a.weight": (64, 64, 3), "downsample_block.0.weight": (64, 1, 4)},
            "unknown",
        ),  # Jukebox's
        ({"a.weight": (768, 768), "projection.weight": (768, 1, 16, 16)}, "unknown"),  # Tvlt's
        ({"a.weight": (64, 8, 1), "conv1d.weight": (64, 1, 4)}, "depthwise"),  # Mamba's
        ({"resblocks.0.convt_pre.weight": (32, 32, 16)}, "transposed_conv"),  # UnivNet's
        ({"fc1.weight": (8, 4, 6, 2, 2, 2)}, "unknown"),
        ({"norm.scale": (8,)}, "norm"),
        ({"act.weight": (8,)}, "unknown"),
    ],
)
def test_what_shapes_leave_open_is_unknown(names, kind):
    assert list(kinds(names).values())[0 if len(names) == 1 or "up.bias" in names else -1] == kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"rnn/basic_lstm_cell/kernel": (9, 16)}, "recurrent"),
        ({"rnn/gru_cell/gates/kernel": (9, 8)}, "recurrent"),
        ({"att/query/kernel": (8, 2, 4), "att/query/bias": (2, 4)}, "attention"),
        ({"a/kernel": (3, 3, 16, 1), "a/bias": (16,)}, "depthwise"),
        ({"a/kernel": (3, 3, 16, 2), "a/bias": (32,)}, "depthwise"),
        ({"a/kernel": (3, 3, 16, 8), "a/bias": (16,)}, "transposed_conv"),
        ({"a/kernel": (3, 3, 16, 8), "a/bias": (8,)}, "conv"),
        ({"sep/depthwise_kernel": (3, 3, 8, 1)}, "depthwise"),
        ({"emb/embeddings": (50, 8)}, "embedding"),
    ],
)
def test_keras_and_tensorflow_shapes_have_their_kinds(names, kind):
    assert next(iter(kinds(names, "tensorflow").values())) == kind


def test_the_two_kernels_of_a_separable_layer_have_their_own_kinds():
    names = {"s/depthwise_kernel": (3, 3, 8, 1), "s/pointwise_kernel": (1, 1, 8, 4), "s/bias": (4,)}
    assert list(kinds(names, "tensorflow").values()) == ["depthwise", "conv", "conv"]


def test_split_depth_keeps_the_separator_of_the_name():
    assert split_depth("a.b.c", 2) == "a.b"
    assert split_depth("a/b.c/d", 2) == "a/b.c"
    assert split_depth("a", 3) == "a"
    assert split_depth("a.b", 0) == ""


def test_roles_of_100_000_tensors_need_no_numpy_and_no_values():
    code = (
        "import sys\n"
        "from wtool.checkpoint import Tensor, build\n"
        "from wtool.dtypes import DTYPES\n"
        "from wtool.extents import Absent\n"
        "from wtool.layers import assign_roles\n"
        "extent = Absent(DTYPES['float32'], (8, 8), '')\n"
        "names = [f'layers.{i}.{m}.weight' for i in range(25000) for m in 'abcd']\n"
        "assign_roles(build('x', 'torch zip', [Tensor(n, n, extent) for n in names]))\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_layers_that_torch_quantised_are_counted_as_they_were(tmp_path):
    """Their packed parameters are integers named "0" and "1": they counted as buffers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        torch.save(quantised.state_dict(), tmp_path / "q.pth")
    found = wtool.open(tmp_path / "q.pth")
    totals = wtool.count(found).totals
    assert (totals["weights"], totals["biases"], totals["buffers"]) == (16 * 8 + 8 * 4, 8 + 4, 4)
    assert found["0.scale"].role == found["0.zero_point"].role == "buffer"


class Odd(nn.Module):
    """Parameters under names that elsewhere are those of buffers, and the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.running_mean = nn.Parameter(torch.zeros(3))
        self.bias = nn.Parameter(torch.zeros(1, 1, 4, 4))
        self.steps = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("weight", torch.zeros(3, 2))
        self.register_buffer("exp_avg", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.running_mean


def _saved(tmp_path, value):
    torch.save(value, tmp_path / "m.pth")
    return wtool.open(tmp_path / "m.pth")


def test_what_the_file_calls_a_parameter_is_one_whatever_its_name(tmp_path):
    module = Odd()
    learned = {name for name, _ in module.named_parameters()}
    checkpoint = _saved(tmp_path, module)
    assert {t.name for t in checkpoint if t.role in LEARNED} == learned
    assert {t.name for t in checkpoint if t.role == "buffer"} == {"weight", "exp_avg"}
    assert checkpoint["bias"].role == "bias"
    torch.jit.save(torch.jit.script(module), tmp_path / "s.pt")
    scripted = wtool.open(tmp_path / "s.pt")
    assert {t.name for t in scripted if t.role in LEARNED} == learned
    program = torch.export.export(module, (torch.zeros(3),))
    torch.export.save(program, tmp_path / "e.pt2")
    exported = wtool.open(tmp_path / "e.pt2")
    assert {t.name for t in exported if t.role in LEARNED} == learned


@pytest.mark.parametrize("wrap", [list, tuple, lambda p: {"epoch": 3, "params": p}])
def test_a_list_of_parameters_is_counted(tmp_path, wrap):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    checkpoint = _saved(tmp_path, wrap(list(module.parameters())))
    expected = sum(p.numel() for p in module.parameters())
    assert wtool.count(checkpoint).totals["parameters"] == expected


def test_a_parameter_by_itself_is_counted_and_a_tensor_beside_it_is_judged(tmp_path):
    assert [t.role for t in _saved(tmp_path, nn.Parameter(torch.zeros(3)))] == ["weight"]
    assert [t.role for t in _saved(tmp_path, torch.zeros(3))] == ["unknown"]
    mixed = {"thing": nn.Parameter(torch.zeros(3)), "table": torch.arange(3)}
    assert [t.role for t in _saved(tmp_path, mixed)] == ["weight", "buffer"]


def test_parameters_that_an_optimizer_or_an_average_holds_stay_theirs(tmp_path):
    module = nn.Linear(3, 4)
    value = {
        "model": module.state_dict(),
        "ema": list(module.parameters()),
        "optimizer": torch.optim.SGD(module.parameters(), 0.1, momentum=0.9),
    }
    checkpoint = _saved(tmp_path, value)
    assert {t.name.partition(".")[0]: t.role for t in checkpoint} == {
        "weight": "weight",
        "bias": "bias",
        "ema": "ema",
        "optimizer": "optimizer",
    }


def test_a_tensor_without_a_name_does_not_own_the_others():
    names = {"": (3,), "cls_token": (1, 4), "fc.weight": (3, 2), "running_mean": (3,)}
    assert list(roles(names).values()) == ["weight", "weight", "weight", "buffer"]
    assert roles({"": (3,), "weight": (3, 2)}) == {"": "weight", "weight": "weight"}
