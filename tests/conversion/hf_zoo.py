"""Tiny models of Hugging Face, in both frameworks, every parameter and statistic random.

    python tests/conversion/hf_zoo.py FOLDER BertForMaskedLM ...

writes FOLDER/NAME.pth and FOLDER/NAME.h5 of each, in a process of its own: the two frameworks take
five seconds to import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}
_NARROW = {**_SMALL, "embedding_size": 16}
_GPT = {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 20}
_PICTURE = {**_SMALL, "image_size": 16, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_SOUND = {
    "vocab_size": 32,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
# Family -> settings of its configuration.
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _SMALL,
    "DistilBert": {
        "vocab_size": 50,
        "dim": 24,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": 20,
    },
    "Roberta": _SMALL,
    "XLMRoberta": _SMALL,
    "Camembert": _SMALL,
    "Electra": _NARROW,
    "Albert": _NARROW,
    "MobileBert": {
        **_NARROW,
        "intra_bottleneck_size": 12,
        "true_hidden_size": 12,
        "intermediate_size": 20,
    },
    "RemBert": {**_SMALL, "input_embedding_size": 16, "output_embedding_size": 20},
    "RoFormer": _NARROW,
    "ConvBert": {**_NARROW, "num_attention_heads": 4},
    "Deberta": _SMALL,
    "DebertaV2": _SMALL,
    "LayoutLM": _SMALL,
    "Esm": {**_SMALL, "pad_token_id": 1, "mask_token_id": 3, "emb_layer_norm_before": True},
    "GPT2": _GPT,
    "OpenAIGPT": _GPT,
    "XLM": {
        "vocab_size": 50,
        "emb_dim": 24,
        "n_layers": 2,
        "n_heads": 3,
        "max_position_embeddings": 20,
    },
    "T5": {
        "vocab_size": 50,
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 40,
        "num_layers": 2,
        "num_heads": 3,
        "decoder_start_token_id": 0,
    },
    "Bart": {
        "vocab_size": 50,
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": 20,
    },
    "ViT": _PICTURE,
    "ResNet": {
        "embedding_size": 8,
        "hidden_sizes": [16, 24, 32, 40],
        "depths": [2, 1, 1, 1],
        "layer_type": "bottleneck",
    },
    "ConvNext": _STAGES,
    "ConvNextV2": _STAGES,
    "MPNet": _SMALL,
    "Lxmert": {
        **_SMALL,
        **dict.fromkeys(("l_layers", "x_layers", "r_layers"), 1),
        **dict.fromkeys(("num_qa_labels", "num_object_labels", "num_attr_labels"), 5),
        "visual_feat_dim": 12,
    },
    "Hubert": _SOUND,
    "CLIP": {"text_config": _SMALL, "vision_config": _PICTURE, "projection_dim": 16},
    "SwiftFormer": {"depths": [1] * 4, "embed_dims": [8, 8, 16, 16], "image_size": 32},
}
_PICTURES = ("ViT", "ResNet", "ConvNext", "ConvNextV2")


def family_of(name: str) -> str:
    """The longest family that the name of a class begins with."""
    return max((family for family in CONFIGS if name.startswith(family)), key=len)


def build_torch(name: str) -> tuple[Any, Any]:
    """(configuration, PyTorch model in evaluation mode) of a class of transformers."""
    import torch
    from torchvision_on_cpu import load_torchvision

    load_torchvision()
    import transformers

    settings = getattr(transformers, f"{family_of(name)}Config")(**CONFIGS[family_of(name)])
    torch.manual_seed(6)
    model = getattr(transformers, name)(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        for path, buffer in model.named_buffers():
            if path.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif path.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return settings, model


def build_tensorflow(name: str, settings: Any) -> Any:
    """The TensorFlow class's model, its variables made."""
    import transformers

    model = getattr(transformers, f"TF{name}")(settings)
    model.build_in_name_scope()
    return model


def inputs_of(name: str) -> dict[str, Any]:
    """Inputs of a class, as NumPy arrays."""
    import numpy as np

    random = np.random.default_rng(2)
    if family_of(name) in _PICTURES:
        size = 16 if family_of(name) == "ViT" else 64
        return {"pixel_values": random.normal(size=(2, 3, size, size)).astype("f4")}
    if family_of(name) == "Hubert":
        return {"input_values": random.normal(size=(2, 400)).astype("f4")}
    ids = random.integers(4, 50, (2, 9))
    if name.endswith("MultipleChoice"):
        return {"input_ids": random.integers(4, 50, (2, 3, 9))}
    if family_of(name) in ("T5", "Bart") and not name.endswith("EncoderModel"):
        return {"input_ids": ids, "decoder_input_ids": random.integers(4, 50, (2, 7))}
    return {"input_ids": ids}


def make_pairs(folder: Path, names: Sequence[str]) -> None:
    """Write FOLDER/NAME.pth and FOLDER/NAME.h5 of each class, by a process of its own."""
    missing = [name for name in names if not (folder / f"{name}.h5").exists()]
    if missing:
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, str(folder), *missing]
        subprocess.run(command, check=True, capture_output=True, env=environment)


def _write(folder: Path, name: str) -> None:
    import torch

    settings, model = build_torch(name)
    torch.save(model.state_dict(), folder / f"{name}.pth")
    build_tensorflow(name, settings).save_weights(folder / f"{name}.h5")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    for wanted in sys.argv[2:]:
        _write(Path(sys.argv[1]), wanted)
