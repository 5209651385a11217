"""Where bytes are: a size, and reads at an offset into a buffer that the caller owns.

A local file today, a URL tomorrow. Reading is `pread` into a reused buffer: no memory map, so a
file that shrinks while it is read is an error, not a crash. A model of thousands of files shares
`Descriptors`: a process may have only so many files open (1,024 as a rule, 256 on some systems).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from wtool.errors import InputError, MissingInput, TruncatedInput, UnsafeInput
from wtool.stopping import end_if_asked

# What a read fills. (collections.abc.Buffer exists from Python 3.12 on.)
Buffer = bytearray | memoryview


class Source(Protocol):
    """Random access to bytes. `name` is what an error calls it; `size` is in bytes and fixed."""

    name: str
    size: int

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from byte `offset`; TruncatedInput where the source ends before."""


class Descriptors:
    """Open files of one model, at most `limit` at rest: the one that was used least lately closes.

    A file that is opened again must be the one that was opened first: same device and number, size
    and time of change. Safe to use from several threads; those that read at once may exceed the
    limit. Everything is closed with the last FileSource that holds it.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}  # name -> descriptor, the one used last at the end
        self._users: dict[str, int] = {}

    def take(self, name: str, status: os.stat_result) -> int:
        """A descriptor of the file `name`, which had this status, until `give_back`."""
        with self._lock:
            fd = self._open.pop(name, -1)
            if fd < 0:
                fd = _open_file(name)
                now = os.fstat(fd)
                if _identity(now) != _identity(status):
                    os.close(fd)
                    raise _changed(name, status.st_size, now.st_size)
            self._open[name] = fd
            self._users[name] = self._users.get(name, 0) + 1
            return fd

    def give_back(self, name: str) -> None:
        """The reader that took `name` is done."""
        with self._lock:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
            if len(self._open) > self._limit:
                idle = next((other for other in self._open if other not in self._users), None)
                if idle is not None:
                    os.close(self._open.pop(idle))

    def __reduce__(self) -> tuple[type[Descriptors], tuple[int]]:
        """Pickled without what is open: a descriptor is a number that only this process knows."""
        return Descriptors, (self._limit,)

    def __del__(self) -> None:
        for fd in self._open.values():
            os.close(fd)


# What may stand where a file is expected.
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def describe_mode(mode: int) -> str:
    """What stands in the place of a regular file, by its `st_mode`: "a pipe"."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


class FileSource:
    """A regular local file; its size is taken when it is opened.

    descriptors: what opens it anew for each use; without, it stays open until it is closed.

    Raises MissingInput where it cannot be opened, UnsafeInput for devices, pipes and sockets.
    Safe to read from several threads. Pickled, it is opened anew and must be the same file still.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, descriptors: Descriptors | None = None
    ) -> None:
        self.name = os.fspath(path)
        self._fd = _open_file(self.name)
        self._status = os.fstat(self._fd)
        self._descriptors = descriptors
        # Opened again under this name, wherever the process has gone meanwhile.
        self._path = os.path.abspath(self.name)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            is_directory = stat.S_ISDIR(self._status.st_mode)
            raise UnsafeInput(
                "cannot read",
                path=self.name,
                expected="a regular file",
                found=describe_mode(self._status.st_mode),
                hint="name a file in it" if is_directory else "save what it gives to a file first",
            )
        self.size = self._status.st_size
        if descriptors is not None:
            self.close()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from byte `offset`; TruncatedInput where the file ends before."""
        if self._descriptors is None:
            self._read(self._fd, offset, buffer)
            return
        with self.descriptor() as fd:
            self._read(fd, offset, buffer)

    @contextmanager
    def descriptor(self) -> Iterator[int]:
        """The open file, for a reader that calls the system itself; not to be closed."""
        if self._descriptors is None:
            yield self._fd
            return
        fd = self._descriptors.take(self._path, self._status)
        try:
            yield fd
        finally:
            self._descriptors.give_back(self._path)

    def _read(self, fd: int, offset: int, buffer: Buffer) -> None:
        # The main thread, which alone hears of signals, waits for threads that read many GB.
        end_if_asked()
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            try:
                got = os.preadv(fd, [view[done:]], offset + done)
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
        """Give the descriptor back; closing twice is allowed.

        Reading afterwards is an error where the source has no `descriptors`.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __reduce__(self) -> tuple[Callable[..., FileSource], tuple[object, ...]]:
        """Never the descriptor: in a process of its own that number is another file."""
        facts = (self._path, self.name, _identity(self._status), self._descriptors)
        return _open_again, facts

    def __deepcopy__(self, memo: object) -> FileSource:
        """Itself: nothing of it changes, and the file may be gone by now."""
        return self

    def __copy__(self) -> FileSource:
        """See __deepcopy__."""
        return self

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

    def __reduce__(self) -> tuple[type[BytesSource], tuple[bytes, str]]:
        """Pickled with its bytes: a view of memory cannot be."""
        return BytesSource, (bytes(self._view), self.name)


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


def _open_file(name: str) -> int:
    """A descriptor for reading; MissingInput with the system's reason where there is none."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MissingInput(f"cannot open: {reason.lower()}", path=name) from error


def _open_again(
    path: str, name: str, identity: tuple[int, ...], descriptors: Descriptors | None
) -> FileSource:
    """The source that was pickled; an InputError where another file has taken its place."""
    source = FileSource(path, descriptors=descriptors)
    source.name = name
    if _identity(source._status) != identity:
        raise _changed(name, identity[2], source.size)
    return source


def _changed(name: str, before: int, now: int) -> InputError:
    """The error for a file that is another than it was when it was first opened."""
    if now < before:
        return TruncatedInput(
            "file shrank while it was read",
            path=name,
            expected=f"{before} bytes",
            found=f"{now}",
        )
    return InputError("file was changed or replaced while it was read", path=name)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
