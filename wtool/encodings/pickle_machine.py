"""Reads pickles of protocols 0 to 5 into inert nodes (pickle_nodes), importing and calling nothing.

Pure data becomes plain values; a global becomes a `Global`, a call a `Call`, an outside object a
`Persistent`. Time and memory are bounded by the length of the pickle: every declared length is
checked against the bytes that are left before it is used, and containers are counted.

Source: the opcodes as documented in Python 3.14's pickletools; the extension registry (EXT1, EXT2,
EXT4), out-of-band buffers and text persistent ids are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from wtool.encodings.pickle_fold import fold_call, store_items
from wtool.encodings.pickle_names import modern_name
from wtool.encodings.pickle_nodes import Dict, Global, Persistent
from wtool.encodings.pickle_opcodes import MAX_NAME_BYTES, METHODS
from wtool.encodings.pickle_tensors import NODES as TENSOR_NODES
from wtool.encodings.pickle_tensors import PART, TensorTaker, part, write_out
from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput, WtoolError
from wtool.sources import Source, read_bytes

# A pickle holds structure, not tensors; the largest known, with 100,000 tensors, has 15 MB.
MAX_PICKLE_BYTES = 512 << 20
# Lists, dictionaries, tuples and calls: at about 100 bytes each this is 400 MB of memory.
MAX_NODES = 4_000_000
# Open MARKs. Picklers recurse for each nesting level, so files have a few thousand at most.
MAX_MARKS = 100_000
FIRST_WINDOW_BYTES = 64 << 10

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")


@dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """What one pickle gave.

    value: its root. end: offset in the data after STOP. protocol: as declared, 0 where it is not.
    globals: how often each "module.name" is mentioned. nodes: number of containers and calls.
    """

    value: Any
    end: int
    protocol: int
    globals: dict[str, int]
    nodes: int


def parse(
    data: bytes | bytearray | memoryview,
    offset: int = 0,
    *,
    name: str = "pickle",
    path: str | None = None,
    base: int = 0,
    allow_trailing: bool = True,
    persistent: Callable[[Any], Any] = Persistent,
) -> Pickled:
    """The pickle that starts at `offset` of `data`.

    name, path: what errors call it and its file; base: where `data` starts in the file.
    allow_trailing: False to refuse bytes after STOP.
    persistent: makes the node that stands for an outside object, from its id.
    Raises TruncatedInput where the data end before STOP, MalformedInput where they break the rules
    of pickles, UnsafeInput where they ask for more than the limits above; with the position.
    """
    machine = Machine(data, offset, persistent)
    try:
        result = machine.run()
        if not allow_trailing and result.end != len(machine.data):
            raise MalformedInput(
                "bytes after the end of the pickle", found=len(machine.data) - result.end
            )
    except WtoolError as error:
        position = base + (machine.position if error.offset is None else error.offset)
        error.offset = None
        error.message = f"{name}: {error.message}"
        raise error.locate(path=path, offset=position) from error.__cause__
    return result


def parse_source(source: Source, offset: int = 0, *, name: str = "pickle") -> Pickled:
    """The pickle that starts at `offset` of `source`; `end` is an offset in `source` too.

    Reads a window that grows until the pickle ends in it: what lies behind it stays unread.
    """
    left = min(source.size - offset, MAX_PICKLE_BYTES)
    window = FIRST_WINDOW_BYTES
    while True:
        window = min(window, left)
        data = read_bytes(source, offset, max(window, 0))
        try:
            found = parse(data, name=name, path=source.name, base=offset)
        except TruncatedInput:
            if window >= left:
                raise
            window *= 8
            continue
        return Pickled(found.value, offset + found.end, found.protocol, found.globals, found.nodes)


class Machine:
    """One run. Opcodes that fill large files are written out in `run`; the others are methods."""

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        offset: int,
        persistent: Callable[[Any], Any],
    ) -> None:
        self.data = bytes(data) if isinstance(data, memoryview) else data
        if len(self.data) - offset > MAX_PICKLE_BYTES:
            raise UnsafeInput(
                "pickle too long",
                offset=offset,
                expected=f"at most {MAX_PICKLE_BYTES} bytes",
                found=len(self.data) - offset,
            )
        self.start = offset
        self.persistent = persistent
        self.position = offset
        self.stack: list[Any] = []
        # Stacks below each open MARK, outermost first.
        self.marks: list[list[Any]] = []
        # Picklers number what they remember from 0 on; what comes out of turn is kept apart.
        self.memo: list[Any] = []
        self.far: dict[int, Any] = {}
        self.names: dict[tuple[str, str], Global] = {}
        self.mentions: dict[str, int] = {}
        # What an outside object stands for may refuse it, at its own place.
        self.taker = TensorTaker(self.data, self.memo) if persistent is Persistent else None
        self.nodes = 0
        self.protocol = 0

    def run(self) -> Pickled:
        """Execute to STOP. `position` is kept at the start of the opcode that errors speak of."""
        data, memo, far, mentions = self.data, self.memo, self.far, self.mentions
        size = len(data)
        position = self.position
        stack = self.stack
        persistent = self.persistent
        u32, i32, methods = _U32.unpack_from, _I32.unpack_from, METHODS
        nodes = 0
        taker = self.taker
        try:
            while True:  # the most frequent opcodes of a large state dict come first
                op = data[position]
                position += 1
                if op == 0x72:  # LONG_BINPUT
                    (index,) = u32(data, position)
                    if index == len(memo) and not far:
                        memo.append(stack[-1])
                    else:
                        self.position = position
                        self.remember(index, stack[-1])
                    position += 4
                elif op == 0x4B:  # BININT1
                    stack.append(data[position])
                    position += 1
                elif op == 0x68:  # BINGET
                    taken = taker.take(position - 1, stack) if taker and not far else None
                    if taken is not None:
                        position, tensors = taken
                        nodes += tensors * TENSOR_NODES
                        if nodes > MAX_NODES:
                            raise UnsafeInput("too many objects", expected=f"at most {MAX_NODES}")
                        continue
                    index = data[position]
                    value = memo[index] if index < len(memo) else far[index]
                    if value is PART:
                        value = part(memo, index)
                    elif type(value) is Global:
                        mentions[value.full] += 1
                    stack.append(value)
                    position += 1
                elif op == 0x86:  # TUPLE2
                    value = stack.pop()
                    stack[-1] = (stack[-1], value)
                    nodes += 1
                elif op == 0x74:  # TUPLE
                    value = tuple(stack)
                    stack = self.marks.pop()
                    stack.append(value)
                    nodes += 1
                elif op == 0x28:  # MARK
                    self.marks.append(stack)
                    stack = []
                    if len(self.marks) > MAX_MARKS:
                        self.position = position
                        raise UnsafeInput("too many open marks", expected=f"at most {MAX_MARKS}")
                elif op == 0x52:  # REDUCE
                    args = stack.pop()
                    stack[-1] = fold_call(stack[-1], args, False)
                    nodes += 1
                elif op == 0x58:  # BINUNICODE
                    start = position + 4
                    position = start + u32(data, position)[0]
                    if position > size:
                        self.cut(start, position, size)
                    stack.append(data[start:position].decode("utf-8", "surrogatepass"))
                elif op == 0x51:  # BINPERSID
                    stack[-1] = persistent(stack[-1])
                    nodes += 1
                elif op == 0x89:  # NEWFALSE
                    stack.append(False)
                elif op == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif op == 0x6A:  # LONG_BINGET
                    (index,) = u32(data, position)
                    value = memo[index] if index < len(memo) else far[index]
                    if value is PART:
                        value = part(memo, index)
                    elif type(value) is Global:
                        mentions[value.full] += 1
                    stack.append(value)
                    position += 4
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                    nodes += 1
                elif op == 0x71:  # BINPUT
                    self.remember(data[position], stack[-1])
                    position += 1
                elif op == 0x4D:  # BININT2
                    stack.append(data[position] | data[position + 1] << 8)
                    position += 2
                elif op == 0x94:  # MEMOIZE
                    self.remember(len(memo) + len(far), stack[-1])
                elif op == 0x8C:  # SHORT_BINUNICODE
                    start = position + 1
                    position = start + data[position]
                    if position > size:
                        self.cut(start, position, size)
                    stack.append(data[start:position].decode("utf-8", "surrogatepass"))
                elif op == 0x87:  # TUPLE3
                    third, second = stack.pop(), stack.pop()
                    stack[-1] = (stack[-1], second, third)
                    nodes += 1
                elif op == 0x4A:  # BININT
                    stack.append(i32(data, position)[0])
                    position += 4
                elif op == 0x75:  # SETITEMS
                    items = stack
                    stack = self.marks.pop()
                    store_items(stack[-1], items)
                elif op == 0x7D:  # EMPTY_DICT
                    stack.append(Dict())
                    nodes += 1
                elif op == 0x5D:  # EMPTY_LIST
                    stack.append([])
                    nodes += 1
                elif op == 0x2E:  # STOP
                    break
                else:
                    self.position, self.stack, self.nodes = position, stack, nodes
                    method = methods[op]
                    if method is None:
                        raise MalformedInput("unknown opcode", found=f"0x{op:02x}")
                    method(self)
                    position, stack, nodes = self.position, self.stack, self.nodes
                if nodes > MAX_NODES:
                    raise UnsafeInput("too many objects", expected=f"at most {MAX_NODES}")
        except IndexError as error:
            self.position = min(position, size)
            if position >= size:
                raise TruncatedInput("pickle ends before its STOP") from error
            raise MalformedInput("stack underflow") from error
        except struct.error as error:
            self.position = min(position, size)
            raise TruncatedInput("pickle ends inside a number") from error
        except KeyError as error:
            self.position = position
            raise MalformedInput("value was never stored in the memo") from error
        except UnicodeDecodeError as error:
            self.position = position
            raise MalformedInput("text is not UTF-8") from error
        except WtoolError:
            self.position = max(position, self.position)
            raise
        self.position = position
        if self.marks or len(stack) != 1:
            raise MalformedInput(
                "values left over at the end of the pickle",
                expected="1 value",
                found=f"{len(stack)} and {len(self.marks)} open marks",
            )
        if taker:
            for name, times in taker.mentions():
                mentions[name] += times
        return Pickled(stack[0], position, self.protocol, mentions, nodes)

    def take(self, nbytes: int) -> Any:
        """The next `nbytes` bytes; TruncatedInput where fewer are left."""
        start = self.position
        if start + nbytes > len(self.data):
            self.cut(start, start + nbytes, len(self.data))
        self.position = start + nbytes
        return self.data[start : self.position]

    def line(self, limit: int = MAX_PICKLE_BYTES) -> bytes:
        """Bytes up to the next newline, which is passed; at most `limit` of them."""
        stop = self.data.find(b"\n", self.position, self.position + limit + 1)
        if stop < 0:
            if len(self.data) - self.position <= limit:
                raise TruncatedInput("pickle ends inside a line of text")
            raise UnsafeInput("line of text too long", expected=f"at most {limit} bytes")
        line = bytes(self.data[self.position : stop])
        self.position = stop + 1
        return line

    def name_global(self, module: str, name: str) -> Global:
        """The one Global of that name in this pickle."""
        if len(module) + len(name) > MAX_NAME_BYTES:
            raise UnsafeInput(
                "global with too long a name", expected=f"at most {MAX_NAME_BYTES} characters"
            )
        key = modern_name(module, name)
        found = self.names.get(key)
        if found is None:
            found = self.names[key] = Global(*key)
            self.mentions.setdefault(found.full, 0)
        self.mentions[found.full] += 1
        return found

    def pop_mark(self) -> list[Any]:
        """The values above the last MARK, which is removed."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        """Push a value that is no container."""
        self.stack.append(value)

    def push_node(self, value: Any) -> None:
        """Push a container or a call, and count it."""
        self.stack.append(value)
        self.nodes += 1

    def remember(self, index: int, value: Any) -> None:
        """Keep `value` in the memo; UnsafeInput for an index that no pickle of this length has."""
        if index == len(self.memo):
            self.memo.append(value)
            self.far.pop(index, None)
        elif index < len(self.memo):
            write_out(self.memo, index)
            self.memo[index] = value
            if self.taker:
                self.taker.forget_names()
        elif index <= len(self.data):
            self.far[index] = value
        else:
            raise UnsafeInput(
                "memo index larger than the pickle",
                expected=f"at most {len(self.data)}",
                found=index,
            )

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        self.remember(index, self.stack[-1])

    def get(self, index: int) -> None:
        """Push a remembered value."""
        value = self.memo[index] if index < len(self.memo) else self.far[index]
        if value is PART:
            value = part(self.memo, index)
        elif type(value) is Global:
            self.mentions[value.full] += 1
        self.stack.append(value)

    def cut(self, start: int, stop: int, size: int) -> NoReturn:
        """TruncatedInput for a value from `start` to `stop` of data that have `size` bytes."""
        self.position = min(start, size)
        raise TruncatedInput(
            "value longer than what is left of the pickle",
            offset=min(start, size),
            expected=f"{stop - start} bytes",
            found=f"{max(0, size - start)}",
        )
