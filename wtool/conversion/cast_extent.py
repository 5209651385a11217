"""A tensor in another floating-point type: cast block by block while it is read, damage counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from wtool.dtypes import DType
from wtool.errors import LossError, counted
from wtool.extents import Extent, Strided

if TYPE_CHECKING:
    import numpy as np

    from wtool.kernels.cast import Caster, CastLoops, Damage

_Item = TypeVar("_Item")


class CastExtent(Extent):
    """`source` in type `dtype`, rounded as `kernels.cast` says.

    on_overflow: "fail", "clamp" or "inf". damage: of all values, once `blocks` has given them all;
    where something overflowed and `on_overflow` is "fail", `blocks` then ends with LossError.
    loops: shared by all tensors of one cast.
    """

    def __init__(
        self,
        source: Extent,
        dtype: DType,
        *,
        on_overflow: str = "fail",
        loops: CastLoops | None = None,
    ) -> None:
        self.source = source
        self.dtype = dtype
        self.shape = source.shape
        self.on_overflow = on_overflow
        self._loops = loops
        # Equal only where the values are: two views of one storage are not, unless they are one.
        self.storage = ("cast", source.storage, _place(source), source.dtype.name, dtype.name)
        self.damage: Damage | None = None

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box; nothing is counted."""
        import numpy

        values = numpy.empty(out.shape, self.source.dtype.carrier)
        self.source.read_box(starts, stops, values)
        out[...] = self._caster().cast(values.reshape(-1)).reshape(out.shape)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read; nothing is counted."""
        values = self._caster().cast(self.source.read(start, stop))
        if out is None:
            return values
        out[...] = values
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks; keeps the damage, once all blocks are given."""
        step = max(1, max_bytes // self.dtype.carrier.itemsize)
        for values in self._measured():
            for start in range(0, len(values), step):
                yield values[start : start + step]
        if self.on_overflow == "fail" and self.damage is not None and self.damage.overflowed:
            raise self._overflow(self.damage)

    def measure(self) -> None:
        """Find the damage of casting all of it, whether it overflows or not."""
        for _ in self._measured():
            pass

    def _measured(self) -> Iterator[np.ndarray]:
        """Cast blocks; the damage, when the last one has been taken."""
        from wtool.kernels.cast import BLOCK, Damage, merge

        caster = self._caster()
        blocks = self.source.blocks(BLOCK * self.source.dtype.carrier.itemsize)
        damage = Damage()
        parts = (caster.measure(values) for values in blocks)
        for result, part in parts if self.count <= BLOCK else _ahead(parts):
            damage = merge(damage, part)
            yield result
        self.damage = damage

    def _caster(self) -> Caster:
        from wtool.kernels.cast import Caster

        return Caster(self.source.dtype, self.dtype, self.on_overflow, self._loops)

    def _overflow(self, damage: Damage) -> LossError:
        return LossError(
            f"{damage.overflowed} of {counted(damage.count, 'value')} overflow {self.dtype.name}",
            found=f"{damage.old:.9g} at element {damage.worst}",
            hint="--on-overflow clamp or inf goes on; --dry-run measures every tensor",
        )


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The items, each made by a thread while the one before is used.

    Reading, casting and writing all leave the interpreter free.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _place(extent: Extent) -> tuple[object, ...]:
    """Which values of its storage an extent gives, and in which shape."""
    if not isinstance(extent, Strided):
        return (extent.shape,)
    strides = tuple(t for t, n in zip(extent.strides, extent.shape, strict=True) if n != 1)
    reading = (extent.bits, extent.big_endian, extent.conj, extent.neg)
    return (extent.shape, extent.first, strides, *reading)
