"""How long `wtool ls` takes beside torch and TensorFlow, as whole processes in the same run.

python tests/bench/bench_ls.py [--folder FOLDER] [--size full] [--runs 5]

Peers: a script that does `torch.load(mmap=True)` and prints names and shapes; the same with
`tf.train.list_variables`. Then 100,000 tensors in one file of each kind.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from make_model import make_model
from measure import compare, table, warm

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
    files = (paths["torch"], paths["safetensors"], paths["tensorflow"] + ".index")
    if all(map(os.path.exists, files)):
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
    # In a process of its own: a child's peak memory starts from that of the process that forks it.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        path = pool.submit(make_model, chosen.folder, "float32", chosen.size).result()
        prefix = pool.submit(tensorflow_twin, path).result()
        many = pool.submit(many_tensors, chosen.folder).result()
    warm(path)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    ls = [sys.executable, "-m", "wtool", "ls"]
    torch_peer = [sys.executable, "-c", TORCH, path]
    tensorflow_peer = [sys.executable, "-c", TENSORFLOW, prefix]
    for title, peer, command, ours in (
        ("PyTorch", "torch.load(mmap)", torch_peer, [*ls, path]),
        ("TensorFlow", "list_variables", tensorflow_peer, [*ls, prefix]),
    ):
        theirs, own = compare({peer: command, "wtool ls": ours}, chosen.runs)
        sys.stdout.write(
            table(f"ls of {os.path.getsize(path) / 1e9:.2f} GB, {title}", theirs, [own]) + "\n"
        )
    theirs, *own = compare(
        {
            "torch.load(mmap)": [sys.executable, "-c", TORCH, many["torch"]],
            **{f"wtool ls, {kind}": [*ls, file] for kind, file in many.items()},
        },
        chosen.runs,
    )
    sys.stdout.write(table(f"ls of {MANY:,} tensors", theirs, own) + "\n")


if __name__ == "__main__":
    main()
