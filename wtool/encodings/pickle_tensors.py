"""The stretch of a pickle that stands for one plain tensor, taken with one match.

torch.save spends 24 opcodes on each; in a large state dict nothing else counts. What is made is
what the opcodes one by one would make. Whatever differs from the usual form in any way, good or
bad, is left to them, before anything was changed:

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
from typing import Any

from wtool.encodings.pickle_fold import ORDERED_DICT, is_folded
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent

# A memo that BINGET cannot reach the end of: from here on picklers write LONG_BINPUT.
LEAST_MEMO = 256
# Containers and calls that one stretch makes.
NODES = 7
# BININT1, BININT2, BININT; negative numbers are left to the machine.
_NUMBER = rb"(?:K.|M..|J...[\0-\x7f])"
_SHAPE = rb"(%b\x85|%b{2}\x86|%b{3}\x87|\((?:%b){4,64}t)" % ((_NUMBER,) * 4)
_TENSOR = re.compile(
    rb"h.\(\(h.h.X.\0\0\0([0-9]{1,20})r....h.(%b)tr....Q(%b)%br....%br....\x89h.\)Rr....tr....Rr...."
    % (_NUMBER, _NUMBER, _SHAPE, _SHAPE),
    re.DOTALL,
)
# The fixed stretches between key, numbers and shapes: what BINGET names, what LONG_BINPUT numbers.
_TO_KEY = struct.Struct("<xBxxxBxBxI")
_TO_NUMEL = struct.Struct("<xIxB")
_TO_OFFSET = struct.Struct("<xxIx")
_TO_STRIDES = struct.Struct("<xI")
_TO_END = struct.Struct("<xIxxBxxxIxxIxxI")


class TensorTaker:
    """Takes tensors from one pickle. memo, mentions: of its machine, which both go on with."""

    def __init__(self, data: bytes | bytearray, memo: list[Any], mentions: dict[str, int]) -> None:
        self._data = data
        self._memo = memo
        self._mentions = mentions
        self._numbers: dict[bytes, int] = {}
        self._shapes: dict[bytes, tuple[int, ...]] = {}

    def take(self, position: int) -> tuple[Any, int] | None:
        """(node, position after it) of a plain tensor whose BINGET is at `position`; or None."""
        match = _TENSOR.match(self._data, position)
        if match is None:
            return None
        key, numel, offset, size, stride = match.groups()
        data, end = self._data, match.end
        function_at, storage_at, cls_at, key_size = _TO_KEY.unpack_from(data, position)
        put_key, device_at = _TO_NUMEL.unpack_from(data, end(1))
        (put_id,) = _TO_OFFSET.unpack_from(data, end(2))
        (put_size,) = _TO_STRIDES.unpack_from(data, end(4))
        put_stride, dict_at, put_dict, put_args, put_call = _TO_END.unpack_from(data, end(5))
        memo = self._memo
        first = len(memo)
        if (
            key_size != len(key)
            or first < LEAST_MEMO
            or put_key != first
            or put_id != first + 1
            or put_size != first + 2
            or put_stride != first + 3
            or put_dict != first + 4
            or put_args != first + 5
            or put_call != first + 6
        ):
            return None
        function, cls, dict_class = memo[function_at], memo[cls_at], memo[dict_at]
        storage, device = memo[storage_at], memo[device_at]
        if (
            type(function) is not Global
            or is_folded(function)
            or type(cls) is not Global
            or type(dict_class) is not Global
            or dict_class.full != ORDERED_DICT
            or type(storage) is not str
            or type(device) is not str
        ):
            return None
        mentions = self._mentions
        mentions[function.full] += 1
        mentions[cls.full] += 1
        mentions[dict_class.full] += 1
        text = key.decode("ascii")
        id = (storage, cls, text, device, self._number(numel))
        sizes, strides = self._shape(size), self._shape(stride)
        hooks = Dict()
        hooks.cls = dict_class
        args = (Persistent(id), self._number(offset), sizes, strides, False, hooks)
        call = Call(function, args)
        memo += (text, id, sizes, strides, hooks, args, call)
        return call, match.end()

    def _number(self, code: bytes) -> int:
        number = self._numbers.get(code)
        if number is None:
            number = self._numbers[code] = int.from_bytes(code[1:], "little")
        return number

    def _shape(self, code: bytes) -> tuple[int, ...]:
        """The numbers of a tuple, opcodes and all; models repeat their shapes."""
        shape = self._shapes.get(code)
        if shape is None:
            numbers = re.findall(_NUMBER, code[code[0] == 0x28 :], re.DOTALL)
            shape = self._shapes[code] = tuple(map(self._number, numbers))
        return shape
