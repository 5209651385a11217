"""The stretch of a pickle that stands for one plain tensor; as many as follow each other at once.

torch.save spends 24 opcodes on each; in a large state dict nothing else counts. What is made is
what the opcodes one by one would make, its pieces where somebody asks for them. Whatever differs
from the usual form in any way, good or bad, is left to the opcodes, before anything was changed:

    head  BINGET function  MARK  MARK  BINGET "storage"  BINGET class  BINUNICODE (its length)
    key
    tail  LONG_BINPUT  BINGET device  number  TUPLE  LONG_BINPUT  BINPERSID
          number  sizes  LONG_BINPUT  strides  LONG_BINPUT  NEWFALSE
          BINGET OrderedDict  EMPTY_TUPLE  REDUCE  LONG_BINPUT  TUPLE  LONG_BINPUT
          REDUCE  LONG_BINPUT

Tensors of one kind have one head, and tails that differ in the numbers of their LONG_BINPUTs alone,
which count on from the length of the memo. A tail read as one integer, less that length at each
place where a number is, is therefore the same for the whole kind: a tail that gives it is right in
every byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from wtool.encodings.pickle_fold import ORDERED_DICT, is_folded
from wtool.encodings.pickle_nodes import Call, Global, StorageView

# A memo that BINGET cannot reach the end of: from here on picklers write LONG_BINPUT.
LEAST_MEMO = 256
# Bytes that are looked at together: few after a tensor that could not be taken, or what was matched
# for nothing adds up; 1,000 tensors at most, since the machine counts its nodes between.
LEAST_WINDOW_BYTES = 1 << 10
MOST_WINDOW_BYTES = 64 << 10
# Tails of one length may have their numbers at different places; only so many are tried.
MAX_LAYOUTS = 8
# Containers and calls that one stretch makes.
NODES = 7
# What the memo holds in place of the six values before a taken call; see `part`.
PART = object()
_PARTS = (PART,) * 6
# BININT1, BININT2, BININT; negative numbers are left to the machine.
_NUMBER = rb"(?:K.|M..|J...[\0-\x7f])"
_SHAPE = rb"(?:%b\x85|%b{2}\x86|%b{3}\x87|\((?:%b){4,64}t)" % ((_NUMBER,) * 4)
_TAIL = rb"r....h.%btr....Q%b%br....%br....\x89h.\)Rr....tr....Rr...."
# Patterns are bytes: they are compiled for the first file that has so many tensors.
# With what the storage and the view are, apart.
_FACTS = _TAIL % tuple(b"(%b)" % part for part in (_NUMBER, _NUMBER, _SHAPE, _SHAPE))
# Head, length of the key, key, tail.
_STRETCH = rb"(h.\(\(h.h.X)(.)\0\0\0([0-9]{1,20})(%b)" % (
    _TAIL % (_NUMBER, _NUMBER, _SHAPE, _SHAPE)
)
# Between two of them, the text of an entry: its length, itself, its place in the memo. All bytes
# behind the last are one match with empty groups, so that none are skipped to find more.
_RUN = _STRETCH + rb"(?:X(..)\0\0([^\0-\x1f]+)r(....)(?=h.\(\())?|.+"
# Bytes of a stretch without its key and tail, of a text with its opcodes without itself.
_HEAD_BYTES = 13
_ENTRY_BYTES = 10
# Values that a stretch and the text behind it remember.
_REMEMBERED = len(_PARTS) + 2


class TensorTaker:
    """Takes tensors from one pickle. memo: of its machine, which both go on with."""

    def __init__(self, data: bytes | bytearray, memo: list[Any]) -> None:
        self._data = data
        self._memo = memo
        self._window = LEAST_WINDOW_BYTES
        self._findall: Callable[[bytes | bytearray, int, int], list[Any]] | None = None
        # Of a head and a length of tails: integers with a one at each place of a number, and with
        # each, by the integer that tails of one kind give, what they ask for.
        self._layouts: dict[tuple[bytes, int], list[tuple[int, dict[int, StorageView]]]] = {}
        self._views: dict[tuple, StorageView] = {}
        self._times: dict[StorageView, int] = {}

    def take(self, position: int, stack: list[Any]) -> tuple[int, int] | None:
        """(position, tensors) after as many as follow each other; None where there is none.

        position: of the BINGET of the first. The nodes, and the texts between them, are put on the
        stack and into the memo, as their opcodes do.
        """
        memo, window = self._memo, self._window
        if len(memo) < LEAST_MEMO or not self._data.startswith(b"((", position + 2):
            return None
        if self._findall is None:
            self._findall = re.compile(_RUN, re.DOTALL).findall
        rows = self._findall(self._data, position, position + window)
        if not rows[-1][0]:
            rows.pop()
        if len(rows) == 1:
            return self._take_one(rows[0], position, stack)
        # What was matched and is not taken will be matched again.
        self._window = LEAST_WINDOW_BYTES
        views = self._views_of(rows)
        if not views:
            return None
        _, _, keys, tails, *entries = zip(*rows[: len(views)], strict=True)
        names = self._names_between(*entries)
        count = len(names) + 1
        if count < len(views):
            views, keys, tails = views[:count], keys[:count], tails[:count]
        if count == len(rows):
            self._window = min(8 * window, MOST_WINDOW_BYTES)
        times = self._times
        for view in views:
            times[view] += 1
        calls = list(map(Call.of_view, views, b",".join(keys).decode("ascii").split(",")))
        values: list[Any] = [PART] * (count * _REMEMBERED - 1)
        values[len(_PARTS) :: _REMEMBERED] = calls
        values[len(_PARTS) + 1 :: _REMEMBERED] = names
        memo += values
        values = [None] * (2 * count - 1)
        values[::2], values[1::2] = calls, names
        stack += values
        position += count * _HEAD_BYTES + sum(map(len, keys)) + sum(map(len, tails))
        position += len(names) * _ENTRY_BYTES + sum(map(len, entries[1][: len(names)]))
        return position, count

    def _take_one(
        self, row: tuple[bytes, ...], position: int, stack: list[Any]
    ) -> tuple[int, int] | None:
        """`take` of a tensor that stands alone, in a Parameter for example."""
        head, key_length, key, tail, _, _, _ = row
        number = int.from_bytes(tail, "little")
        found = self._find(head, tail, number, len(self._memo))
        if found is None or len(key) != key_length[0]:
            return None
        view, _ = found
        self._times[view] += 1
        call = Call.of_view(view, key.decode("ascii"))
        self._memo += (*_PARTS, call)
        stack.append(call)
        return position + _HEAD_BYTES + len(key) + len(tail), 1

    def forget_names(self) -> None:
        """The memo has changed where it was read before."""
        self._layouts.clear()
        self._views.clear()

    def mentions(self) -> Iterator[tuple[str, int]]:
        """How often what was taken mentions each global, besides all other mentions."""
        for view, times in self._times.items():
            for name in (view.function, view.cls, view.hooks):
                yield name.full, times

    def _views_of(self, rows: list[tuple[bytes, ...]]) -> list[StorageView]:
        """The view of each row, up to one that is no plain tensor or has no text behind it."""
        views: list[StorageView] = []
        place = len(self._memo)
        last_head, last_number, step = b"", 0, -1
        for head, key_length, key, tail, _, name, _ in rows:
            if len(key) != key_length[0]:
                break
            number = int.from_bytes(tail, "little")
            # Of the kind of the one before? Else it is looked up.
            if number - last_number != step or head != last_head:
                found = self._find(head, tail, number, place)
                if found is None:
                    break
                view, step = found
                last_head = head
            last_number = number
            views.append(view)
            if not name:
                break
            place += _REMEMBERED
        return views

    def _names_between(
        self, lengths: tuple[bytes, ...], names: tuple[bytes, ...], places: tuple[bytes, ...]
    ) -> list[str]:
        """The texts behind all tensors but the last; none where one is not as it must be."""
        lengths, names, places = lengths[:-1], names[:-1], places[:-1]
        if not names:
            return []
        first = len(self._memo) + len(_PARTS) + 1
        right = range(first, first + len(names) * _REMEMBERED, _REMEMBERED)
        if b"".join(lengths) != struct.pack(f"<{len(names)}H", *map(len, names)):
            return []
        if b"".join(places) != struct.pack(f"<{len(names)}I", *right):
            return []
        try:
            # No name holds a newline.
            return b"\n".join(names).decode("utf-8", "surrogatepass").split("\n")
        except UnicodeDecodeError:
            return []

    def _find(
        self, head: bytes, tail: bytes, number: int, place: int
    ) -> tuple[StorageView, int] | None:
        """(the view that a stretch asks for, by how much `number` grows to the next of its kind).

        None where it counts wrongly, or the memo holds something else than a plain tensor needs.

        number: the tail as an integer. place: length of the memo before the stretch.
        """
        layouts = self._layouts.setdefault((head, len(tail)), [])
        for ones, kinds in layouts:
            view = kinds.get(number - place * ones)
            if view is not None:
                return view, _REMEMBERED * ones
        facts = re.fullmatch(_FACTS, tail, re.DOTALL)
        if facts is None:
            return None
        after = facts.end(4)
        counted = facts.end(1) + 2, facts.end(3) + 1, after + 1, after + 11, after + 17, after + 23
        for index, at in enumerate((1, *counted), place):
            if tail[at : at + 4] != index.to_bytes(4, "little"):
                return None
        said = (head[1], head[5], head[7], tail[6], tail[after + 7], *facts.groups())
        view = self._views.get(said) or self._read_view(said)
        if view is None:
            return None
        ones = sum(1 << 8 * at for at in (1, *counted))
        kinds = next((kinds for known, kinds in layouts if known == ones), {})
        if not kinds:
            layouts.insert(0, (ones, kinds))
            del layouts[MAX_LAYOUTS:]
        kinds[number - place * ones] = view
        return view, _REMEMBERED * ones

    def _read_view(self, said: tuple) -> StorageView | None:
        """The view of these facts, where the memo holds what a plain tensor needs."""
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
