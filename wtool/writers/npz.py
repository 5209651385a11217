"""Writes NumPy's `.npz`: a zip of stored `.npy` members, each as `numpy.save` writes it.

Data lies on multiples of 64 bytes, so that members can be mapped. Facts of a conversion are the zip
file's comment, JSON text: every other member would be an array to NumPy. Source: NumPy
`lib/format.py`.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dtypes import ML_DTYPES, DType
from wtool.encodings.zip_writer import MAX16
from wtool.writers.plans import (
    Plan,
    extras_losses,
    facts_of,
    metadata_losses,
    refuse_unsupported,
    tie_losses,
)
from wtool.writers.zip_files import Record, zip_file

CONTAINER = "npz"
ALIGNMENT = 64
# numpy.save leaves room for the first dimension to grow to so many digits.
GROWTH_DIGITS = 21
MEMBER_SUFFIX = ".npy"
_KINDS = {"float": "f", "complex": "c", "int": "i", "uint": "u", "bool": "b"}


def plan(checkpoint: Checkpoint, path: str | os.PathLike[str], *, untie: bool = False) -> Plan:
    """Plan one file; a member per tensor, in order. untie: tied tensors are stored separately.

    Raises UnsupportedError listing every tensor whose type NumPy itself does not have: a file that
    says "two bytes each" for bfloat16 would not come back.
    """
    path = os.fspath(path)
    refuse_unsupported(list(checkpoint), CONTAINER, _reason_against)
    facts = _within_limit(facts_of(checkpoint))
    losses = [
        *extras_losses(checkpoint, CONTAINER),
        *metadata_losses(checkpoint, CONTAINER, kept=facts),
        *([] if untie else tie_losses(checkpoint.aliases, CONTAINER)),
    ]
    records = [
        Record(tensor.name + MEMBER_SUFFIX, npy_header(tensor.dtype, tensor.shape), tensor)
        for tensor in checkpoint
    ]
    comment = _comment(facts) if facts else b""
    file = zip_file(path, records, ALIGNMENT, tuple(checkpoint.tensors), comment)
    return Plan(CONTAINER, (file,), tuple(losses))


def _comment(facts: Mapping[str, str]) -> bytes:
    """ASCII, so that no bytes of it look like a record of the zip file."""
    return json.dumps(facts).encode("ascii")


def _within_limit(facts: Mapping[str, str]) -> dict[str, str]:
    """Those that a comment has room for, in their order; the others are a loss."""
    kept: dict[str, str] = {}
    for name, text in facts.items():
        if len(_comment({**kept, name: text})) <= MAX16:
            kept[name] = text
    return kept


def npy_header(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """The bytes before the data: little-endian elements in C order; a multiple of 64."""
    order = "<" if dtype.itemsize > 1 else "|"
    dimensions = f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"
    text = (
        f"{{'descr': '{order}{_KINDS[dtype.kind]}{dtype.itemsize}', "
        f"'fortran_order': False, 'shape': {dimensions}, }}"
    )
    if shape:
        text += " " * (GROWTH_DIGITS - len(str(shape[0])))
    # Magic and version take 8 bytes, the length 2, the newline 1.
    text += " " * (-(len(text) + 11) % ALIGNMENT) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def _reason_against(tensor: Tensor) -> str | None:
    dtype = tensor.dtype
    native = dtype.carrier_name == dtype.name and dtype.name not in ML_DTYPES
    if dtype.kind not in _KINDS or not native:
        return f"type {dtype.name}"
    try:
        tensor.name.encode("utf-8")
    except UnicodeEncodeError:
        return "a name that is not Unicode text"
    if "\x00" in tensor.name:
        return "a name with a zero in it"
    return None
