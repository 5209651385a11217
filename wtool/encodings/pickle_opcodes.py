"""What each opcode of a pickle does, but for the frequent ones, which `pickle_machine` writes out.

A method takes the machine, whose position is behind the opcode. Source: as for `pickle_machine`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wtool.encodings.pickle_fold import fold_call, store_items
from wtool.encodings.pickle_nodes import ByteText, Call, Dict, Global
from wtool.encodings.pickle_text import read_text_value
from wtool.errors import MalformedInput, UnsafeInput

if TYPE_CHECKING:
    from wtool.encodings.pickle_machine import Machine

# Of a global, each part.
MAX_NAME_BYTES = 4096

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_F64 = struct.Struct(">d")


def _length(machine: Machine, layout: struct.Struct) -> int:
    return layout.unpack(machine.take(layout.size))[0]


def _text(machine: Machine, nbytes: int) -> None:
    machine.push(machine.take(nbytes).decode("utf-8", "surrogatepass"))


def _line_text(machine: Machine, kind: str) -> None:
    at = machine.position
    line = machine.line()
    try:
        machine.push(read_text_value(kind, line))
    except ValueError as error:
        raise MalformedInput(f"bad text of a {kind}", offset=at) from error


def _line_index(machine: Machine) -> int:
    line = machine.line(20)
    if not line.isdigit():
        raise MalformedInput("bad memo index", found=repr(line))
    return int(line)


def _global_by_line(machine: Machine) -> Global:
    module = machine.line(MAX_NAME_BYTES).decode("utf-8")
    return machine.name_global(module, machine.line(MAX_NAME_BYTES).decode("utf-8"))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise MalformedInput("global whose name is no text")
    machine.push(machine.name_global(module, name))


def _long(machine: Machine, nbytes: int) -> None:
    if nbytes < 0:
        raise MalformedInput("integer of negative length", found=nbytes)
    machine.push(int.from_bytes(machine.take(nbytes), "little", signed=True))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if not isinstance(target, Call | Dict):
        raise MalformedInput("state for a value that has none", found=type(target).__name__)
    if target.state is not None:
        raise MalformedInput("state given twice to one object")
    target.state = state


def _append(machine: Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is list:
        target.extend(items)
    elif type(target) is Call:
        if target.items is None:
            target.items = []
        target.items.extend(items)
    else:
        raise MalformedInput("items for a value that is no list", found=type(target).__name__)


def _append_one(machine: Machine) -> None:
    _append(machine, [machine.stack.pop()])


def _append_marked(machine: Machine) -> None:
    items = machine.pop_mark()
    _append(machine, items)


def _setitem(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    store_items(machine.stack[-1], [key, value])


def _dict(machine: Machine) -> None:
    items = machine.pop_mark()
    result = Dict()
    store_items(result, items)
    machine.push_node(result)


def _new_object(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.push_node(fold_call(machine.stack.pop(), args, True))


def _new_object_kwargs(machine: Machine) -> None:
    kwargs, args = machine.stack.pop(), machine.stack.pop()
    made = fold_call(machine.stack.pop(), args, True)
    if not isinstance(kwargs, Dict):
        raise MalformedInput("named arguments that are no dictionary")
    if kwargs:
        if type(made) is not Call:
            raise MalformedInput("named arguments for plain data")
        made.kwargs = kwargs
    machine.push_node(made)


def _instance(machine: Machine) -> None:
    cls = _global_by_line(machine)
    machine.push_node(fold_call(cls, tuple(machine.pop_mark()), True))


def _object(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push_node(fold_call(items[0], tuple(items[1:]), True))


def _set(machine: Machine) -> None:
    machine.push_node(Call(machine.name_global("builtins", "set"), ()))


def _frozenset(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push_node(Call(machine.name_global("builtins", "frozenset"), (items,)))


def _protocol(machine: Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol > 5:
        raise MalformedInput("unknown pickle protocol", expected="0 to 5", found=protocol)
    machine.protocol = protocol


def _frame(machine: Machine) -> None:
    length = _length(machine, _U64)
    if machine.position + length > len(machine.data):
        machine.cut(machine.position, machine.position + length, len(machine.data))


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _refuse(what: str) -> Callable[[Machine], None]:
    def refuse(machine: Machine) -> None:
        raise UnsafeInput(what)

    return refuse


# Opcode -> what it does. BINGET and the like, met in every file, are written out in `run`.
_TABLE: dict[bytes, Callable[[Machine], Any]] = {
    b"0": _pop,
    b"1": lambda m: m.pop_mark() and None,
    b"2": lambda m: m.push(m.stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"F": lambda m: _line_text(m, "float"),
    b"I": lambda m: _line_text(m, "integer"),
    b"L": lambda m: _line_text(m, "long integer"),
    b"S": lambda m: _line_text(m, "string"),
    b"V": lambda m: _line_text(m, "unicode text"),
    b"G": lambda m: m.push(_F64.unpack(m.take(8))[0]),
    b"\x8a": lambda m: _long(m, m.take(1)[0]),
    b"\x8b": lambda m: _long(m, _length(m, _I32)),
    b"U": lambda m: m.push(ByteText.of(bytes(m.take(m.take(1)[0])))),
    b"T": lambda m: m.push(ByteText.of(bytes(m.take(_length(m, _U32))))),
    b"C": lambda m: m.push(bytes(m.take(m.take(1)[0]))),
    b"B": lambda m: m.push(bytes(m.take(_length(m, _U32)))),
    b"\x8e": lambda m: m.push(bytes(m.take(_length(m, _U64)))),
    b"\x96": lambda m: m.push(bytearray(m.take(_length(m, _U64)))),
    b"\x8d": lambda m: _text(m, _length(m, _U64)),
    b"c": lambda m: m.push(_global_by_line(m)),
    b"\x93": _stack_global,
    b"\x81": _new_object,
    b"\x92": _new_object_kwargs,
    b"i": _instance,
    b"o": _object,
    b"b": _build,
    b"a": _append_one,
    b"e": _append_marked,
    b"\x90": _append_marked,
    b"s": _setitem,
    b"d": _dict,
    b"l": lambda m: m.push_node(m.pop_mark()),
    b"\x8f": _set,
    b"\x91": _frozenset,
    b"g": lambda m: m.get(_line_index(m)),
    b"p": lambda m: m.put(_line_index(m)),
    b"\x80": _protocol,
    b"\x95": _frame,
    b"P": _refuse("persistent id written as text (protocol 0): torch cannot load these either"),
    b"\x82": _refuse("code of the extension registry, which is private to one program"),
    b"\x83": _refuse("code of the extension registry, which is private to one program"),
    b"\x84": _refuse("code of the extension registry, which is private to one program"),
    b"\x97": _refuse("out-of-band buffer, which is not in the file"),
    b"\x98": _refuse("out-of-band buffer, which is not in the file"),
}
# By the opcode's number; None where it is unknown.
METHODS: list[Callable[[Machine], Any] | None] = [_TABLE.get(bytes([op])) for op in range(256)]
