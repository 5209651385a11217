"""Compiled loops: numba translates them once, later processes load the machine code without it.

Importing numba and setting it up takes longer than reading a gigabyte. So the object code of each
loop is kept in the user's cache folder, and llvmlite alone, numba's own back end, links it: 40 ms
instead of 350. The name of a kept file binds the sources, the versions and the processor. Where
nothing can be compiled or kept, `load` says so, and the same numbers come from NumPy.
"""

from __future__ import annotations

import ctypes
import os
import stat
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wtool.kernels import cast_loops, loops, scan_loops, transpose_loops


class Loop(NamedTuple):
    """A loop to be compiled: what makes the function, and the types of its arguments.

    An element type means a pointer to it, ":" before it a plain value.
    """

    make: Callable[[], Callable[..., int]]
    arguments: tuple[str, ...]


def _plain(function: Callable[..., int], *arguments: str) -> Loop:
    """A function that needs nothing made for it."""
    return Loop(lambda: function, arguments)


def _narrow(code: str) -> Loop:
    """`cast_loops.narrow_floats` with codes of that type."""
    target = (*[":int32"] * 6, ":float64")
    kinds = ("float32", "int32", ":int64", code, "float64", *target, "int64", "float64")
    return _plain(cast_loops.narrow_floats, *kinds)


def _transpose(bits: int) -> Loop:
    kinds = (*[f"uint{bits}"] * 2, *[":int64"] * 5, f"uint{bits}")
    return Loop(partial(transpose_loops.make_loop, bits), kinds)


LOOPS: dict[str, Loop] = {
    "find_extremes": _plain(
        loops.find_extremes, "int64", ":int64", ":int64", ":int64", ":int64", "int64"
    ),
    "measure_values": _plain(
        loops.measure_values, "float32", "int32", *[":int64"] * 2, "int64", *["float64"] * 2
    ),
    "scale_values": _plain(
        loops.scale_values, "float64", ":int64", ":float64", ":float64", "float64", "float64"
    ),
    "add_powers": _plain(loops.add_powers, "float64", ":int64", ":float64", "float64"),
    "fold_lanes": _plain(loops.fold_lanes, "float64", ":int64", "float64"),
    "count_halves": _plain(loops.count_halves, "uint64", ":int64", "uint32"),
    "count_upper_halves": _plain(loops.count_upper_halves, "uint64", ":int64", "uint32"),
    "take_table": _plain(loops.take_table, "uint32", "int64", "int64", "int64"),
    "scan_codes": Loop(
        scan_loops.make_scan_codes,
        (":int32", *[":int64"] * 3, "uint8", "uint64", "uint32", "int64"),
    ),
    "scan_floats": Loop(
        scan_loops.make_scan_floats,
        (
            *(":int32", *[":int64"] * 5, "uint8", "float32", "int32", "uint64", "uint32"),
            *("int64", "float64", "float64", "float64", "int64", "float64", "int64"),
        ),
    ),
    "narrow_to_16": _narrow("uint16"),
    "narrow_to_8": _narrow("uint8"),
    "transpose_16": _transpose(16),
    "transpose_32": _transpose(32),
    "transpose_64": _transpose(64),
}
# The object code depends on these files.
_SOURCES = tuple(
    Path(__file__).with_name(f"{name}.py")
    for name in ("native", "loops", "cast_loops", "scan_loops", "transpose_loops", "vectors")
)
# Elements from which linking kept code (50 ms) beats NumPy on them; compiling takes 2 seconds, once
# where it can be kept.
LINK_FROM = 1 << 22
COMPILE_FROM = 1 << 25
COMPILE_ALWAYS_FROM = 1 << 28
# Kept files begin with the CRC-32 of the object code that follows: half a file must not be run.
_CHECKSUM_BYTES = 4
# Object code of one loop is a few kilobytes; nothing larger is ours.
_MAX_OBJECT_BYTES = 1 << 20
_C_TYPES: dict[str, Any] = {
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float64": ctypes.c_double,
}


class Linked:
    """Loops as functions on addresses and numbers; each call releases the interpreter lock."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine()
        # The engine owns the code: it lives as long as the functions.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        for code in objects.values():
            self._engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self._alive: list[Any] = []
        self._functions = {name: self._function(name) for name in objects}

    def _function(self, name: str) -> Any:
        kinds = LOOPS[name].arguments
        arguments = [_C_TYPES[k[1:]] if k[0] == ":" else ctypes.c_void_p for k in kinds]
        # numba's own convention: where the result goes, where an exception would go, the arguments.
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *arguments)
        function = prototype(self._engine.get_function_address(_symbol(name)))
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        self._alive.append((result, exception))
        return partial(function, ctypes.addressof(result), ctypes.addressof(exception))

    def __getitem__(self, name: str) -> Callable[..., int]:
        return self._functions[name]


def compile_loop(name: str) -> bytes:
    """Object code of one loop for this processor, through numba; needs nothing else when linked."""
    import llvmlite.binding as llvm
    import numba
    from numba import types

    make, kinds = LOOPS[name]
    arguments = [
        getattr(types, kind[1:]) if kind.startswith(":") else types.CPointer(getattr(types, kind))
        for kind in kinds
    ]
    # numba's own passes choose the width of vectors, and take it from here.
    features, numba.config.CPU_FEATURES = numba.config.CPU_FEATURES, _features()
    try:
        compiled = numba.cfunc(types.int64(*arguments), error_model="numpy")(make())
    finally:
        numba.config.CPU_FEATURES = features
    module = llvm.parse_assembly(compiled.inspect_llvm())
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
    # The wrapper reports exceptions to Python through numba's own symbols. Our loops raise none:
    # the function behind it is called directly, and all else in the module goes.
    native_name = compiled.native_name.removeprefix("cfunc.")
    for item in (*module.functions, *module.global_variables):
        if item.name == native_name:
            item.name = _symbol(name)
        elif not item.is_declaration:
            item.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    declared = [f.name for f in module.functions if f.is_declaration]
    outside = [name for name in declared if name[:5] != "llvm." and name != scan_loops.READ]
    if outside:
        raise RuntimeError(f"loop {name} calls {outside[0]}")
    return bytes(machine.emit_object(module))


def _features() -> str:
    """The processor's instructions; registers of 512 bits where they do not slow it down.

    LLVM keeps to 256 bits for every processor with AVX-512, since the first ones lowered their
    clock; those with VBMI2 (Ice Lake and later) do not. 1.4 times as fast on an Emerald Rapids.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    flat: str = features.flatten()
    return flat + ",-prefer-256-bit" if features.get("avx512vbmi2") else flat


def _symbol(name: str) -> str:
    return f"wtool_{name}"


_LINKED: dict[tuple[str, ...], Linked] = {}


def load(names: tuple[str, ...], elements: int) -> Linked | None:
    """The loops `names` where they pay for work on so many `elements`, else None; see `link`.

    What was linked once in this process is there for all that follows.
    """
    if elements < LINK_FROM:
        return None
    linked = _LINKED.get(names) or link(names, elements)
    if linked is not None:
        _LINKED[names] = linked
    return linked


def link(names: tuple[str, ...], elements: int) -> Linked | None:
    """The loops `names`, linked anew.

    None where one is not kept yet and so many elements do not pay for compiling it, or where this
    machine can do neither.
    """
    try:
        objects = _objects(names, elements)
        return None if objects is None else Linked(objects)
    except (ImportError, RuntimeError):
        return None


def _objects(names: tuple[str, ...], elements: int) -> dict[str, bytes] | None:
    """Object code by name: kept, else compiled and kept; None where compiling does not pay."""
    folder = cache_folder()
    key = _key()
    objects = {}
    missing = []
    for name in names:
        code = None if folder is None else _read_kept(folder / f"{name}-{key}.o")
        if code is None:
            missing.append(name)
        else:
            objects[name] = code
    if missing:
        can_keep = folder is not None and _make_folder(folder)
        if elements < (COMPILE_FROM if can_keep else COMPILE_ALWAYS_FROM):
            return None
        for name in missing:
            objects[name] = compile_loop(name)
            if can_keep and folder is not None:
                _keep(folder / f"{name}-{key}.o", objects[name])
    return objects


def cache_folder() -> Path | None:
    """Where object code is kept: $WTOOL_CACHE_DIR, else `wtool` in the user's cache folder."""
    chosen = os.environ.get("WTOOL_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "wtool"
    except RuntimeError:
        return None


def _key() -> str:
    """What the object code depends on: LLVM, the processor's instructions and our sources."""
    import llvmlite
    import llvmlite.binding as llvm

    parts = [path.read_bytes() for path in _SOURCES]
    parts += [text.encode() for text in (llvm.get_default_triple(), llvm.get_host_cpu_name())]
    parts.append(_features().encode())
    return f"{llvmlite.__version__}-{zlib.crc32(b''.join(parts)):08x}"


def _read_kept(path: Path) -> bytes | None:
    """Object code from a kept file; None where there is none, or it is not whole, or not ours.

    Machine code is run: a file that another user could have written is not loaded.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; a directory cannot be opened
    except OSError:
        return None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_OBJECT_BYTES:
            return None
        if hasattr(os, "geteuid") and (
            status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022
        ):
            return None
        data = file.read(_MAX_OBJECT_BYTES)
    code = data[_CHECKSUM_BYTES:]
    return code if _checksum(code) == data[:_CHECKSUM_BYTES] else None


def _checksum(code: bytes) -> bytes:
    return zlib.crc32(code).to_bytes(_CHECKSUM_BYTES, "little")


def _make_folder(folder: Path) -> bool:
    """Whether `folder` exists, or could be made, and takes files."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _keep(path: Path, code: bytes) -> None:
    """Write a kept file beside its place, then rename it; where that fails nothing is kept."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(_checksum(code) + code)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
