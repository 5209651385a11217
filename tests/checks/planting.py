"""Models with planted faults, written as files and opened by wtool, for the tests of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import wtool
from wtool.checks.policy import Policy
from wtool.checks.runner import choose_rules, run
from wtool.checks.subject import Subject


def sound(seed: int = 0, blocks: int = 6) -> dict[str, np.ndarray]:
    """A model that no rule objects to: heavy-tailed, dependent values, as training leaves them."""
    draw = np.random.default_rng(seed)

    def trained(*shape: int) -> np.ndarray:
        rows = np.exp(draw.normal(0, 0.7, (shape[0], *(1 for _ in shape[1:]))))
        return (0.05 * rows * draw.standard_t(4, shape)).astype(np.float32)

    model = {"stem.weight": trained(24, 3, 3, 3), "stem.bias": trained(24)}
    for i in range(blocks):
        block = f"blocks.{i}"
        model |= {
            f"{block}.norm.weight": 1 + trained(24),
            f"{block}.norm.bias": trained(24),
            f"{block}.norm.running_mean": trained(24),
            f"{block}.norm.running_var": 0.1 + abs(trained(24)),
            f"{block}.norm.num_batches_tracked": np.array(100 + i),
            f"{block}.conv.weight": trained(24, 24, 3, 3),
            f"{block}.conv.bias": trained(24),
            f"{block}.fc.weight": trained(24, 24),
            f"{block}.fc.bias": trained(24),
        }
    return model | {"head.weight": trained(10, 24), "head.bias": trained(10)}


def write(model: Mapping[str, np.ndarray], path: Path, **metadata: str) -> str:
    """The model as a safetensors file at `path`, by the reference library."""
    from safetensors.numpy import save_file

    save_file(
        {name: np.asarray(value, order="C") for name, value in model.items()},
        path,
        metadata={"format": "pt", **metadata},
    )
    return str(path)


def outcomes(path: str, policy: Policy | None = None, only: tuple[str, ...] = (), **more):
    """What the rules find in the file at `path`."""
    subject = Subject(wtool.open(path), policy or Policy(), open_model=wtool.open, **more)
    return list(run(subject, choose_rules(only)))


def found(path: str, policy: Policy | None = None, **more) -> set[tuple[str, str | None]]:
    """(code, tensor) of every finding."""
    return {(o.rule.code, o.finding.tensor) for o in outcomes(path, policy, **more)}
