"""Tar archives: the members of an uncompressed ustar/PAX archive, by name; nothing is extracted.

Only what a framework writes is read: regular files and folders, PAX records for `path` and `size`.
Links, devices, sparse files and GNU extensions are refused by name. A member's name is a key, never
a path. Reading is by header arithmetic: no member's content is touched.

Source: POSIX.1-2001 pax, "ustar interchange format" and "pax extended header".

    0    name (100)        124  size (12, octal)     257  "ustar" (6)
    100  mode, uid, gid    148  checksum (8, octal)  345  name prefix (155)
    136  mtime             156  type (1)
"""

from __future__ import annotations

from dataclasses import dataclass

from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import Source, read_bytes

BLOCK_BYTES = 512
# Python's tarfile, the only writer of torch's archives, pads the archive to whole records.
RECORD_BYTES = 20 * BLOCK_BYTES
# A real archive has a handful of members and PAX records of some hundred bytes.
MAX_MEMBERS = 10_000
MAX_PAX_BYTES = 64 << 10

_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


@dataclass(frozen=True)
class Member:
    """One regular file of the archive; `offset` is where its bytes start in the archive."""

    name: str
    offset: int
    nbytes: int


def is_tar(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, is a tar header whose checksum is right."""
    return len(head) >= BLOCK_BYTES and head[257:262] == b"ustar" and _checksum_is_right(head)


def read_directory(source: Source) -> dict[str, Member]:
    """The regular files of the archive, by name, in stored order. Reads headers only.

    Raises MalformedInput for a header that breaks the rules or a name that occurs twice,
    UnsafeInput for links, devices and sparse files, TruncatedInput where the archive is cut short.
    """
    members: dict[str, Member] = {}
    extended: dict[str, str] = {}
    defaults: dict[str, str] = {}
    offset = 0
    for _ in range(MAX_MEMBERS):
        block = _read_block(source, offset)
        if not any(block):
            _check_end(source, offset)
            return members
        if block[257:262] != b"ustar" or not _checksum_is_right(block):
            raise MalformedInput("not a tar header", path=source.name, offset=offset)
        kind = bytes(block[156:157])
        start = offset + BLOCK_BYTES
        records = extended if kind == b"x" else {**defaults, **extended}
        nbytes = _size(block, records if kind in b"0\x00" else {}, source, offset)
        if nbytes > source.size - start:
            raise TruncatedInput(
                "archive member ends outside the file",
                path=source.name,
                offset=offset,
                expected=f"{nbytes} bytes",
                found=f"{source.size - start}",
            )
        if kind in (b"x", b"g"):
            target = extended if kind == b"x" else defaults
            target.update(_pax_records(source, start, nbytes))
        elif kind in (b"0", b"\x00", b"5"):
            if kind != b"5":
                name = records.get("path") or _name(block)
                if name in members:
                    raise MalformedInput(
                        f"two archive members are named '{name}'", path=source.name, offset=offset
                    )
                members[name] = Member(name, start, nbytes)
            extended = {}
        else:
            found = _REFUSED.get(kind, f"an entry of type {kind!r}")
            raise UnsafeInput(
                f"archive member '{_name(block)}' is not read",
                path=source.name,
                offset=offset,
                expected="a regular file",
                found=found,
            )
        offset = start + -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES
    raise UnsafeInput(
        "too many archive members", path=source.name, expected=f"at most {MAX_MEMBERS}"
    )


def _read_block(source: Source, offset: int) -> bytearray:
    if source.size - offset < BLOCK_BYTES:
        raise TruncatedInput(
            "archive ends without its closing blocks",
            path=source.name,
            offset=offset,
            expected=f"{BLOCK_BYTES} bytes",
            found=f"{max(0, source.size - offset)}",
        )
    return read_bytes(source, offset, BLOCK_BYTES)


def _check_end(source: Source, offset: int) -> None:
    """Two empty blocks close an archive, and the last record is whole."""
    if any(_read_block(source, offset + BLOCK_BYTES)):
        raise MalformedInput(
            "archive goes on after its end", path=source.name, offset=offset + BLOCK_BYTES
        )
    if source.size % RECORD_BYTES:
        raise TruncatedInput(
            "archive is cut short",
            path=source.name,
            offset=offset,
            expected=f"a multiple of {RECORD_BYTES} bytes",
            found=f"{source.size}",
        )


def _checksum_is_right(block: bytes | bytearray) -> bool:
    """The sum of all header bytes, the checksum itself counted as spaces, is written in octal."""
    digits = bytes(block[148:156]).strip(b" \x00")
    if not digits or any(c not in b"01234567" for c in digits):
        return False
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:BLOCK_BYTES])
    return int(digits, 8) == total


def _size(block: bytearray, records: dict[str, str], source: Source, offset: int) -> int:
    """Bytes of the member: PAX record, octal digits, or base 256 (GNU) for 8 GiB and more."""
    digits: str | bytes = records.get("size", "")
    if digits:
        if digits.isascii() and digits.isdigit() and len(digits) <= 19:
            return int(digits)
    elif block[124] == 0x80:
        return int.from_bytes(block[125:136], "big")
    else:
        digits = bytes(block[124:136]).strip(b" \x00")
        if all(c in b"01234567" for c in digits):
            return int(digits or b"0", 8)
    raise MalformedInput(
        "bad size of an archive member", path=source.name, offset=offset + 124, found=repr(digits)
    )


def _name(block: bytearray) -> str:
    """Name from the header itself, with its prefix; bytes that are not UTF-8 become surrogates."""
    name = bytes(block[:100]).split(b"\x00", 1)[0]
    prefix = bytes(block[345:500]).split(b"\x00", 1)[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pax_records(source: Source, offset: int, nbytes: int) -> dict[str, str]:
    """Records "<length> <key>=<value>\\n" of a PAX header; sparse files are refused."""
    if nbytes > MAX_PAX_BYTES:
        raise UnsafeInput(
            "archive header record too long",
            path=source.name,
            offset=offset,
            expected=f"at most {MAX_PAX_BYTES} bytes",
            found=f"{nbytes}",
        )
    data = bytes(read_bytes(source, offset, nbytes))
    records: dict[str, str] = {}
    position = 0
    while position < nbytes:
        digits, space, _ = data[position : position + 8].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not equals or record[-1:] != b"\n":
            raise MalformedInput(
                "bad archive header record", path=source.name, offset=offset + position
            )
        if key.startswith(b"GNU.sparse"):
            raise UnsafeInput(
                "archive member is not read",
                path=source.name,
                offset=offset + position,
                expected="a regular file",
                found="a sparse file",
            )
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records
