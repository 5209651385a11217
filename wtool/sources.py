"""Where bytes are: a size, and reads at an offset into a buffer that the caller owns.

A local file today, a URL tomorrow. Reading is `pread` into a reused buffer: no memory map, so a
file
that shrinks while it is read is an error, not a crash.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from wtool.errors import InputError, MissingInput, TruncatedInput, UnsafeInput

# What a read fills. (collections.abc.Buffer exists from Python 3.12 on.)
Buffer = bytearray | memoryview


class Source(Protocol):
    """Random access to bytes. `name` is what an error calls it; `size` is in bytes and fixed."""

    name: str
    size: int

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` with the bytes from `offset` on; TruncatedInput where the source ends
        before."""


class FileSource:
    """A regular local file, opened once; its size is taken when it is opened.

    Raises MissingInput where it cannot be opened, UnsafeInput for devices, pipes and sockets.
    Safe to read from several threads.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MissingInput(f"cannot open: {reason.lower()}", path=self.name) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UnsafeInput("cannot read", path=self.name, expected="a regular file", found=kind)
        self.size = status.st_size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from byte `offset`; TruncatedInput where the file ends before."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                raise InputError(
                    f"cannot read: {error.strerror}", path=self.name, offset=offset
                ) from error
            if got == 0:
                raise TruncatedInput(
                    "file too short",
                    path=self.name,
                    offset=offset,
                    expected=f"{len(view)} bytes",
                    found=f"{done}",
                )
            done += got

    def close(self) -> None:
        """Give the descriptor back; reading afterwards is an error. Closing twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"FileSource({self.name!r})"


class BytesSource:
    """Bytes already in memory, for example an inflated record."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str) -> None:
        self._view = memoryview(data).cast("B")
        self.name = name
        self.size = len(self._view)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from byte `offset`."""
        view = memoryview(buffer).cast("B")
        _check_range(self, offset, len(view))
        view[:] = self._view[offset : offset + len(view)]


class WindowSource:
    """`size` bytes of another source from `start` on, seen as a source of its own.

    Raises TruncatedInput where the window does not lie inside `source`.
    """

    def __init__(self, source: Source, start: int, size: int) -> None:
        _check_range(source, start, size)
        self.source = source
        self.start = start
        self.name = source.name
        self.size = size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from byte `offset` of the window."""
        view = memoryview(buffer).cast("B")
        _check_range(self, offset, len(view))
        self.source.read_into(self.start + offset, view)


def read_bytes(source: Source, offset: int, nbytes: int) -> bytearray:
    """`nbytes` bytes from `offset`; checked against the size before memory is taken."""
    _check_range(source, offset, nbytes)
    buffer = bytearray(nbytes)
    source.read_into(offset, buffer)
    return buffer


def absolute(source: Source, offset: int) -> tuple[Source, int]:
    """The innermost source behind windows, and `offset` counted from its start."""
    while isinstance(source, WindowSource):
        offset += source.start
        source = source.source
    return source, offset


def _check_range(source: Source, offset: int, nbytes: int) -> None:
    if offset < 0 or nbytes < 0 or offset + nbytes > source.size:
        raise TruncatedInput(
            "bytes outside the file",
            path=source.name,
            offset=offset,
            expected=f"{nbytes} bytes",
            found=f"{max(0, source.size - offset)}",
        )
