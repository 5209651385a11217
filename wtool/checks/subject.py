"""What the rules look at: the model, its policy, and one reading of its values that all share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wtool.checks.policy import Policy
from wtool.checks.seen_bytes import SeenBytes
from wtool.checks.unit_probes import Suspects, UnitProbes, units_in_one_run
from wtool.extents import Absent
from wtool.layers import output_axes

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Checkpoint, Tensor
    from wtool.encodings.zip_directory import ZipDirectory
    from wtool.kernels.measure import Measured
    from wtool.kernels.moments import Moments

# Magnitudes beyond these do not occur together in one tensor that was ever computed.
TINY, HUGE = 1e-30, 1e10
# Half of the smallest float16 above 0, and where rounding to float16 gives infinity.
HALF_VANISHES, HALF_OVERFLOWS = 2.0**-25, 65520.0
LEARNED = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Facts:
    """One tensor's values, in numbers that take no room.

    moments: exact. mean, std, abs_max: None where nothing is finite. distinct: different values
    (of types wider than 16 bits: of bins 2^-8 wide). lowest, highest: how many values are in the
    outermost and in the next bin on each side.
    overflow, vanish: values that float16 makes infinite, or 0 though they are not.
    tiny, huge: values other than 0 below TINY or above HUGE in magnitude. Counts by bins.
    """

    moments: Moments
    mean: float | None
    std: float | None
    abs_max: float | None
    kurtosis: float | None
    distinct: int
    lowest: tuple[int, int]
    highest: tuple[int, int]
    overflow: int
    vanish: int
    tiny: int
    huge: int


@dataclass(eq=False)
class Subject:
    """A model under check.

    open_model: opens another file (a twin, a shard) as the model itself was opened.
    verify: (tensor, what is wrong) of all that a manifest finds; the rooms of the rules and of the
    manifests do not know each other.
    config: the plain values of the `config.json` beside the model, by their own keys.
    selected: names of the tensors whose values are looked at; None for all. Rules about structure
    and files need the whole model.
    sums_bytes: whether the one reading of the values also sums the bytes, for a rule that asks.
    seen_bytes: the sums, as far as they are known. suspects: by the name of a weight, the output
    units that may be zero or repeated; of weights that `facts` has read. directory: of the zip file
    that a rule looked at last, and its path.
    """

    checkpoint: Checkpoint
    policy: Policy = field(default_factory=Policy)
    open_model: Callable[[str], Checkpoint] | None = None
    verify: Callable[[Checkpoint, str], list[tuple[str | None, str]]] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    selected: frozenset[str] | None = None
    jobs: int | None = None
    progress: Callable[[int, int], None] | None = None
    sums_bytes: bool = False
    seen_bytes: SeenBytes = field(default_factory=SeenBytes)
    suspects: dict[str, Suspects] = field(default_factory=dict)
    directory: tuple[str, ZipDirectory] | None = None
    _shards: list[tuple[str, Checkpoint]] | None = None

    @cached_property
    def owners(self) -> list[Tensor]:
        """The tensors in stored order, tied ones once."""
        aliases = self.checkpoint.aliases
        return [tensor for tensor in self.checkpoint if tensor.name not in aliases]

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """Facts of every tensor that holds numbers, by name; one reading of the file."""
        from wtool.checks.files.containers import zip_paths
        from wtool.kernels.measure import can_measure, measure

        chosen = self.selected
        work = [
            tensor
            for tensor in self.owners
            if can_measure(tensor.dtype)
            and not is_absent(tensor)
            and (chosen is None or tensor.name in chosen)
        ]
        total = sum(tensor.nbytes for tensor in work)
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if self.progress is not None:
                self.progress(done, total)

        probes = UnitProbes(work, [self._units(tensor) for tensor in work])
        if self.sums_bytes:
            self.seen_bytes = SeenBytes(work, zip_paths(self))

        def watch(index: int, start: int, block: np.ndarray) -> None:
            probes.see(index, start, block)
            if self.sums_bytes:
                self.seen_bytes.see(index, start, block)

        found = {}
        for index, measured in measure(work, jobs=self.jobs, progress=advance, watch=watch):
            found[index] = summarise(measured)
            suspects = probes.finish(index)
            if suspects is not None:
                self.suspects[work[index].name] = suspects
        return {tensor.name: found[index] for index, tensor in enumerate(work)}

    def _units(self, tensor: Tensor) -> int:
        """How many output units are probed while the tensor is measured."""
        if tensor.role != "weight" or tensor.dtype.kind != "float" or tensor.kind == "embedding":
            return 0
        return units_in_one_run(tensor.shape, output_axes(tensor, self.checkpoint))

    def parts(self) -> Iterator[tuple[str, Checkpoint]]:
        """(path, what it holds) of each weight file: the model itself where it is one file."""
        files = self.checkpoint.files
        if self.checkpoint.format != "sharded" or self.open_model is None:
            yield (files[0] if files else self.checkpoint.path), self.checkpoint
            return
        if self._shards is None:
            self._shards = [(path, self.open_model(path)) for path in files[1:]]
        yield from self._shards

    def measured(self, *roles: str) -> Iterator[tuple[Tensor, Facts]]:
        """(tensor, facts) of the tensors of these roles (of all roles where none is given)."""
        for tensor in self.owners:
            facts = self.facts.get(tensor.name)
            if facts is not None and (not roles or tensor.role in roles):
                yield tensor, facts

    def matrices(self) -> Iterator[tuple[Tensor, Facts]]:
        """(tensor, facts) of floating weights with two or more dimensions and some values."""
        for tensor, facts in self.measured("weight"):
            if tensor.dtype.kind == "float" and len(tensor.shape) >= 2 and tensor.count > 1:
                yield tensor, facts


def speaks_of(subject: Subject, name: str | None) -> bool:
    """Whether a finding about `name` (None: the whole file) is among what was selected."""
    chosen = subject.selected
    return chosen is None or name in chosen or name not in subject.checkpoint.tensors


def is_absent(tensor: Tensor) -> bool:
    """Whether the file has no values for the tensor."""
    return isinstance(tensor.extent, Absent) or (
        tensor.count > 0 and tensor.extent.stored_nbytes == 0
    )


def summarise(measured: Measured) -> Facts:
    """Facts of a tensor from its moments and counted values."""
    import numpy as np

    from wtool.kernels.moments import summary

    numbers = summary(measured.moments)
    counted = measured.values
    lowest = highest = (0, 0)
    distinct = overflow = vanish = tiny = huge = 0
    if counted is not None and len(counted.values):
        values, counts = np.abs(counted.values), counted.counts
        distinct = len(values)
        ends = [int(count) for count in (*counts[:2], *counts[-2:])]
        lowest = (ends[0], ends[1] if distinct > 1 else 0)
        highest = (ends[-1], ends[-2] if distinct > 1 else 0)
        # Nearly all tensors have nothing beyond these limits: two numbers tell.
        if values.max() >= HALF_OVERFLOWS:
            overflow = int(counts[values >= HALF_OVERFLOWS].sum())
            huge = int(counts[values > HUGE].sum())
        if values.min() <= HALF_VANISHES:
            # The bin around 0 also holds magnitudes below 2^-133: only their number is known.
            hidden = max(0, int(counts[values == 0].sum()) - measured.moments.zeros)
            vanish = hidden + int(counts[(values <= HALF_VANISHES) & (values > 0)].sum())
            tiny = hidden + int(counts[(values < TINY) & (values > 0)].sum())
    return Facts(
        measured.moments,
        numbers["mean"],
        numbers["std"],
        None if numbers["abs_max"] is None else float(numbers["abs_max"]),
        numbers["kurtosis"],
        distinct,
        lowest,
        highest,
        overflow,
        vanish,
        tiny,
        huge,
    )


def first_where(
    tensor: Tensor, wanted: Callable[[np.ndarray], np.ndarray]
) -> tuple[tuple[int, ...], Any] | None:
    """(index, value) of the first element that `wanted` marks; reads up to it and no further."""
    import numpy as np

    start = 0
    for block in tensor.blocks():
        marks = wanted(block)
        if marks.any():
            at = int(np.argmax(marks))
            return unravel(start + at, tensor.shape), block[at].item()
        start += len(block)
    return None


def unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of element number `position` in C order; () in a scalar."""
    index = []
    for size in reversed(shape):
        position, place = divmod(position, size)
        index.append(place)
    return tuple(reversed(index))


def root_mean_square(facts: Facts) -> float:
    """Root of the mean square of the finite values; 0 where there is none."""
    if facts.mean is None or facts.std is None:
        return 0.0
    return math.hypot(facts.mean, facts.std)
