"""The stretch of a pickle that stands for one plain tensor, taken with one match.

torch.save spends 24 opcodes on each; in a large state dict nothing else counts. What is made is
what the opcodes one by one would make, its pieces where somebody asks for them. Whatever differs
from the usual form in any way, good or bad, is left to the opcodes, before anything was changed:

    BINGET function  MARK
      MARK  BINGET "storage"  BINGET class  BINUNICODE key  LONG_BINPUT
            BINGET device  number  TUPLE  LONG_BINPUT  BINPERSID
      number  sizes  LONG_BINPUT  strides  LONG_BINPUT  NEWFALSE
      BINGET OrderedDict  EMPTY_TUPLE  REDUCE  LONG_BINPUT
    TUPLE  LONG_BINPUT  REDUCE  LONG_BINPUT
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from wtool.encodings.pickle_fold import ORDERED_DICT, is_folded
from wtool.encodings.pickle_nodes import Call, Global, StorageView

# A memo that BINGET cannot reach the end of: from here on picklers write LONG_BINPUT.
LEAST_MEMO = 256
# Tensors that are taken at once: the machine counts its nodes between.
MAX_RUN = 1000
# Containers and calls that one stretch makes.
NODES = 7
# What the memo holds in place of the six values before a taken call; see `part`.
PART = object()
_PARTS = (PART,) * 6
# BININT1, BININT2, BININT; negative numbers are left to the machine.
_NUMBER = rb"(?:K.|M..|J...[\0-\x7f])"
_SHAPE = rb"(%b\x85|%b{2}\x86|%b{3}\x87|\((?:%b){4,64}t)" % ((_NUMBER,) * 4)
_TENSOR = re.compile(
    rb"h.\(\(h.h.X.\0\0\0([0-9]{1,20})r....h.(%b)tr....Q(%b)%br....%br....\x89h.\)Rr....tr....Rr...."
    % (_NUMBER, _NUMBER, _SHAPE, _SHAPE),
    re.DOTALL,
)
# The same with gaps for key, numel, offset, size and stride: what each BINGET names, the length of
# the key, what each LONG_BINPUT numbers.
_FIELDS = "<xBxxxBxBxI{}xIxB{}xxIx{}{}xI{}xIxxBxxxIxxIxxI"
# An opcode and the length, or the number, that follows.
_COUNTED = struct.Struct("<BI")


class TensorTaker:
    """Takes tensors from one pickle. memo: of its machine, which both go on with."""

    def __init__(self, data: bytes | bytearray, memo: list[Any]) -> None:
        self._data = data
        self._memo = memo
        self._layouts: dict[tuple[int, ...], struct.Struct] = {}
        self._views: dict[tuple, StorageView] = {}
        self._times: dict[StorageView, int] = {}

    def take(self, position: int, stack: list[Any]) -> tuple[int, int] | None:
        """(position, tensors) after as many as follow each other; None where there is none.

        position: of the BINGET of the first. The nodes, and the text between two of them, are put
        on the stack and into the memo, as their opcodes do.
        """
        data, memo, times = self._data, self._memo, self._times
        first = len(memo)
        if first < LEAST_MEMO:
            return None
        size = len(data)
        taken = 0
        while taken < MAX_RUN:
            match = _TENSOR.match(data, position)
            if match is None:
                break
            key, numel, offset, sizes, strides = match.groups()
            lengths = len(key), len(numel), len(offset), len(sizes), len(strides)
            layout = self._layouts.get(lengths)
            if layout is None:
                gaps = [f"{length}x" for length in lengths]
                layout = self._layouts[lengths] = struct.Struct(_FIELDS.format(*gaps))
            (
                function_at, kind_at, cls_at, key_size, put_key, device_at, put_id, put_size,
                put_stride, hooks_at, put_hooks, put_args, put_call,
            ) = layout.unpack_from(data, position)  # fmt: skip
            if (
                key_size != lengths[0]
                or put_key != first
                or put_id != first + 1
                or put_size != first + 2
                or put_stride != first + 3
                or put_hooks != first + 4
                or put_args != first + 5
                or put_call != first + 6
            ):
                break
            said = (
                function_at, kind_at, cls_at, device_at, hooks_at, numel, offset, sizes, strides
            )  # fmt: skip
            view = self._views.get(said)
            if view is None:
                view = self._read_view(said)
                if view is None:
                    break
            times[view] += 1
            call = Call.of_view(view, key.decode("ascii"))
            memo += _PARTS
            memo.append(call)
            stack.append(call)
            taken += 1
            first += 7
            position += layout.size
            # The text of the next entry, and where it is remembered.
            if position + 5 > size:
                break
            op, length = _COUNTED.unpack_from(data, position)
            end = position + 5 + length
            if op != 0x58 or end + 5 > size:
                break
            put, number = _COUNTED.unpack_from(data, end)
            if put != 0x72 or number != first:
                break
            try:
                name = data[position + 5 : end].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                break
            stack.append(name)
            memo.append(name)
            first += 1
            position = end + 5
        return (position, taken) if taken else None

    def forget_names(self) -> None:
        """The memo has changed where it was read before."""
        self._views.clear()

    def mentions(self) -> Iterator[tuple[str, int]]:
        """How often what was taken mentions each global, besides all other mentions."""
        for view, times in self._times.items():
            for name in (view.function, view.cls, view.hooks):
                yield name.full, times

    def _read_view(self, said: tuple) -> StorageView | None:
        """The view that a stretch speaks of, where the memo holds what a plain tensor needs."""
        function, kind, cls, device, hooks = (self._memo[place] for place in said[:5])
        if (
            type(function) is not Global
            or is_folded(function)
            or type(cls) is not Global
            or type(hooks) is not Global
            or hooks.full != ORDERED_DICT
            or type(kind) is not str
            or type(device) is not str
        ):
            return None
        numel, offset = map(_number, said[5:7])
        size, stride = map(_shape, said[7:])
        view = StorageView(function, kind, cls, device, numel, offset, size, stride, hooks)
        self._views[said] = view
        self._times[view] = 0
        return view


def _number(code: bytes) -> int:
    return int.from_bytes(code[1:], "little")


def _shape(code: bytes) -> tuple[int, ...]:
    """The numbers of a tuple, opcodes and all."""
    numbers = re.findall(_NUMBER, code[code[0] == 0x28 :], re.DOTALL)
    return tuple(map(_number, numbers))


def part(memo: list[Any], index: int) -> Any:
    """The value that PART stands for at `index` of the memo: a piece of the call that follows."""
    end = index + 1
    while memo[end] is PART:
        end += 1
    storage, _, size, stride, _, hooks = args = memo[end].args
    return (storage.id[2], storage.id, size, stride, hooks, args)[index - end]


def write_out(memo: list[Any], index: int) -> None:
    """Put its value for every PART of the stretch of `index`, a place that is to be overwritten."""
    start = index
    while start > 0 and memo[start - 1] is PART:
        start -= 1
    for place in range(start, min(start + len(_PARTS), len(memo))):
        if memo[place] is PART:
            memo[place] = part(memo, place)
