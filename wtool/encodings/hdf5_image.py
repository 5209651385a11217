"""The bytes of an HDF5 file: superblock, checked reads, and a cursor over little-endian fields.

wtool reads HDF5 itself because the C library cannot be trusted with an untrusted file: of 2,000
seeded mutations of a Keras file some kept HDF5 1.14.6 busy for more than 10 seconds. Only what
Keras and h5py write is read (no external or virtual storage, no links out of the file); the rest is
refused by name.

Source: HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput, UnsupportedError
from wtool.sources import Source, read_bytes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Structures lie close together: one read of this size often brings the next one as well.
WINDOW_NBYTES = 1 << 12
# No structure that is read whole (header blocks, heaps, tree nodes) is larger in a real file.
MAX_BLOCK_NBYTES = 64 << 20


class Fields:
    """A cursor over `data`; every step is checked; a fault names `what` and the byte in the file.

    base: offset of `data` in the file.
    """

    __slots__ = ("address_size", "base", "data", "length_size", "position", "what")

    def __init__(
        self, data: bytes, base: int, what: str, *, address_size: int = 8, length_size: int = 8
    ) -> None:
        self.data = data
        self.base = base
        self.what = what
        self.position = 0
        self.address_size = address_size
        self.length_size = length_size

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self.data) - self.position

    @property
    def offset(self) -> int:
        """Offset in the file of the next byte."""
        return self.base + self.position

    def take(self, nbytes: int) -> bytes:
        """The next `nbytes` bytes."""
        start = self.position
        if nbytes > len(self.data) - start:
            raise MalformedInput(
                f"{self.what} ends early",
                offset=self.base + start,
                expected=f"{nbytes} bytes",
                found=len(self.data) - start,
            )
        self.position = start + nbytes
        return self.data[start : start + nbytes]

    def number(self, nbytes: int) -> int:
        """The next `nbytes` bytes as an unsigned integer."""
        return int.from_bytes(self.take(nbytes), "little")

    def numbers(self, *widths: int) -> tuple[int, ...]:
        """One unsigned integer for each width in bytes."""
        return tuple(self.number(width) for width in widths)

    def address(self) -> int | None:
        """The next address; None where it is undefined (all bits set)."""
        raw = self.take(self.address_size)
        return None if raw.count(0xFF) == len(raw) else int.from_bytes(raw, "little")

    def length(self) -> int:
        """The next length."""
        return int.from_bytes(self.take(self.length_size), "little")

    def skip(self, nbytes: int) -> None:
        """Pass over `nbytes` bytes."""
        self.take(nbytes)

    def align(self, nbytes: int = 8) -> None:
        """Pass over padding up to a multiple of `nbytes` from the start of the data."""
        rest = -self.position % nbytes
        self.take(min(rest, self.left))

    def version(self, *known: int) -> int:
        """The next byte, which must be a known version of this structure."""
        found = self.number(1)
        if found not in known:
            raise MalformedInput(
                f"unknown version of {self.what}",
                offset=self.offset - 1,
                expected=" or ".join(map(str, known)),
                found=found,
            )
        return found


@dataclass
class Image:
    """One HDF5 file: its bytes, the widths of its addresses and lengths, the root group's header.

    All addresses count from the start of the file.
    """

    source: Source
    address_size: int = 8
    length_size: int = 8
    root: int = 0
    # Global heap collections met so far: address -> index of an object -> (offset, bytes).
    collections: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)
    _window: bytes = b""
    _window_start: int = 0

    def read(self, address: int | None, nbytes: int, what: str) -> bytes:
        """`nbytes` bytes at `address`, checked against the file."""
        if address is None:
            raise MalformedInput(f"{what} has no address")
        if address + nbytes > self.source.size:
            raise TruncatedInput(
                f"{what} lies outside the file",
                offset=address,
                expected=f"{nbytes} bytes",
                found=max(0, self.source.size - address),
            )
        if nbytes > MAX_BLOCK_NBYTES:
            raise UnsafeInput(
                f"{what} too large", offset=address, expected=f"at most {MAX_BLOCK_NBYTES} bytes",
                found=nbytes,
            )  # fmt: skip
        start = address - self._window_start
        if start < 0 or start + nbytes > len(self._window):
            size = min(max(nbytes, WINDOW_NBYTES), self.source.size - address)
            self._window = bytes(read_bytes(self.source, address, size))
            self._window_start = address
            start = 0
        return self._window[start : start + nbytes]

    def fields(self, address: int | None, nbytes: int, what: str, signature: bytes = b"") -> Fields:
        """A cursor over `nbytes` bytes at `address`, behind `signature`, which must be there."""
        data = self.read(address, nbytes, what)
        fields = self.cursor(data, address or 0, what)
        found = fields.take(len(signature))
        if found != signature:
            raise MalformedInput(
                f"no {what} where one should be",
                offset=address,
                expected=signature.decode("ascii"),
                found=repr(found)[1:],
            )
        return fields

    def cursor(self, data: bytes, base: int, what: str) -> Fields:
        """A cursor over `data`, with this file's widths."""
        return Fields(
            data, base, what, address_size=self.address_size, length_size=self.length_size
        )


def open_image(source: Source) -> Image:
    """The file behind `source`, superblock checked.

    Raises MalformedInput where it is no HDF5 file, TruncatedInput where it should be longer,
    UnsupportedError for a file inside a user block.
    """
    head = bytes(read_bytes(source, 0, min(source.size, 160)))
    if not head.startswith(SIGNATURE):
        raise MalformedInput("not an HDF5 file", offset=0, expected="\\x89HDF\\r\\n\\x1a\\n")
    fields = Fields(head, 0, "HDF5 superblock", address_size=8, length_size=8)
    fields.skip(8)
    version = fields.version(0, 1, 2, 3)
    if version < 2:
        fields.skip(4)
    fields.address_size, fields.length_size = fields.numbers(1, 1)
    if fields.address_size not in (4, 8) or fields.length_size not in (4, 8):
        raise MalformedInput(
            "bad width of addresses in the HDF5 superblock",
            expected="4 or 8",
            found=f"{fields.address_size} and {fields.length_size}",
        )
    fields.skip(1)
    if version < 2:
        fields.skip(8 if version == 0 else 12)
    base, _, end = fields.address(), fields.address(), fields.address()
    if base != 0:
        raise UnsupportedError(
            "HDF5 file with a user block: its addresses do not count from the start",
            expected="base address 0",
            found=base,
        )
    if version < 2:
        fields.address()
        fields.skip(fields.address_size)
    root = fields.address()
    if end is not None and end > source.size:
        raise TruncatedInput(
            "the file is shorter than its superblock says",
            offset=source.size,
            expected=f"{end} bytes",
            found=source.size,
            hint="the download or copy was cut short: fetch it again",
        )
    if root is None:
        raise MalformedInput("HDF5 file without a root group")
    return Image(source, fields.address_size, fields.length_size, root)
