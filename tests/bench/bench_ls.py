"""How long `wtool ls` takes beside torch and TensorFlow, as whole processes in the same run.

python tests/bench/bench_ls.py [--folder DIR] [--size full|small] [--runs 5]

Peers: a script that does `torch.load(mmap=True)` and prints names and shapes; the same with
`tf.train.list_variables`. Then 100,000 tensors in one file of each kind.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from make_model import make_model
from measure import Case, report

TORCH = """
import sys, torch
for name, tensor in torch.load(sys.argv[1], mmap=True, weights_only=True).items():
    print(name, tensor.dtype, tuple(tensor.shape))
"""
TENSORFLOW = """
import sys, tensorflow as tf
for name, shape in tf.train.list_variables(sys.argv[1]):
    print(name, shape)
"""
MANY = 100_000


def tensorflow_twin(path: str) -> str:
    """The model of a PyTorch file as a TensorFlow checkpoint beside it, written by TensorFlow."""
    prefix = path.removesuffix(".pth") + "-tf"
    if not os.path.exists(prefix + ".index"):
        import tensorflow as tf
        import torch

        state = torch.load(path, mmap=True)
        names, values = zip(*((n, t.numpy()) for n, t in state.items()), strict=True)
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
        )
    return prefix


def many_tensors(folder: str) -> dict[str, str]:
    """100,000 tensors of four elements in a file of each kind."""
    paths = {
        "torch": os.path.join(folder, "many.pth"),
        "safetensors": os.path.join(folder, "many.safetensors"),
        "tensorflow": os.path.join(folder, "many-tf"),
    }
    if os.path.exists(paths["tensorflow"] + ".index"):
        return paths
    import tensorflow as tf
    import torch
    from safetensors.torch import save_file

    state = {
        f"blocks.{i // 10}.layer{i % 10}.weight": torch.full((4,), float(i)) for i in range(MANY)
    }
    torch.save(state, paths["torch"])
    save_file(state, paths["safetensors"])
    tf.raw_ops.SaveV2(
        prefix=paths["tensorflow"],
        tensor_names=list(state),
        shape_and_slices=[""] * MANY,
        tensors=[t.numpy() for t in state.values()],
    )
    return paths


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "wtool-bench"))
    parser.add_argument("--size", default="full")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    os.makedirs(chosen.folder, exist_ok=True)
    path = make_model(chosen.folder, "float32", chosen.size)
    prefix = tensorflow_twin(path)
    many = many_tensors(chosen.folder)
    ls = [sys.executable, "-m", "wtool", "ls"]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    report(
        f"ls of {os.path.getsize(path) / 1e9:.2f} GB, PyTorch",
        [
            Case("wtool ls", [*ls, path]),
            Case("torch.load(mmap)", [sys.executable, "-c", TORCH, path]),
        ],
        runs=chosen.runs,
    )
    report(
        "the same, TensorFlow",
        [
            Case("wtool ls", [*ls, prefix]),
            Case("list_variables", [sys.executable, "-c", TENSORFLOW, prefix], environment=quiet),
        ],
        runs=chosen.runs,
    )
    for kind, file in many.items():
        report(f"ls of {MANY:,} tensors, {kind}", [Case("wtool ls", [*ls, file])], runs=chosen.runs)


if __name__ == "__main__":
    main()
