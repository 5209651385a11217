"""Zip archives of stored members as planned files: layout first, checksums while the bytes pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wtool.checkpoint import Tensor
from wtool.encodings.checksums import crc32
from wtool.encodings.zip_writer import Member, directory, lay_out
from wtool.writers.outputs import Output
from wtool.writers.plans import PlannedFile
from wtool.writers.streams import copy_values, stored_size


@dataclass(frozen=True)
class Record:
    """One member: its name, `head` as it is, then the values of `tensor` where there is one."""

    name: str
    head: bytes = b""
    tensor: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of the member's data."""
        return len(self.head) + (0 if self.tensor is None else stored_size(self.tensor))


def zip_file(
    path: str,
    records: Sequence[Record],
    alignment: int,
    names: tuple[str, ...],
    comment: bytes = b"",
) -> PlannedFile:
    """The archive of `records`, the data of each on a multiple of `alignment` bytes.

    names: of the tensors that it holds. comment: about the whole archive, at its end.
    """
    members = lay_out([(record.name, record.nbytes) for record in records], alignment)
    end = members[-1].end if members else 0
    nbytes = end + len(directory(members, [0] * len(members), comment))

    def write(output: Output) -> None:
        crcs = [
            _write_member(output, member, record)
            for member, record in zip(members, records, strict=True)
        ]
        output.write(directory(members, crcs, comment))

    return PlannedFile(path, nbytes, write, names)


def _write_member(output: Output, member: Member, record: Record) -> int:
    """Append one member; its checksum, which is put into its header when the data has passed."""
    crc = crc32(record.head)
    if record.tensor is None:
        output.write(member.local_header(crc) + record.head)
        return crc
    output.write(member.local_header(0) + record.head)
    crc = copy_values(record.tensor, output, checksum=crc32, initial=crc)
    output.write_at(member.offset, member.local_header(crc))
    return crc
