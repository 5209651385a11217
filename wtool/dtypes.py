"""The element types: one row each, with their names in every framework. Inverses are computed.

`bits` is the logical width of one element; 4- and 6-bit types count elements, not bytes. `carrier`
is the NumPy (or ml_dtypes) type that holds one element in memory, one element per item. NumPy is
imported on first use of a carrier, so that listing a file needs none.

Sources: torch 2.13 `torch/storage.py`; TensorFlow 2.21 `types.proto`; safetensors 0.8.0 `Dtype`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """One element type. There is exactly one object per type: compare with `is`.

    name: the name wtool shows, torch's where torch has one.
    bits: logical bits per element; 0 where elements have no fixed width (strings, variants).
    kind: "float", "complex", "int", "uint", "bool", "string" or "opaque".
    carrier_name: NumPy or ml_dtypes name of the in-memory type.
    components: 2 for complex numbers: byte order applies to each component.
    torch, tensorflow, safetensors: the framework's own name, None where it has none.
    tensorflow_enum: number in TensorFlow's DataType.
    """

    name: str
    bits: int
    kind: str
    carrier_name: str
    torch: str | None = None
    tensorflow: str | None = None
    tensorflow_enum: int | None = None
    safetensors: str | None = None
    components: int = 1

    @cached_property
    def carrier(self) -> np.dtype:
        """NumPy dtype of one element in memory, native byte order."""
        import numpy

        if self.carrier_name in ML_DTYPES:
            import ml_dtypes

            return numpy.dtype(getattr(ml_dtypes, self.carrier_name))
        return numpy.dtype(self.carrier_name)

    @property
    def itemsize(self) -> int:
        """Bytes of one element as stored in whole bytes: bits / 8, rounded up."""
        return (self.bits + 7) // 8

    def __reduce__(self) -> tuple[Callable[[str], DType], tuple[str]]:
        """By its name: a copy and what another process sends are the one object of the type."""
        return _by_name, (self.name,)

    def __repr__(self) -> str:
        return f"DType({self.name})"

    def __str__(self) -> str:
        return self.name


def _by_name(name: str) -> DType:
    return DTYPES[name]


# Carriers that come from ml_dtypes, not NumPy.
ML_DTYPES = frozenset(
    {
        "bfloat16",
        "float8_e5m2",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e4m3b11fnuz",
        "float8_e8m0fnu",
        "float4_e2m1fn",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "int4",
        "uint4",
        "int2",
        "uint2",
    }
)

# name, bits, kind, carrier, torch, tensorflow, tensorflow enum, safetensors[, components]
# complex32 has no NumPy type: its pairs of halves are carried as complex64, which is exact.
# qint* carry the stored integers; scale and zero point travel beside them.
_ROWS: tuple[tuple, ...] = (
    ("float64", 64, "float", "float64", "float64", "float64", 2, "F64"),
    ("float32", 32, "float", "float32", "float32", "float32", 1, "F32"),
    ("float16", 16, "float", "float16", "float16", "float16", 19, "F16"),
    ("bfloat16", 16, "float", "bfloat16", "bfloat16", "bfloat16", 14, "BF16"),
    ("float8_e5m2", 8, "float", "float8_e5m2", "float8_e5m2", "float8_e5m2", 24, "F8_E5M2"),
    ("float8_e4m3fn", 8, "float", "float8_e4m3fn", "float8_e4m3fn", "float8_e4m3fn", 25, "F8_E4M3"),
    ("float8_e4m3fnuz", 8, "float", *["float8_e4m3fnuz"] * 3, 26, "F8_E4M3FNUZ"),
    ("float8_e4m3b11fnuz", 8, "float", "float8_e4m3b11fnuz", None, "float8_e4m3b11fnuz", 27, None),
    ("float8_e5m2fnuz", 8, "float", *["float8_e5m2fnuz"] * 3, 28, "F8_E5M2FNUZ"),
    ("float8_e8m0fnu", 8, "float", "float8_e8m0fnu", "float8_e8m0fnu", None, None, "F8_E8M0"),
    ("float6_e2m3fn", 6, "float", "float6_e2m3fn", None, None, None, "F6_E2M3"),
    ("float6_e3m2fn", 6, "float", "float6_e3m2fn", None, None, None, "F6_E3M2"),
    ("float4_e2m1fn", 4, "float", "float4_e2m1fn", "float4_e2m1fn_x2", "float4_e2m1fn", 33, "F4"),
    ("complex128", 128, "complex", "complex128", "complex128", "complex128", 18, None, 2),
    ("complex64", 64, "complex", "complex64", "complex64", "complex64", 8, "C64", 2),
    ("complex32", 32, "complex", "complex64", "complex32", None, None, None, 2),
    ("int64", 64, "int", "int64", "int64", "int64", 9, "I64"),
    ("int32", 32, "int", "int32", "int32", "int32", 3, "I32"),
    ("int16", 16, "int", "int16", "int16", "int16", 5, "I16"),
    ("int8", 8, "int", "int8", "int8", "int8", 6, "I8"),
    ("int4", 4, "int", "int4", None, "int4", 29, None),
    ("int2", 2, "int", "int2", None, "int2", 31, None),
    ("uint64", 64, "uint", "uint64", "uint64", "uint64", 23, "U64"),
    ("uint32", 32, "uint", "uint32", "uint32", "uint32", 22, "U32"),
    ("uint16", 16, "uint", "uint16", "uint16", "uint16", 17, "U16"),
    ("uint8", 8, "uint", "uint8", "uint8", "uint8", 4, "U8"),
    ("uint4", 4, "uint", "uint4", None, "uint4", 30, None),
    ("uint2", 2, "uint", "uint2", None, "uint2", 32, None),
    ("bool", 8, "bool", "bool", "bool", "bool", 10, "BOOL"),
    ("qint8", 8, "int", "int8", "qint8", "qint8", 11, None),
    ("quint8", 8, "uint", "uint8", "quint8", "quint8", 12, None),
    ("qint32", 32, "int", "int32", "qint32", "qint32", 13, None),
    ("qint16", 16, "int", "int16", None, "qint16", 15, None),
    ("quint16", 16, "uint", "uint16", None, "quint16", 16, None),
    ("quint4x2", 4, "uint", "uint4", "quint4x2", None, None, None),
    ("quint2x4", 2, "uint", "uint2", "quint2x4", None, None, None),
    ("bits8", 8, "opaque", "uint8", "bits8", None, None, None),
    ("bits16", 16, "opaque", "uint16", "bits16", None, None, None),
    ("bits1x8", 8, "opaque", "uint8", "bits1x8", None, None, None),
    ("bits2x4", 8, "opaque", "uint8", "bits2x4", None, None, None),
    ("bits4x2", 8, "opaque", "uint8", "bits4x2", None, None, None),
    ("string", 0, "string", "object", None, "string", 7, None),
    ("resource", 0, "opaque", "object", None, "resource", 20, None),
    ("variant", 0, "opaque", "object", None, "variant", 21, None),
)  # fmt: skip

DTYPES: dict[str, DType] = {row[0]: DType(*row) for row in _ROWS}
BY_TORCH: dict[str, DType] = {d.torch: d for d in DTYPES.values() if d.torch}
BY_TENSORFLOW_ENUM: dict[int, DType] = {
    d.tensorflow_enum: d for d in DTYPES.values() if d.tensorflow_enum is not None
}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in DTYPES.values() if d.safetensors}
