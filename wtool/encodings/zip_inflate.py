"""Deflated bytes as a Source: inflated in passing, in bounded memory.

Reading onwards is cheap; reading backwards starts again from the first byte.
"""

from __future__ import annotations

import threading
import zlib

from wtool.errors import MalformedInput, TruncatedInput, shorten
from wtool.sources import Buffer, Source

# Deflate cannot expand further: 258 bytes from 2 bits, and block headers.
MAX_DEFLATE_RATIO = 1032
CHUNK_BYTES = 64 << 10


class InflatedSource:
    """`size` bytes that raw deflate data (RFC 1951) in `packed` must give, no more and no fewer.

    Safe to use from several threads, which then wait for each other. Reads raise MalformedInput
    where the data are no deflate stream or give another number of bytes.
    """

    def __init__(self, packed: Source, size: int, what: str) -> None:
        self.packed = packed
        self.size = size
        self.name = packed.name
        self._what = shorten(what)
        self._lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed_position = 0
        self._position = 0

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` with the inflated bytes from `offset` on."""
        view = memoryview(buffer).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise TruncatedInput(
                f"{self._what}: bytes outside the member",
                path=self.name,
                expected=f"bytes {offset} to {offset + len(view)}",
                found=self.size,
            )
        with self._lock:
            if offset < self._position:
                self._restart()
            while self._position < offset:
                self._inflate(min(offset - self._position, CHUNK_BYTES))
            done = 0
            while done < len(view):
                piece = self._inflate(min(len(view) - done, CHUNK_BYTES * 16))
                view[done : done + len(piece)] = piece
                done += len(piece)
            if self._position == self.size:
                self._expect_end()

    def _inflate(self, max_bytes: int) -> bytes:
        """At least one and at most `max_bytes` further bytes."""
        while True:
            packed = self._stream.unconsumed_tail or self._next_packed()
            try:
                piece = self._stream.decompress(packed, max_bytes)
            except zlib.error as error:
                raise MalformedInput(
                    f"{self._what}: not deflate data although it says so: {error}", path=self.name
                ) from error
            if piece:
                self._position += len(piece)
                return piece
            if self._stream.eof or not (packed or self._stream.unconsumed_tail):
                raise MalformedInput(
                    f"{self._what}: deflate data end early",
                    path=self.name,
                    expected=f"{self.size} bytes",
                    found=self._position,
                )

    def _next_packed(self) -> bytearray:
        size = min(CHUNK_BYTES, self.packed.size - self._packed_position)
        packed = bytearray(size)
        if size:
            self.packed.read_into(self._packed_position, packed)
            self._packed_position += size
        return packed

    def _expect_end(self) -> None:
        """All bytes were given: the stream must end here."""
        while not self._stream.eof:
            packed = self._stream.unconsumed_tail or self._next_packed()
            try:
                more = self._stream.decompress(packed, 1)
            except zlib.error as error:
                raise MalformedInput(
                    f"{self._what}: not deflate data although it says so: {error}", path=self.name
                ) from error
            if more or not (packed or self._stream.eof):
                raise MalformedInput(
                    f"{self._what}: deflate data do not end where the directory says",
                    path=self.name,
                    expected=f"{self.size} bytes",
                    found="more" if more else "no end",
                )
        if self._stream.unused_data or self._packed_position != self.packed.size:
            raise MalformedInput(f"{self._what}: bytes after the deflate data", path=self.name)
