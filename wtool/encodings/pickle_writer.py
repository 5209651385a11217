"""Writes pickles of protocol 2 from plain values and nodes (`pickle_nodes`): reading, inverted.

Only opcodes that torch's weights_only loader knows in every version are used: no frames, no
STACK_GLOBAL, no bytes opcodes, no POP. Source: CPython `pickletools` (protocol 2); torch 2.13
`_weights_only_unpickler`. Objects that the graph shares stay shared. Walks are iterative, so depth
is no limit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from wtool.encodings.pickle_nodes import ByteText, Call, Dict, Global, Persistent, Size
from wtool.errors import UnsupportedError

PROTO = b"\x80\x02"
STOP = b"."
# CPython fills containers in pieces of this size.
BATCH = 1000
# Protocol 2 uses the names of Python 2.
PYTHON2_MODULES = {"builtins": "__builtin__", "copyreg": "copy_reg"}
# LONG1 holds up to this many bytes of an integer; LONG4 is refused by weights_only.
MAX_LONG_BYTES = 255

ORDERED_DICT = Global("collections", "OrderedDict")
_CODECS_ENCODE = Global("_codecs", "encode")
_COMPLEX = Global("builtins", "complex")
_BYTEARRAY = Global("builtins", "bytearray")
_SET = Global("builtins", "set")
_SIZE = Global("torch", "Size")
_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}

# Types without parts. Python 2 strings are text by now.
PLAIN_TYPES = frozenset((type(None), bool, int, float, complex, str, ByteText, bytes, bytearray))

_Steps = Iterator[Any]


def dumps(value: Any) -> bytes:
    """The pickle of `value`: None, bool, int, float, complex, str, bytes, bytearray, list, tuple,
    set, dict and nodes.

    Law: reading the result gives the same value. Raises UnsupportedError for anything else, for an
    integer beyond 2040 bits, and for a tuple or call that contains itself.
    """
    writer = _Writer()
    writer.out += PROTO
    pending: list[_Steps] = [iter((value,))]
    while pending:
        try:
            child = next(pending[-1])
        except StopIteration:
            pending.pop()
            continue
        steps = writer.emit(child)
        if steps is not None:
            pending.append(steps)
    writer.out += STOP
    return bytes(writer.out)


class _Writer:
    """The bytes so far, and which values they hold already: texts and globals by value, else by
    identity.
    """

    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[Any, int] = {}
        # Memo keys are identities: the objects must outlive the writer.
        self.kept: list[Any] = []
        self.open: set[int] = set()

    def emit(self, value: Any) -> _Steps | None:
        """Write an atom at once; for a container, the steps that write it: each yields a child."""
        kind = type(value)
        atom = _ATOMS.get(kind)
        if atom is not None:
            atom(self, value)
            return None
        if kind is tuple and self.flat_tuple(value):
            return None
        if id(value) in self.memo:
            self.get(self.memo[id(value)])
            return None
        if kind is Dict and not value and self.empty_ordered(value):
            return None
        if id(value) in self.open:
            raise UnsupportedError("a value that contains itself cannot be pickled")
        if isinstance(value, str):
            self.text(str(value))
            return None
        container = _CONTAINERS.get(kind)
        if container is None:
            raise UnsupportedError(f"cannot be pickled: a value of type {kind.__name__}")
        return container(self, value)

    def put(self, key: Any) -> None:
        number = len(self.memo)
        self.memo[key] = number
        if number < 256:
            self.out += b"q" + bytes((number,))
        else:
            self.out += b"r" + struct.pack("<I", number)

    def remember(self, value: Any) -> None:
        self.kept.append(value)
        self.put(id(value))

    def get(self, number: int) -> None:
        if number < 256:
            self.out += b"h" + bytes((number,))
        else:
            self.out += b"j" + struct.pack("<I", number)

    def none(self, value: None) -> None:
        self.out += b"N"

    def boolean(self, value: bool) -> None:
        self.out += b"\x88" if value else b"\x89"

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes((value,))
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            # Bits without the sign, and one for it.
            nbytes = (value if value >= 0 else ~value).bit_length() // 8 + 1
            if nbytes > MAX_LONG_BYTES:
                raise UnsupportedError(
                    "integer too large for a pickle of protocol 2",
                    expected=f"at most {MAX_LONG_BYTES} bytes",
                    found=nbytes,
                )
            data = value.to_bytes(nbytes, "little", signed=True)
            self.out += b"\x8a" + bytes((nbytes,)) + data

    def real(self, value: float) -> None:
        self.out += b"G" + struct.pack(">d", value)

    def text(self, value: str) -> None:
        number = self.memo.get(value)
        if number is not None:
            self.get(number)
            return
        data = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(data)) + data
        self.put(value)

    def name(self, value: Global) -> None:
        number = self.memo.get(value)
        if number is not None:
            self.get(number)
            return
        module = PYTHON2_MODULES.get(value.module, value.module)
        line = f"c{module}\n{value.name}\n"
        if line.count("\n") != 2 or not value.module or not value.name:
            raise UnsupportedError(f"not a name that a pickle can hold: {value!r}")
        self.out += line.encode("utf-8")
        self.put(value)

    def latin1(self, value: bytes) -> None:
        """Bytes as text through _codecs.encode: all that weights_only reads, for empty ones too."""
        self.call_on_texts(_CODECS_ENCODE, value.decode("latin-1"), "latin1")

    def byte_array(self, value: bytearray) -> None:
        self.call_on_texts(_BYTEARRAY, value.decode("latin-1"), "latin-1")

    def call_on_texts(self, function: Global, *texts: str) -> None:
        self.name(function)
        for text in texts:
            self.text(text)
        self.out += _TUPLES[len(texts)] + b"R"

    def complex_number(self, value: complex) -> None:
        self.name(_COMPLEX)
        self.real(value.real)
        self.real(value.imag)
        self.out += b"\x86R"

    def sequence(self, values: list[Any]) -> _Steps:
        self.out += b"]"
        self.remember(values)
        yield from self.appended(values)

    def appended(self, values: list[Any]) -> _Steps:
        for start in range(0, len(values), BATCH):
            batch = values[start : start + BATCH]
            if len(batch) > 1:
                self.out += b"("
            yield from batch
            self.out += b"e" if len(batch) > 1 else b"a"

    def flat_tuple(self, values: tuple[Any, ...]) -> bool:
        """Write a tuple of atoms, of which no part can be shared; False for any other tuple.

        A file of 100,000 tensors has 400,000 of these: no steps, no memo.
        """
        writers = [_ATOMS.get(type(item)) for item in values]
        if None in writers:
            return False
        if len(values) > 3:
            self.out += b"("
        for write, item in zip(writers, values, strict=True):
            write(self, item)  # type: ignore[misc]
        self.out += _TUPLES.get(len(values), b"t")
        return True

    def empty_ordered(self, values: Dict) -> bool:
        """Write an empty OrderedDict, as each tensor has one for its hooks; False for any other."""
        if values.cls != ORDERED_DICT or values.args or values.odd or values.state is not None:
            return False
        self.name(ORDERED_DICT)
        self.out += b")R"
        self.remember(values)
        return True

    def tuple_of(self, values: tuple[Any, ...]) -> _Steps:
        self.open.add(id(values))
        yield from self.tuple_items(values)
        self.open.discard(id(values))
        if values:
            self.remember(values)

    def tuple_items(self, values: tuple[Any, ...]) -> _Steps:
        small = _TUPLES.get(len(values))
        if small is None:
            self.out += b"("
        yield from values
        self.out += b"t" if small is None else small

    def size(self, values: Size) -> _Steps:
        self.name(_SIZE)
        yield tuple(values)
        self.out += b"\x85R"
        self.remember(values)

    def set_of(self, values: set[Any]) -> _Steps:
        # A set has no order; its pickle must have one.
        self.name(_SET)
        yield sorted(values, key=lambda item: (type(item).__name__, repr(item)))
        self.out += b"\x85R"
        self.remember(values)

    def dictionary(self, values: dict[Any, Any]) -> _Steps:
        cls = values.cls if isinstance(values, Dict) else None
        if cls is None:
            self.out += b"}"
        else:
            self.name(cls)
            yield tuple(values.args)  # type: ignore[attr-defined]
            self.out += b"R"
        self.remember(values)
        pairs = list(values.pairs()) if isinstance(values, Dict) else list(values.items())
        yield from self.set_items(pairs)
        if isinstance(values, Dict) and values.state is not None:
            yield values.state
            self.out += b"b"

    def set_items(self, pairs: list[tuple[Any, Any]]) -> _Steps:
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            if len(batch) > 1:
                self.out += b"("
            for key, value in batch:
                yield key
                yield value
            self.out += b"u" if len(batch) > 1 else b"s"

    def persistent(self, value: Persistent) -> _Steps:
        yield value.id
        self.out += b"Q"

    def call(self, value: Call) -> _Steps:
        if value.kwargs:
            raise UnsupportedError("a call with keyword arguments cannot be pickled by protocol 2")
        self.open.add(id(value))
        yield value.function
        yield from self.tuple_items(tuple(value.args))
        self.out += b"\x81" if value.new else b"R"
        self.open.discard(id(value))
        self.remember(value)
        if value.items:
            yield from self.appended(value.items)
        if value.pairs:
            yield from self.set_items(value.pairs)
        if value.state is not None:
            yield value.state
            self.out += b"b"


_ATOMS: dict[type, Any] = {
    type(None): _Writer.none,
    bool: _Writer.boolean,
    int: _Writer.integer,
    float: _Writer.real,
    complex: _Writer.complex_number,
    str: _Writer.text,
    bytes: _Writer.latin1,
    bytearray: _Writer.byte_array,
    Global: _Writer.name,
}
_CONTAINERS: dict[type, Any] = {
    list: _Writer.sequence,
    tuple: _Writer.tuple_of,
    Size: _Writer.size,
    set: _Writer.set_of,
    dict: _Writer.dictionary,
    Dict: _Writer.dictionary,
    Persistent: _Writer.persistent,
    Call: _Writer.call,
}
