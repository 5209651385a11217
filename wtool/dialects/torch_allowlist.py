"""Which globals the `weights_only` loader of torch 2.13 accepts, as a table of our own.

A file that names any other global loads only with `weights_only=False`, which runs what it names.
Source: torch 2.13 `torch/_weights_only_unpickler.py`, `_get_allowed_globals`.
"""

from __future__ import annotations

_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex128 complex64 "
    "complex32 quint8 qint8 qint32 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz float8_e8m0fnu float4_e2m1fn_x2 "
    "uint16 uint32 uint64 uint1 uint2 uint3 uint4 uint5 uint6 uint7 "
    "int1 int2 int3 int4 int5 int6 int7"
)
_SCHEMES = (
    "per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
    "per_channel_affine_float_qparams"
)
_KINDS = "Double Float Half BFloat16 Long Int Short Char Byte"
_QUANTISED_KINDS = "QInt8 QUInt8 QInt32 QUInt4x2 QUInt2x4"
_REBUILDS = (
    "_rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_tensor "
    "_rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_sparse_tensor "
    "_rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_wrapper_subclass "
    "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"
)
_OTHERS = (
    "collections.OrderedDict collections.Counter _codecs.encode builtins.bytearray builtins.set "
    "builtins.complex torch.nn.parameter.Parameter torch.serialization._get_layout torch.Size "
    "torch.Tensor torch.device torch.storage.TypedStorage torch.storage.UntypedStorage "
    "torch._tensor._rebuild_from_type_v2"
)

WEIGHTS_ONLY = frozenset(
    [f"torch.{name}" for name in f"{_DTYPES} {_SCHEMES}".split()]
    + [f"torch.{name}Storage" for name in _QUANTISED_KINDS.split()]
    + [
        f"torch.{device}{name}"
        for device in ("", "cuda.")
        for kind in f"{_KINDS} Bool".split()
        for name in (f"{kind}Storage", f"{kind}Tensor")
    ]
    + [
        f"torch.{device}{name}Storage"
        for device in ("", "cuda.")
        for name in ("ComplexFloat", "ComplexDouble")
    ]
    + [f"torch.{device}sparse.{name}Tensor" for device in ("", "cuda.") for name in _KINDS.split()]
    + [f"torch._utils.{name}" for name in _REBUILDS.split()]
    + _OTHERS.split()
)


def is_allowed(full: str) -> bool:
    """Whether torch 2.13's weights_only loader accepts the global "module.name"."""
    return full in WEIGHTS_ONLY
