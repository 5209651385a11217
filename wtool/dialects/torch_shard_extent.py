"""One chunk of a distributed tensor: a whole torch file, opened when its values are first read.

A checkpoint of a thousand ranks has a million chunks; opening it must not open each. What the
metadata promises of a chunk is compared with the chunk itself before a value is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.errors import MalformedInput, UnsupportedError, WtoolError
from wtool.extents import Extent, check_shape
from wtool.sources import Source, absolute

if TYPE_CHECKING:
    import numpy as np


class ShardExtent(Extent):
    """The values of a chunk stored as a torch file of one tensor in `source`.

    Reading raises MalformedInput where the file there holds something else than a tensor of this
    type and shape.
    """

    def __init__(self, source: Source, dtype: DType, shape: tuple[int, ...]) -> None:
        self.source = source
        self.dtype = dtype
        self.shape = check_shape(shape)
        file, offset = absolute(source, 0)
        self.storage = (file.name, offset)
        self._opened: Extent | None = None

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read."""
        return self.opened().read(start, stop, out)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        self.opened().read_box(starts, stops, out)

    def raw_span(self) -> tuple[Source, int, int] | None:
        """See Extent.raw_span."""
        return self.opened().raw_span()

    def opened(self) -> Extent:
        """The extent that the chunk's own file describes, compared with what was promised."""
        if self._opened is None:
            file, offset = absolute(self.source, 0)
            try:
                self._opened = self._open()
            except WtoolError as error:
                if error.offset is not None:
                    error.offset += offset
                raise error.locate(path=file.name, offset=offset) from error.__cause__
        return self._opened

    def _open(self) -> Extent:
        from wtool.dialects.torch_archive import open_archive

        archive = open_archive(self.source)
        found = archive.reader().find(archive.pickle("data.pkl").value)
        if found is None:
            raise MalformedInput("chunk of a distributed tensor", expected="a tensor")
        extent = found.extent
        if extent is None:
            raise UnsupportedError("chunk of a distributed tensor is made of several tensors")
        if extent.dtype is not self.dtype or extent.shape != self.shape:
            raise MalformedInput(
                "chunk of a distributed tensor differs from the metadata",
                expected=f"{self.dtype} {self.shape}",
                found=f"{extent.dtype} {extent.shape}",
            )
        return extent
