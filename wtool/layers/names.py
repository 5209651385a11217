"""Tensor names taken apart, and what their last component says about a tensor's role.

Sources: `torch.nn` parameter and buffer names, Keras 2/3 variable names, TensorFlow 1 slot names
(`tensorflow/python/training`), and the buffers registered by torchvision, timm and transformers.
"""

from __future__ import annotations

import re

# Patterns are text: `re` compiles each where it is first asked for, and most files ask for none.

# Between a layer and the parameter that `torch.nn.utils.parametrize` takes apart.
PARAMETRIZATIONS = ".parametrizations."
# What TensorFlow and Keras append to a variable's own name.
_VARIABLE_SUFFIX = r"(/\.ATTRIBUTES/VARIABLE_VALUE|:\d+)$"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WEIGHT_LEAVES = _words(
    "weight weights kernel embeddings embedding gamma alpha scale recurrent_kernel "
    "depthwise_kernel pointwise_kernel depthwise_weights pointwise_weights qweight weight_packed "
    "lora_A lora_B weight_orig weight_g weight_v weight_ih weight_hh"
)
BIAS_LEAVES = _words("bias biases beta bias_orig bias_ih bias_hh")
# State that a model keeps and does not learn: statistics of normalisation, positions, masks and
# index tables, random state and counters, fixed decay rates of linear attention, vector
# quantisers' running codebooks, spectral norm and pruning, scales and observers of quantisation;
# the sinusoids of PyTorch's tutorial, anchors of detectors, windows and filters of spectrograms,
# class weights of a loss.
BUFFER_LEAVES = _words(
    "running_mean running_var num_batches_tracked moving_mean moving_variance moving_stddev "
    "renorm_mean renorm_stddev pixel_mean pixel_std "
    "position_ids token_type_ids inv_freq freqs_cis cos_cached sin_cached relative_position_index "
    "relative_coords_table relative_position_bucket attn_mask causal_mask attention_mask "
    "masked_bias attention_bias_idxs num_points_scale n_points_scale "
    "e_score_correction_bias final_logits_bias "
    "seed_generator_state num_updates inited initialized _float_tensor "
    "slope_rate query_decay key_decay diagonal_decay "
    "cluster_size cluster_usage embed_avg embed_sum ema_cluster_size _ema_cluster_size "
    "pe positional_encoding_gaussian_matrix anchors anchor_grid strides window fb dct_mat "
    "pos_weight "
    "_u weight_u weight_mask bias_mask "
    "scales qzeros g_idx zero_point zero_points weight_scale weight_scale_inv weight_zero_point "
    "weight_shape input_scale output_scale act_scale SCB absmax quant_map nested_absmax "
    "nested_quant_map min_val max_val fake_quant_enabled observer_enabled x_min x_max "
    "input_min input_max output_min output_max weight_integer bias_integer vector_u "
    "kernel_scale kernel_zero kernel_amax_history embeddings_scale embeddings_zero inputs_scale "
    "inputs_amax_history outputs_grad_scale outputs_grad_amax_history"
)
OTHER_LEAVES = _words(
    "global_step save_counter _CHECKPOINTABLE_OBJECT_GRAPH good_steps current_loss_scale"
)
# Slots of torch optimizers, and the TensorFlow optimizers' own counters.
OPTIMIZER_LEAVES = _words(
    "exp_avg exp_avg_sq max_exp_avg_sq exp_inf momentum_buffer square_avg acc_delta grad_avg "
    "beta1_power beta2_power"
)
# TensorFlow slots: "<variable>/<slot>"; a second slot of the same optimizer gets "_1".
_SLOT = (
    r"(Adam|Adamax|AdaMax|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|ProximalAdagrad|"
    r"AdamWeightDecayOptimizer|LAMB|LARSOptimizer|GradientDescent|PowerSign|AddSign|AdamW|Nadam|"
    r"adam_[mv]|lamb_[mv]|slot_v[cr]?|slot_m)(_\d+)?"
)
_SHADOW = r"ExponentialMovingAverage(_\d+)?|ema|EMA|shadow"

# First component of a name -> role of everything below it.
BRANCH_ROLES = {
    branch: role
    for role, branches in {
        "optimizer": "optimizer optimizers optimizer_state optimizer_states optimizer_state_dict "
        "optim optim_state optim_state_dict optimizer_weights _optimizer",
        "ema": "ema ema_model model_ema ema_state_dict state_dict_ema ema_state ema_params "
        "shadow_params averaged_model swa_model",
        "other": "rng_state rng_states scheduler lr_scheduler lr_schedulers grad_scaler "
        "loss_scaler loss_scale",
    }.items()
    for branch in branches.split()
}
# Keras 2 puts an optimizer's weights under "training/Adam/..." or "Adam/...".
_KERAS_OPTIMIZERS = _words(
    "training Adam AdamW Adamax Nadam Adagrad Adadelta RMSprop SGD Ftrl Lion Adafactor"
)
# First components that may tell the role of everything below them: see role_of_branch.
BRANCHES = BRANCH_ROLES.keys() | _KERAS_OPTIMIZERS
_KERAS_OPTIMIZER = (
    r"(training/)?(Adam|AdamW|Adamax|Nadam|Adagrad|Adadelta|RMSprop|SGD|Ftrl|Lion|Adafactor)(/|$)"
)

_BUFFER = (
    r"(running|moving)_(mean|var|variance|std|avg)|"
    r".*_(mask|masks|idx|idxs|index|indices|ids|quant_state|zero_point|cached|buffer)|"
    r"(weight|bias)\.\d+\.(_[uv]|base)|masks?|idx|index|indices|ids|.*_observer|"
    r"(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|"
    r"posterior_(variance|log_variance_clipped|mean_coef[12])|.*_scaling_factor|"
    r"quant_state(\..*)?|bitsandbytes__.*|.*inv_freq"
)
# What a module that holds a loss is called.
LOSS = r"criterion|(.*_)?loss(_.*)?|.*Loss"
_BIAS = r"bias(es)?[_.].*|.*_bias|.*_beta"
_WEIGHT = r"weights?[_.].*|.*_(weights?|kernel|embeddings?|table|token|tokens|gamma)"


def split_leaf(name: str) -> tuple[str, str]:
    """(module path, last component) of a tensor's name; the separator is whichever occurs last.

    TensorFlow's `/.ATTRIBUTES/VARIABLE_VALUE` and `:0` belong to neither. A parametrised weight of
    PyTorch, "conv.parametrizations.weight.original0", is "weight.original0" of "conv".
    """
    if name[-1:] in "0123456789E" and ("/.ATTRIBUTES/" in name or ":" in name):
        name = re.sub(_VARIABLE_SUFFIX, "", name)
    cut = name.find(PARAMETRIZATIONS)
    if cut >= 0:
        return name[:cut], name[cut + len(PARAMETRIZATIONS) :]
    cut = max(name.rfind("."), name.rfind("/"))
    return (name[:cut], name[cut + 1 :]) if cut >= 0 else ("", name)


def split_depth(name: str, depth: int) -> str:
    """The first `depth` components of the path `name`, joined as they were; "" for depth 0."""
    separator = "/" if "/" in name else "."
    return separator.join(name.split(separator)[:depth])


def role_of_leaf(leaf: str) -> str | None:
    """Role that the last component of a name states, None where it states none."""
    if leaf in WEIGHT_LEAVES:
        return "weight"
    if leaf in BIAS_LEAVES:
        return "bias"
    if leaf in BUFFER_LEAVES:
        return "buffer"
    if leaf in OPTIMIZER_LEAVES:
        return "optimizer"
    if leaf in OTHER_LEAVES:
        return "other"
    if re.fullmatch(_BUFFER, leaf):
        return "buffer"
    if re.fullmatch(_BIAS, leaf):
        return "bias"
    if re.fullmatch(_WEIGHT, leaf):
        return "weight"
    return None


def role_of_slot(leaf: str) -> str | None:
    """Role of "<variable>/<leaf>" in TensorFlow, "optimizer" or "ema"; None for no slot name."""
    if re.fullmatch(_SLOT, leaf):
        return "optimizer"
    if re.fullmatch(_SHADOW, leaf):
        return "ema"
    return None


def role_of_branch(path: str) -> str | None:
    """Role of everything in the branch that a path lies in, None for an ordinary path."""
    first = path.partition(".")[0].partition("/")[0]
    role = BRANCH_ROLES.get(first)
    if role is None and first in _KERAS_OPTIMIZERS and re.match(_KERAS_OPTIMIZER, path):
        return "optimizer"
    return role
