"""Two weights hold the same values, and are stored twice.

Why it is bad: either they were tied and the tie was lost on saving (training goes on with two
copies that drift apart, and the file is larger), or one was copied into the other by mistake.

Example: `lm_head.weight` equals `embed_tokens.weight`, 77 MB more than needed.

How to mend it: save them tied (one storage in torch; in safetensors one name, the other in the
metadata), or load the tensor that should be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

# Smaller tensors, and those of few different values, may be equal by chance.
MIN_COUNT = 64
MIN_DISTINCT = 16
BLOCK = 1 << 18


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each weight that repeats an earlier one; equal moments name the candidates."""
    earlier: dict[Any, list[Tensor]] = {}
    for tensor, facts in subject.matrices():
        if tensor.count < MIN_COUNT or facts.distinct < MIN_DISTINCT:
            continue
        originals = earlier.setdefault((tensor.dtype.name, tensor.shape, facts.moments), [])
        original = next((one for one in originals if equal(one, tensor)), None)
        if original is None:
            originals.append(tensor)
        else:
            yield Finding(
                f"equals '{original.name}' value for value, {tensor.nbytes:,} bytes stored twice",
                tensor.name,
            )


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type and shape have the same bits in every value."""
    for start in range(0, a.count, BLOCK):
        stop = min(a.count, start + BLOCK)
        if a.read(start, stop).tobytes() != b.read(start, stop).tobytes():
            return False
    return True


RULE = Rule(
    "WT014",
    "untied-copies",
    "warning",
    "save them tied, or load the tensor that should be there",
    find,
    __doc__,
)
