"""Score of `wtool check`: faults planted in trained models, and clean models of every library.

    python tests/bench/score_check.py [--each 20] [--seed 0] [--clean]

Prints one line per kind: how many were planted, how many the rule found in the right place. With
--clean also fresh torchvision, Keras and transformers models: how many errors, warnings and notes;
an error there is a mistake of wtool.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from planted_faults import FIXTURES, Kind, kinds
from tabulate import tabulate

import wtool

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
TRIES = 50


def score(kind: Kind, each: int, seed: int) -> tuple[int, list[str]]:
    """(faults planted, what was missed) of one kind: `each` faults, the models in turn."""
    draw = np.random.default_rng([seed, *kind.name.encode()])
    planted = 0
    missed = []
    for turn in range(each * TRIES):
        if planted == each:
            break
        with tempfile.TemporaryDirectory() as folder:
            model = kind.models[turn % len(kind.models)]
            fault = kind.plant(model, draw, Path(folder))
            if fault is None:
                continue
            planted += 1
            path, tensor = fault
            rows = wtool.check(path, only=[kind.code]).rows
            if not any(tensor is None or row.get("tensor") == tensor for row in rows):
                missed.append(f"{model} {tensor}")
    return planted, missed


def table(each: int, seed: int) -> tuple[list[tuple[str, ...]], int, int, bool]:
    """(rows, planted, found, whether every certain fault was found)."""
    rows = []
    total = found = 0
    complete = True
    for kind in kinds():
        planted, missed = score(kind, each, seed)
        hits = planted - len(missed)
        total, found = total + planted, found + hits
        complete = complete and not (kind.certain and missed)
        rows.append(
            (
                kind.name,
                kind.code,
                "certain" if kind.certain else "likely",
                str(planted),
                f"{hits / planted:.0%}",
                "; ".join(missed[:2]),
            )
        )
    return rows, total, found, complete


def clean_models(folder: Path) -> Iterator[tuple[str, str]]:
    """(library and name, path) of models as their libraries create and save them."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        # The wheel's compiled operators need another torch; no model here uses them.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    for name in (
        *("alexnet", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1"),
        *("densenet121", "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5", "googlenet"),
        *("swin_t", "convnext_tiny", "vit_b_16", "regnet_y_400mf", "vgg11_bn", "maxvit_t"),
    ):
        model = torchvision.models.get_model(name, weights=None)
        path = folder / f"{name}.pth"
        torch.save(model.state_dict(), path)
        yield f"torchvision {name}", str(path)
        path.unlink()
    import keras

    for name in ("MobileNetV2", "EfficientNetB0", "DenseNet121", "ResNet50", "NASNetMobile"):
        model = getattr(keras.applications, name)(weights=None)
        for suffix in (".keras", ".weights.h5"):
            path = folder / f"{name}{suffix}"
            (model.save if suffix == ".keras" else model.save_weights)(path)
            yield f"keras {name}{suffix}", str(path)
            path.unlink()
    import transformers

    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    plans: dict[str, tuple[str, dict]] = {
        "BertForMaskedLM": ("BertConfig", {**small, "vocab_size": 1000}),
        "RobertaForSequenceClassification": ("RobertaConfig", {**small, "vocab_size": 1000}),
        "DistilBertModel": ("DistilBertConfig", {"dim": 64, "n_layers": 4, "n_heads": 4}),
        "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 64, "n_layer": 4, "n_head": 4}),
        "LlamaForCausalLM": ("LlamaConfig", {**small, "vocab_size": 1000, "intermediate_size": 96}),
        "OPTForCausalLM": ("OPTConfig", {**small, "ffn_dim": 96, "word_embed_proj_dim": 64}),
        "T5ForConditionalGeneration": ("T5Config", {"d_model": 64, "num_layers": 4, "d_ff": 96}),
        "BartForConditionalGeneration": ("BartConfig", {"d_model": 64, "encoder_layers": 3}),
        "AlbertForMaskedLM": ("AlbertConfig", {**small, "embedding_size": 32}),
        "ViTForImageClassification": ("ViTConfig", small),
        "Wav2Vec2ForCTC": ("Wav2Vec2Config", small),
        "CLIPModel": ("CLIPConfig", {}),
        "MambaForCausalLM": ("MambaConfig", {"hidden_size": 64, "num_hidden_layers": 4}),
    }
    for name, (config, options) in plans.items():
        model = getattr(transformers, name)(getattr(transformers, config)(**options))
        for safe in (True, False):
            path = folder / f"{name}-{safe}"
            model.save_pretrained(path, safe_serialization=safe)
            yield f"transformers {name}{'' if safe else ' (.bin)'}", str(path)


def clean_table(models: Callable[[Path], Iterator[tuple[str, str]]]) -> tuple[list[tuple], int]:
    """(rows, errors in all) of the clean models."""
    rows = []
    errors = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(Path(folder)):
            report = wtool.check(path)
            counts = [report.totals[key] for key in ("errors", "warnings", "notes")]
            errors += counts[0]
            codes = sorted({row["rule"] for row in report.rows})
            rows.append((name, *counts, " ".join(codes)))
    return rows, errors


def fixtures(folder: Path) -> Iterator[tuple[str, str]]:
    """The trained fixtures, in every container."""
    for path in sorted(FIXTURES.iterdir()):
        if path.name.startswith(("digits-", "topics-")):
            yield f"fixture {path.name}", str(path)


def say(text: str) -> None:
    """One piece of the report, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Print the tables; 1 where a certain fault was missed or a clean model has an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--each", type=int, default=20, help="faults of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean", action="store_true", help="also fresh models of all libraries")
    options = parser.parse_args()
    rows, total, found, complete = table(options.each, options.seed)
    say(tabulate(rows, ["kind", "rule", "", "planted", "found", "missed"], tablefmt="github"))
    say(f"\n{found} of {total} faults of {len(rows)} kinds found")
    errors = 0
    for models in (fixtures, clean_models) if options.clean else (fixtures,):
        rows, more = clean_table(models)
        errors += more
        say(
            "\n"
            + tabulate(rows, ["clean", "errors", "warnings", "notes", "rules"], tablefmt="github")
        )
    say(f"\n{errors} errors in clean models")
    return 0 if complete and not errors else 1


if __name__ == "__main__":
    raise SystemExit(main())
