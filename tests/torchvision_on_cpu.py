"""torchvision beside a CPU build of torch."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

_KEPT: list[Any] = []


@cache
def load_torchvision() -> ModuleType:
    """The package torchvision, whether or not its compiled part fits this torch.

    Its wheel registers two operators with a compiled part that needs the very torch that it was
    built for. The models use neither; declared by us, they let the package be imported.
    """
    try:
        import torchvision
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision
    return torchvision
