"""The other side of `proving`: reads a file by its own library and compares it with a stream.

Run as `python -m wtool.bridges.prove`; standard input holds messages, each a JSON text or a block
of bytes after its length (8 bytes); standard output gets one JSON text. Nothing of wtool's readers
or writers is used here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from wtool.bridges.libraries import OPEN, Opened
from wtool.dtypes import DTYPES, DType

if TYPE_CHECKING:
    import numpy as np

# More differences than this help nobody.
MAX_FAULTS = 10


@dataclass
class Findings:
    """What was compared so far."""

    tensors: int = 0
    nbytes: int = 0
    faults: list[str] = field(default_factory=list)
    seen: set[Any] = field(default_factory=set)


def main() -> None:
    """Answer one stream of claims."""
    stream = sys.stdin.buffer
    # Libraries print; the answer must stand alone.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    first = _message(stream)
    opened = OPEN[first["container"]](first["path"])
    findings = Findings()
    while True:
        claim = _message(stream)
        if "complete" in claim:
            break
        _judge(opened, claim, _blocks(stream), findings)
    if claim["complete"]:
        for name in sorted(map(_shown, opened.names - findings.seen))[:MAX_FAULTS]:
            findings.faults.append(f"'{name}' is in the file, and should not be")
    answer.write(
        json.dumps(
            {
                "library": opened.library,
                "tensors": findings.tensors,
                "nbytes": findings.nbytes,
                "faults": findings.faults[:MAX_FAULTS],
            }
        )
    )
    answer.close()


def _shown(name: str | tuple[str, ...]) -> str:
    return name if isinstance(name, str) else ".".join(name)


def _message(stream: IO[bytes]) -> dict[str, Any]:
    size = int.from_bytes(stream.read(8), "little")
    message: dict[str, Any] = json.loads(stream.read(size))
    return message


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while size := int.from_bytes(stream.read(8), "little"):
        yield stream.read(size)


def _judge(
    opened: Opened, claim: dict[str, Any], blocks: Iterator[bytes], findings: Findings
) -> None:
    """Compare one tensor; takes all its blocks from the stream."""
    name = opened.take(claim)
    findings.seen.add(name)
    fault = None
    if name not in opened.names:
        fault = "is not in the file"
    elif opened.shape(name) != tuple(claim["shape"]):
        fault = f"has shape {list(opened.shape(name))}, not {claim['shape']}"
    if fault is None:
        values = opened.fetch(name, DTYPES[claim["written"]])
        if claim["bound"] is None:
            fault = _differs(values, blocks)
        else:
            fault = _strays(values, blocks, DTYPES[claim["dtype"]], claim["bound"])
        findings.tensors += 1
        findings.nbytes += values.nbytes
    for _ in blocks:
        pass
    if fault is not None:
        findings.faults.append(f"tensor '{claim['name']}' {fault}")


def _differs(values: np.ndarray, blocks: Iterator[bytes]) -> str | None:
    """The first difference between the bytes of `values` and the blocks."""
    import numpy

    raw = numpy.frombuffer(_encoded(values), numpy.uint8) if values.dtype == object else None
    if raw is None:
        raw = values.view(numpy.uint8)
    start = 0
    for block in blocks:
        part = raw[start : start + len(block)]
        if len(part) != len(block) or part.tobytes() != block:
            return f"differs within bytes {start} to {start + len(block)}"
        start += len(block)
    return None if start == len(raw) else f"has {len(raw)} bytes, not {start}"


def _encoded(texts: np.ndarray) -> bytes:
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def _strays(
    values: np.ndarray, blocks: Iterator[bytes], dtype: DType, bound: dict[str, float]
) -> str | None:
    """Whether the cast `values` stray from the blocks of the source further than the bound says."""
    import numpy

    start = beyond = 0
    # Twice rounded (float64 through float32) is a little more than once.
    slack = 1 + 2.0**-10
    for block in blocks:
        old = numpy.frombuffer(block, dtype.carrier).astype(numpy.float64)
        new = values[start : start + len(old)].astype(numpy.float64)
        if len(new) != len(old):
            return f"has {len(values)} elements, fewer than the source"
        size = numpy.abs(old)
        with numpy.errstate(invalid="ignore", over="ignore"):
            error = numpy.abs(new - old)
            within = error <= slack * numpy.maximum(bound["relative"] * size, bound["absolute"])
            within &= error <= slack * bound["stated"] * size
        within |= (new == old) | (numpy.isnan(new) & numpy.isnan(old))
        beyond += int(len(old) - numpy.count_nonzero(within))
        start += len(old)
    if start != len(values):
        return f"has {len(values)} elements, not {start}"
    if beyond > bound["overflowed"]:
        return f"has {beyond} values further off than the cast may be"
    return None


if __name__ == "__main__":
    main()
