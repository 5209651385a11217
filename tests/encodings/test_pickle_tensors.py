"""Tensors taken with one match are what the opcodes give one by one, in broken pickles too."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from typing import Any

import pytest
import torch

from wtool.encodings import pickle_tensors
from wtool.encodings.pickle_machine import parse
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent
from wtool.errors import WtoolError

MUTATIONS = 4000
STRETCH = re.compile(pickle_tensors._STRETCH, re.DOTALL)


def state() -> dict[str, Any]:
    """Tensors of many ranks and sizes, ties and views; more than BINGET can number."""
    shapes = [(4,), (3, 5), (2, 300, 1), (1, 2, 3, 4), (2, 1, 2, 1, 2), (), (0, 3), (70000,)]
    tensors = {f"layer{i}.weight": torch.zeros(shapes[i % len(shapes)]) for i in range(90)}
    tensors["tied"] = tensors["layer0.weight"]
    tensors["view"] = torch.zeros(10, 20).t()[3:, 2:]
    table = torch.zeros(10, 20)
    tensors["upper"], tensors["lower"] = table[:5], table[5:]  # the key of their storage is shared
    tensors["parameter"] = torch.nn.Parameter(torch.zeros(3))
    tensors["half"] = torch.zeros(3, dtype=torch.float16)
    return tensors


def saved(tensors: Any) -> bytes:
    """`data.pkl` of what torch.save writes."""
    file = io.BytesIO()
    torch.save(tensors, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


def layers(count: int) -> dict[str, Any]:
    """Kinds of tensor that alternate; tails of the last two have one length, numbered elsewhere."""
    wide, square = ((256, 64, 1, 1), (64, 64, 3, 3))
    kinds = [torch.zeros(2, 3), torch.zeros(3), torch.zeros(1, dtype=torch.int64)]
    kinds += [torch.zeros(shape, dtype=torch.int8) for shape in (wide, square)]
    return {f"block{i}.weight": kinds[i % len(kinds)].clone() for i in range(count)}


@pytest.fixture(scope="module")
def pickled() -> bytes:
    return saved(state())


def plain(value: Any) -> Any:
    """Nodes as tuples that compare by content."""
    if isinstance(value, Global):
        return "global", value.full
    if isinstance(value, Persistent):
        return "persistent", plain(value.id)
    if isinstance(value, Call):
        rest = value.new, plain(value.state), plain(value.items), plain(value.pairs)
        return "call", plain(value.function), plain(value.args), *rest
    if isinstance(value, Dict):
        pairs = [(plain(key), plain(item)) for key, item in value.pairs()]
        return "dict", plain(value.cls), pairs, plain(value.state)
    if isinstance(value, list | tuple):
        return type(value), [plain(item) for item in value]
    return type(value), value


def outcome(data: bytes, **options: Any) -> Any:
    try:
        result = parse(data, **options)
    except WtoolError as error:
        return type(error), str(error)
    try:
        return plain(result.value), result.end, result.globals, result.nodes
    except RecursionError:  # a mutation may make a list that holds itself
        return result.end, result.globals, result.nodes


def one_by_one(id: Any) -> Persistent:
    """Another maker of outside objects than the usual one: every opcode is executed."""
    return Persistent(id)


def taken_at_once(data: bytes) -> list[int]:
    """How many tensors each call of `take` took."""
    taken = []
    take = pickle_tensors.TensorTaker.take

    def counted(taker, position, stack):
        found = take(taker, position, stack)
        taken.append(found[1] if found else 0)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle_tensors.TensorTaker, "take", counted)
        parse(data)
    return taken


def test_tensors_are_taken(pickled):
    assert sum(taken_at_once(pickled)) > 30


def test_a_long_run_is_taken_in_a_few_steps():
    data = saved(layers(2500))
    taken = taken_at_once(data)
    assert sum(taken) >= 2460
    assert sum(count > 0 for count in taken) < 12
    assert outcome(data) == outcome(data, persistent=one_by_one)


NAMES = [
    "",
    "a\nb",
    "tab\t",
    "\0",
    "h\u00f6he.\u91cd\u307f",
    "n" * 255,
    "n" * 256,
    "n" * 70_000,
    "rrrr",
    "Xh((h(",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_may_lie_in_a_run(name):
    tensors = layers(70)
    tensors[name] = torch.zeros(3)
    tensors |= {f"{name}.{key}": value.clone() for key, value in layers(20).items()}
    data = saved(tensors)
    assert outcome(data) == outcome(data, persistent=one_by_one)


def test_a_name_that_is_no_text_is_refused_at_its_place():
    data = saved(layers(90))
    at = data.index(b"block80.weight")
    broken = data[:at] + b"\xff" + data[at + 1 :]
    assert outcome(broken) == outcome(broken, persistent=one_by_one)
    assert "text is not UTF-8" in str(outcome(broken))


def test_a_run_with_any_byte_changed_is_what_its_opcodes_give():
    """A tensor of each kind and the names between them, byte by byte."""
    data = saved(layers(48))
    starts = [match.start() for match in STRETCH.finditer(data)]
    for at in range(starts[6], starts[11]):
        here = data[at]
        for value in {here ^ 1, (here + 7) % 256, 0} - {here}:
            broken = data[:at] + bytes([value]) + data[at + 1 :]
            assert outcome(broken) == outcome(broken, persistent=one_by_one), (at, value)


def test_numbers_of_one_kind_at_the_places_of_another_are_not_taken():
    """Tails of one length: what one kind has without its numbers, and the other's numbers."""
    data = saved(layers(52))
    stretches = [
        match
        for match in STRETCH.finditer(data)
        if b"M\x00@" in match[4] or b"M\x00\x90" in match[4]
    ]
    wide, square = ((m[4], int.from_bytes(m[4][1:5], "little")) for m in stretches[-2:])
    assert len(wide[0]) == len(square[0])
    ones = [_ones(tail, place) for tail, place in (wide, square)]
    assert ones[0] != ones[1]
    end, head = stretches[-1].end(), stretches[-1][1]
    memo = b"".join(b"Nr" + struct.pack("<I", i) + b"0" for i in range(square[1] + 7, 1023))
    before = (
        data[:end] + memo + b"X\1\0\0\0zr" + struct.pack("<I", 1023) + head + b"\1\0\0\0" + b"7"
    )
    bare = int.from_bytes(wide[0], "little") - wide[1] * ones[0]
    for numbers, right in ((ones[0], True), (ones[1], False)):
        tail = (bare + 1024 * numbers).to_bytes(len(wide[0]), "little")
        assert STRETCH.fullmatch(head + b"\1\0\0\0" + b"7" + tail)
        made = before + tail + b"u."
        assert outcome(made) == outcome(made, persistent=one_by_one)
        assert bool(taken_at_once(made)[-1]) is right


def _ones(tail: bytes, place: int) -> int:
    """An integer with a one at each place where `tail` has one of its seven numbers."""
    numbers = (struct.pack("<I", place + i) for i in range(7))
    return sum(1 << 8 * (tail.index(b"r" + number) + 1) for number in numbers)


def test_a_taken_tensor_is_what_its_opcodes_give(pickled):
    assert outcome(pickled) == outcome(pickled, persistent=one_by_one)


def test_a_broken_pickle_ends_as_it_does_opcode_by_opcode(pickled):
    choose = random.Random(11)
    for _ in range(MUTATIONS):
        data = bytearray(pickled)
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(len(data))
            what = choose.randrange(4)
            if what == 0:
                data[at] = choose.randrange(256)
            elif what == 1:
                data[at] = choose.choice(b"hrq(tR\x85\x86\x87\x89)KMJXQ}.")
            elif what == 2:
                del data[at : at + choose.randint(1, 6)]
            else:
                data[at:at] = data[at - choose.randint(1, 40) : at]
        broken = bytes(data)
        assert outcome(broken) == outcome(broken, persistent=one_by_one)


def with_reads(pickled: bytes, indices: list[int], before: bytes = b"") -> bytes:
    """The pickle of (state, what the memo holds at those places), after the opcodes `before`."""
    reads = b"".join(b"j" + struct.pack("<I", index) for index in indices)
    return pickled[:-1] + before + b"(" + reads + b"t\x86."


def stretch_of(pickled: bytes) -> range:
    """Memo places of one stretch that is taken."""
    match = next(m for m in STRETCH.finditer(pickled) if m.start() > 6_000)
    (last,) = struct.unpack("<I", pickled[match.end() - 4 : match.end()])
    return range(last - 6, last + 1)


def test_pieces_of_a_taken_tensor_are_what_its_opcodes_remember(pickled):
    data = with_reads(pickled, [*stretch_of(pickled)] * 2)
    assert outcome(data) == outcome(data, persistent=one_by_one)
    pieces = parse(data).value[1]
    assert all(first is second for first, second in zip(pieces[:7], pieces[7:], strict=True))
    assert pieces[5] is pieces[6].args


@pytest.mark.parametrize("piece", range(7))
def test_a_piece_that_is_remembered_anew_leaves_the_others(pickled, piece):
    stretch = stretch_of(pickled)
    around = range(stretch.start - 9, stretch.stop + 9)
    anew = b"K\x07r" + struct.pack("<I", stretch[piece]) + b"0"
    data = with_reads(pickled, [*around], before=anew)
    assert outcome(data) == outcome(data, persistent=one_by_one)
    assert parse(data).value[1][9 + piece] == 7


def test_names_that_are_remembered_anew_are_read_anew(pickled):
    """The place of the storage's class, overwritten after tensors were taken."""
    match = next(m for m in STRETCH.finditer(pickled) if m.start() > 6_000)
    place = pickled[match.start() + 7]
    anew = b"K\x07q" + bytes([place]) + b"0"
    data = pickled[: match.start()] + anew + pickled[match.start() :]
    assert outcome(data) == outcome(data, persistent=one_by_one)
