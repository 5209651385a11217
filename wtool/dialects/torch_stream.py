"""Pickles one after another in a file, raw bytes between: torch's legacy and tar containers.

Nothing says where a pickle ends, so it is parsed from a window that grows until the pickle fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wtool.encodings.pickle_machine import Pickled, parse
from wtool.encodings.pickle_nodes import Persistent
from wtool.errors import TruncatedInput, UnsafeInput
from wtool.sources import Source, read_bytes

# A state dict of 100,000 tensors pickles to 20 MB. The window is held in memory whole.
MAX_PICKLE_BYTES = 256 << 20


class PickleStream:
    """A cursor over pickles and raw bytes. `position` is the offset of the next byte in `source`.

    window_bytes: read at once to begin with; small where pickles of some bytes lie between blobs.
    """

    def __init__(self, source: Source, position: int = 0, *, window_bytes: int = 64 << 10) -> None:
        self.source = source
        self.position = position
        self._window_bytes = window_bytes
        self._window = bytearray()
        self._start = position

    def next_pickle(self, name: str, *, persistent: Callable[[Any], Any] = Persistent) -> Pickled:
        """The pickle at `position`; the cursor moves behind its STOP.

        name: what an error calls it. persistent: makes a node of a persistent id, see `parse`.
        Raises TruncatedInput where the source ends within it, UnsafeInput above MAX_PICKLE_BYTES.
        """
        need = 1  # what the window still holds is tried first
        while True:
            self._fill(need)
            try:
                pickled = parse(
                    self._window,
                    self.position - self._start,
                    name=name,
                    path=self.source.name,
                    base=self._start,
                    persistent=persistent,
                )
            except TruncatedInput as error:
                held = self._start + len(self._window) - self.position
                if held >= self.source.size - self.position:
                    raise
                if held >= MAX_PICKLE_BYTES:
                    raise UnsafeInput(
                        f"{name} is too long",
                        path=self.source.name,
                        offset=self.position,
                        expected=f"at most {MAX_PICKLE_BYTES} bytes",
                    ) from error
                need = max(8 * held, self._window_bytes)
                continue
            self.position = self._start + pickled.end
            return pickled

    def next_bytes(self, nbytes: int, what: str) -> bytes:
        """`nbytes` raw bytes at `position`; TruncatedInput, with `what`, where there are fewer."""
        left = self.source.size - self.position
        if nbytes > left:
            raise TruncatedInput(
                f"file ends within {what}",
                path=self.source.name,
                offset=self.position,
                expected=f"{nbytes} bytes",
                found=f"{max(0, left)}",
            )
        begin = self.position - self._start
        data = self._window[begin : begin + nbytes] if begin >= 0 else b""
        if len(data) < nbytes:
            # A count between two blobs is not worth a window.
            data = read_bytes(self.source, self.position, nbytes)
        self.position += nbytes
        return bytes(data)

    def _fill(self, nbytes: int) -> None:
        """Have `nbytes` bytes from `position` on in the window, or what the source has left."""
        nbytes = min(max(nbytes, 0), MAX_PICKLE_BYTES, self.source.size - self.position)
        begin = self.position - self._start
        if begin < 0 or begin + nbytes > len(self._window):
            size = min(max(nbytes, self._window_bytes), self.source.size - self.position)
            self._window = read_bytes(self.source, self.position, size)
            self._start = self.position
