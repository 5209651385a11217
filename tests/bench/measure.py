"""Whole processes side by side: median time and peak memory of each, and the ratio to a peer.

Contestants take turns, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate


@dataclass(frozen=True)
class Measurement:
    """What the runs of one command took: seconds, processor seconds and peak bytes of each."""

    name: str
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)

    @property
    def peak_bytes(self) -> int:
        """Largest resident set of any run."""
        return max(self.peaks)

    def processor_ratio(self, other: Measurement) -> float:
        """Processor time over that of another: the median over the turns that both had."""
        turns = zip(self.processor, other.processor, strict=True)
        return statistics.median(own / theirs for own, theirs in turns)


# A user's shell sets none of these: they compile every source anew, or flush every line.
_NOT_SET = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


def run_once(command: Sequence[str]) -> tuple[float, int, float]:
    """(seconds, peak bytes, processor seconds) of one run, its output thrown away.

    RuntimeError where it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_SET}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit, usage.ru_utime + usage.ru_stime


def compare(commands: Mapping[str, Sequence[str]], repeats: int = 5) -> list[Measurement]:
    """Every command `repeats` times, in turns, after one run each that is not counted."""
    results = [Measurement(name) for name in commands]
    for turn in range(repeats + 1):
        for result, command in zip(results, commands.values(), strict=True):
            seconds, peak, processor = run_once(command)
            if turn:
                result.seconds.append(seconds)
                result.peaks.append(peak)
                result.processor.append(processor)
    return results


def warm(path: str) -> None:
    """Read a file once, so that it lies in the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def table(title: str, peer: Measurement, others: Sequence[Measurement]) -> str:
    """Times, spreads and peaks as a table, with how many times faster than the peer each is."""
    rows = [
        (
            m.name,
            f"{m.median:.3f}",
            f"{min(m.seconds):.3f}-{max(m.seconds):.3f}",
            f"{m.peak_bytes / 1e6:.0f}",
            f"{peer.median / m.median:.1f}",
        )
        for m in (peer, *others)
    ]
    headers = ("", "median s", "range s", "peak MB", "times the peer")
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True)}\n"
