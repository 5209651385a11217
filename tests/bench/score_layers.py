"""Score of roles and kinds: models of torchvision, timm and transformers against their own modules.

    python tests/bench/score_layers.py [torchvision] [timm] [transformers]

Models are built on torch's meta device, without values. The truth: `named_parameters` against
`named_buffers` for roles, the class of each module for kinds. Prints per library how many tensors
agree, the models whose parameter count differs, and every (truth, answer) of kinds with an example.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched

import torch

from wtool.checkpoint import Tensor, build
from wtool.dtypes import BY_TORCH
from wtool.extents import Absent
from wtool.layers import assign_roles

LEARNED = ("weight", "bias")
# Classes by name, so that a library's own subclasses count as what they are.
KINDS = (
    ("transposed_conv", ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")),
    ("dense (in, out)", ("Conv1D",)),
    ("conv", ("Conv1d", "Conv2d", "Conv3d")),
    ("dense", ("Linear",)),
    ("embedding", ("Embedding",)),
    ("recurrent", ("RNNBase", "RNNCellBase")),
    ("attention", ("MultiheadAttention",)),
)
DETECTION = ("rcnn", "retina", "fcos", "ssd", "deeplab", "fcn", "lraspp")
MAX_LAYERS = 3
# Not every default configuration builds, or builds without values, or without a library.
NOT_BUILT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


def torchvision_models() -> Iterator[tuple[str, Callable]]:
    """Every model of torchvision."""
    from torchvision import models

    for name in models.list_models():
        extra = {"weights_backbone": None} if any(part in name for part in DETECTION) else {}
        yield name, lambda name=name, extra=extra: models.get_model(name, weights=None, **extra)


def timm_models() -> Iterator[tuple[str, Callable]]:
    """The first two and the last model of each of timm's files."""
    import timm

    by_file: dict[str, list[str]] = {}
    for name in timm.list_models():
        by_file.setdefault(timm.models.model_entrypoint(name).__module__, []).append(name)
    for names in by_file.values():
        for name in dict.fromkeys((*names[:2], names[-1])):
            yield name, lambda name=name: timm.create_model(name)


def transformers_models() -> Iterator[tuple[str, Callable]]:
    """One model per architecture of transformers, its default configuration cut to few layers."""
    from transformers.models.auto import configuration_auto, modeling_auto

    mappings = [
        getattr(modeling_auto, f"MODEL_{task}MAPPING")
        for task in ("FOR_CAUSAL_LM_", "FOR_MASKED_LM_", "FOR_IMAGE_CLASSIFICATION_", "")
    ]
    for name in configuration_auto.CONFIG_MAPPING_NAMES:
        try:
            configuration = configuration_auto.CONFIG_MAPPING[name]
        except ImportError:  # it needs a library that is not there
            continue
        for mapping in mappings:
            if configuration in mapping:
                yield name, lambda c=configuration, m=mapping: _transformer(c, m)
                break


def _transformer(configuration: type, mapping: dict):
    config = configuration()
    for name in ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers"):
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > MAX_LAYERS:
            setattr(config, name, MAX_LAYERS)
    model = mapping[configuration]
    return (model[0] if isinstance(model, (list, tuple)) else model)(config)


def true_kind(module: torch.nn.Module | None, shape: tuple[int, ...]) -> str:
    """Kind that a module's class states; "other" where it states none."""
    classes = {base.__name__ for base in type(module).__mro__}
    for kind, names in KINDS:
        if classes & set(names):
            if kind == "conv" and module.groups > 1 and shape[1] == 1:
                return "depthwise"
            return kind
    return "norm" if any("Norm" in name for name in classes) else "other"


def score(library: str, models: Iterator[tuple[str, Callable]]) -> None:
    """Print the score of one library."""
    roles: Counter = Counter()
    kinds: Counter = Counter()
    examples: dict[tuple[str, str], str] = {}
    wrong_counts, failed, tensors, seconds, built = [], 0, 0, 0.0, 0
    for name, make in models:
        try:
            with torch.device("meta"):
                model = make()
        except NOT_BUILT:
            failed += 1
            continue
        built += 1
        parameters = dict(model.named_parameters(remove_duplicate=False))
        modules = dict(model.named_modules(remove_duplicate=False))
        state = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
        checkpoint = build(
            name,
            "torch",
            [
                Tensor(k, k, Absent(BY_TORCH[str(v.dtype)[6:]], tuple(v.shape), "meta"))
                for k, v in state.items()
            ],
        )
        start = time.perf_counter()
        assign_roles(checkpoint)
        seconds += time.perf_counter() - start
        tensors += len(checkpoint)
        counted = sum(t.count for t in checkpoint if t.role in LEARNED)
        true = sum(value.numel() for key, value in state.items() if key in parameters)
        if counted != true:
            wrong_counts.append(f"{name} {counted:,} for {true:,}")
        for tensor in checkpoint:
            roles[(tensor.role in LEARNED) == (tensor.name in parameters)] += 1
            if tensor.name in parameters and tensor.name.endswith(".weight"):
                truth = true_kind(modules.get(tensor.name.removesuffix(".weight")), tensor.shape)
                if len(tensor.shape) >= 2:
                    kinds[truth, tensor.kind] += 1
                    examples.setdefault((truth, tensor.kind), f"{name} {tensor.name}")
    lines = [
        f"{library}: {built} models ({failed} did not build), {tensors:,} tensors",
        f"  roles right: {roles[True]:,} of {roles.total():,}; "
        f"{seconds / max(tensors, 1) * 1e5:.2f} s per 100,000 tensors",
        f"  parameter counts that differ: {len(wrong_counts)} {wrong_counts[:20]}",
    ]
    for (truth, answer), count in sorted(kinds.items()):
        example = "" if truth == answer else f"   {examples[truth, answer]}"
        lines.append(f"  {truth:16} {answer:16} {count:7,}{example}")
    sys.stdout.write("\n".join(lines) + "\n")


LIBRARIES = {
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
}


def main() -> None:
    """Score the libraries that are named, all by default."""
    warnings.simplefilter("ignore")
    # torchvision's compiled operators do not fit a CPU build of torch; declaring them is enough.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for library in sys.argv[1:] or LIBRARIES:
        score(library, LIBRARIES[library]())


if __name__ == "__main__":
    main()
