"""The model of the benches: 370 million parameters in 292 tensors, a decoder of 24 blocks.

python tests/bench/make_model.py FOLDER --dtype float32 --size full writes full-float32.pth there.
It looks as an initialiser left it; with --trained, full-float32-trained.pth does not: its rows are
of unequal strength and share directions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator

# blocks, width, vocabulary, positions
SIZES = {
    "full": (24, 1024, 65_536, 1024),  # 370 million parameters, 1.48 GB in float32
    "medium": (12, 512, 32_768, 512),  # 55 million
    "resnet": (8, 448, 12_288, 256),  # 25 million, as many as a ResNet-50
    "small": (4, 128, 4_096, 128),  # 1.3 million
}
DTYPES = ("float32", "bfloat16", "float16")
SEED = 20_24


def shapes(size: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in order."""
    blocks, width, vocabulary, positions = SIZES[size]
    yield "wte.weight", (vocabulary, width)
    yield "wpe.weight", (positions, width)
    for number in range(blocks):
        for layer, shape in (
            ("ln_1", (width,)),
            ("attn.qkv", (3 * width, width)),
            ("attn.out", (width, width)),
            ("ln_2", (width,)),
            ("mlp.up", (4 * width, width)),
            ("mlp.down", (width, 4 * width)),
        ):
            yield f"h.{number}.{layer}.weight", shape
            yield f"h.{number}.{layer}.bias", shape[:1]
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)


def make_model(
    folder: str, dtype: str = "float32", size: str = "full", *, trained: bool = False
) -> str:
    """Path of `size`-`dtype`.pth in `folder`, written by torch.save where it is not there yet.

    trained: `size`-`dtype`-trained.pth, whose weights do not look fresh.
    """
    path = os.path.join(folder, f"{size}-{dtype}{'-trained' if trained else ''}.pth")
    if os.path.exists(path):
        return path
    if "torch" not in sys.modules and __name__ != "__main__":
        # In a process of its own: a child's peak memory counts from that of the parent that forks.
        arguments = [folder, "--dtype", dtype, "--size", size, *(["--trained"] if trained else [])]
        subprocess.run(
            [sys.executable, __file__, *arguments], check=True, stdout=subprocess.DEVNULL
        )
        return path
    import torch

    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for name, shape in shapes(size):
        if len(shape) == 2:
            values = torch.randn(shape, generator=generator) * 0.02
            if trained:
                values *= torch.exp(torch.randn((shape[0], 1), generator=generator) * 0.4)
                common = torch.randn((8, shape[1]), generator=generator) * 0.004
                values += torch.randn((shape[0], 8), generator=generator) @ common
        elif name.endswith(("ln_1.weight", "ln_2.weight")):
            values = torch.ones(shape) + torch.randn(shape, generator=generator) * 0.05
        else:
            values = torch.randn(shape, generator=generator) * 0.01
        state[name] = values.to(getattr(torch, dtype))
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)
    return path


def main() -> None:
    """Write one model and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--trained", action="store_true")
    chosen = parser.parse_args()
    os.makedirs(chosen.folder, exist_ok=True)
    path = make_model(chosen.folder, chosen.dtype, chosen.size, trained=chosen.trained)
    sys.stdout.write(path + "\n")


if __name__ == "__main__":
    main()
