"""What a manifest says of one tensor, and the digests over all tensors.

    structure = H("wtool structure 1\n" || for each tensor: P(name) || P(header))
    root      = H("wtool root 1\n"      || for each tensor: P(name) || P(digest))

P(x) is the length of x in bytes, as 8 bytes little-endian, and x. Tensors are sorted by their names
in UTF-8. `header` is that of the tensor's digest; a tensor without values has an empty digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wtool.checkpoint import Checkpoint
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError
from wtool.kernels.digest import header, new_hasher


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: name of its type, shape, digest in hex; None where it has no values or where only
    its structure is known."""

    dtype: str
    shape: tuple[int, ...]
    digest: str | None = None

    def describe(self) -> str:
        """Type and shape for people: "float32 3x4"."""
        return f"{self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


def entries_of(
    checkpoint: Checkpoint, digests: Mapping[str, str | None] | None = None
) -> dict[str, Entry]:
    """An Entry for every tensor, sorted by name; without `digests`, the structure alone.

    UnsupportedError for a name that is no text: a JSON file could not hold it.
    """
    for tensor in checkpoint:
        try:
            tensor.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnsupportedError(
                "name is no valid text; a manifest cannot hold it", tensor=tensor.name
            ) from error
    known = digests or {}
    return {
        name: Entry(tensor.dtype.name, tensor.shape, known.get(name))
        for name, tensor in sorted(checkpoint.tensors.items())
    }


def structure_digest(entries: Mapping[str, Entry], algorithm: str) -> str:
    """The digest of names, types and shapes, in hex."""
    hasher = new_hasher(algorithm)
    hasher.update(b"wtool structure 1\n")
    for name, entry in sorted(entries.items()):
        text = header(DTYPES[entry.dtype], entry.shape)
        hasher.update(_prefixed(name.encode("utf-8")) + _prefixed(text))
    return hasher.hexdigest()


def root_digest(entries: Mapping[str, Entry], algorithm: str) -> str:
    """The digest that binds every name to its content, in hex."""
    hasher = new_hasher(algorithm)
    hasher.update(b"wtool root 1\n")
    for name, entry in sorted(entries.items()):
        digest = bytes.fromhex(entry.digest or "")
        hasher.update(_prefixed(name.encode("utf-8")) + _prefixed(digest))
    return hasher.hexdigest()


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data
