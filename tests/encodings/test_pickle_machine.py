"""The pickle machine against CPython's pickler, and against pickles that attack."""

import collections
import gc
import pickle
import random
import re
import struct
import sys

import pytest
from bounded import bounded
from hypothesis import given, settings
from hypothesis import strategies as st
from pickle_code import call, integer, name, text
from pickle_code import pickle as pickled

from wtool.encodings.pickle_machine import MAX_NODES, parse, parse_source
from wtool.encodings.pickle_nodes import (
    ByteText,
    Call,
    Dict,
    Global,
    Persistent,
    Size,
    describe,
)
from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import BytesSource


def load(data: bytes):
    return parse(data).value


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers()
)  # fmt: skip
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def same(ours, theirs) -> bool:
    """Equal in type and value, NaN equal to itself, a Dict equal to a dict in the same order."""
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[k], v) for k, v in theirs.items())
    if isinstance(theirs, list | tuple):
        return (
            type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
        )
    if isinstance(theirs, float):
        return struct.pack(">d", ours) == struct.pack(">d", theirs)
    if isinstance(theirs, complex):
        return same(ours.real, theirs.real) and same(ours.imag, theirs.imag)
    return type(ours) is type(theirs) and ours == theirs


@given(values, st.integers(0, 5))
@settings(deadline=None, max_examples=400)
def test_plain_data_of_every_protocol_comes_back(value, protocol):
    data = pickle.dumps(value, protocol)
    result = parse(data)
    # Protocol 0 loses the payload of a NaN on its way into the file.
    assert same(result.value, pickle.loads(data))
    assert result.protocol == (protocol if protocol >= 2 else 0)


def test_integers_of_every_width_come_back():
    numbers = [0, 1, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**40, -(2**63), 2**3000]
    for protocol in range(6):
        assert load(pickle.dumps(numbers, protocol)) == numbers


def test_python_2_strings_are_text_and_keep_their_bytes():
    assert load(b"U\x03abc.") == "abc"
    assert type(load(b"U\x03abc.")) is str
    accented = load(b"T\x02\0\0\0\xc3\xa9.")
    assert (accented, accented.raw) == ("é", b"\xc3\xa9")
    binary = load(b"U\x02\xff\x00.")
    assert (binary, binary.raw) == ("\xff\0", b"\xff\x00")
    assert load(b"S'a\\x41\\n'\n.") == "aA\n"


def test_shared_values_stay_shared():
    inner = [1]
    value = load(pickle.dumps([inner, inner], 2))
    assert value[0] is value[1]


def test_values_remembered_out_of_turn_are_found_like_cpython_finds_them():
    """Python 2 counts from 1; MEMOIZE takes the number of values that are remembered so far."""
    generator = random.Random(3)
    for _ in range(300):
        code = bytearray(b"\x80\x04(")
        stored: set[int] = set()
        for number in range(generator.randrange(1, 30)):
            code += b"K" + bytes((number,))
            way = generator.randrange(4)
            if way == 3:
                stored.add(len(stored))
                code += b"\x94"
            else:
                index = generator.choice((len(stored), generator.randrange(40)))
                stored.add(index)
                code += (b"q%c", b"r%c\0\0\0", b"p%d\n")[way] % index
        for index in sorted(stored):
            code += generator.choice((b"h%c" % index, b"j%c\0\0\0" % index, b"g%d\n" % index))
        code += b"t."
        code += bytes(100)  # the bound on an index is the length of the data
        assert load(bytes(code)) == pickle.loads(bytes(code))


def test_a_list_may_contain_itself():
    loop: list = []
    loop.append(loop)
    value = load(pickle.dumps(loop, 2))
    assert value[0] is value


def test_ordered_dictionaries_keep_class_and_attributes():
    value = collections.OrderedDict(a=1)
    value.note = {"version": 2}
    ours = load(pickle.dumps(value, 2))
    assert isinstance(ours, Dict)
    assert ours == {"a": 1}
    assert ours.cls == Global("collections", "OrderedDict")
    assert ours.state == {"note": {"version": 2}}


def test_ordered_dictionaries_of_python_2_are_read():
    pairs = b"](](" + text("a") + b"K\x01e](" + text("b") + b"K\x02ee"
    assert load(b"\x80\x02ccollections\nOrderedDict\n(" + pairs + b"tR.") == {"a": 1, "b": 2}


def test_an_ordered_dictionary_of_pairs_keeps_their_order():
    ours = load(pickled(call("collections.OrderedDict", b"]](K\x02K\x00ea")))
    assert list(ours.items()) == [(2, 0)]


def test_python_2_names_become_those_of_python_3():
    assert load(b"c__builtin__\nset\n.") == Global("builtins", "set")
    assert load(b"ccopy_reg\n_reconstructor\n.") == Global("copyreg", "_reconstructor")
    assert load(b"c__builtin__\nlong\n.") == Global("builtins", "int")


def test_unknown_objects_are_calls_with_all_they_were_given():
    class_ = b"cmymod\nThing\n"
    node = load(b"\x80\x02" + class_ + b"(K\x01t\x81}" + text("x") + b"K\x02sb.")
    assert isinstance(node, Call)
    assert (node.full, node.args, node.state, node.new) == ("mymod.Thing", (1,), {"x": 2}, True)
    node = load(b"\x80\x02" + class_ + b")R(K\x01K\x02e(K\x03K\x04u.")
    assert (node.items, node.pairs, node.new) == ([1, 2], [(3, 4)], False)


def test_globals_are_counted_by_mention():
    data = pickled(b"(" + name("a.b") + b"q\x01h\x01h\x01" + name("c.d") + b"t")
    assert parse(data).globals == {"a.b": 3, "c.d": 1}


def test_known_pure_calls_become_their_data():
    assert load(pickle.dumps(b"\xff\0", 2)) == b"\xff\0"
    assert load(pickle.dumps(b"", 2)) == b""
    assert load(pickle.dumps(bytearray(b"ab"), 2)) == bytearray(b"ab")
    assert load(pickle.dumps(1 + 2j, 2)) == 1 + 2j
    size = load(pickled(call("torch.Size", b"(K\x02K\x03t")))
    assert (type(size), size) == (Size, (2, 3))
    default = load(pickle.dumps(collections.defaultdict(list, a=[1]), 2))
    assert (default, default.cls.name) == ({"a": [1]}, "defaultdict")
    assert load(pickle.dumps(collections.Counter("aab"), 2)) == {"a": 2, "b": 1}


def test_sets_stay_in_stored_order():
    node = load(pickle.dumps({5}, 4))
    assert (node.full, node.items) == ("builtins.set", [5])
    assert load(pickle.dumps(frozenset((5,)), 4)).args == ([5],)


def test_pickles_may_follow_each_other():
    data = pickle.dumps("a", 2) + pickle.dumps("b", 4)
    first = parse(data)
    second = parse(data, first.end)
    assert (first.value, second.value, second.end) == ("a", "b", len(data))
    with pytest.raises(MalformedInput, match="bytes after the end of the pickle"):
        parse(data, allow_trailing=False)


def test_a_pickle_of_unknown_length_is_read_in_growing_windows():
    value = ["x" * 1000] + [str(i) for i in range(100_000)]
    data = b"junk" + pickle.dumps(value, 2) + b"\0" * 4_000_000

    class Counting(BytesSource):
        read = 0

        def read_into(self, offset, buffer):
            Counting.read = max(Counting.read, offset + len(buffer))
            super().read_into(offset, buffer)

    result = parse_source(Counting(data, "memory"), 4)
    assert result.value == value
    assert data[result.end - 1 : result.end + 1] == b".\0"
    assert Counting.read < len(data)


# Each pickle, and what is said about it.
FAULTS = {
    "empty": (b"", TruncatedInput, "ends before its STOP"),
    "no stop": (b"\x80\x02K\x01", TruncatedInput, "ends before its STOP"),
    "only stop": (b".", MalformedInput, "values left over"),
    "stack underflow": (b"\x80\x02\x85.", MalformedInput, "stack underflow"),
    "pop of nothing": (b"0.", MalformedInput, "stack underflow"),
    "missing memo": (b"\x80\x02h\x05.", MalformedInput, "never stored in the memo"),
    "missing text memo": (b"g5\n.", MalformedInput, "never stored in the memo"),
    "odd items": (b"}(K\x01u.", MalformedInput, "entry without a value"),
    "odd dictionary": (b"(K\x01d.", MalformedInput, "entry without a value"),
    "unknown opcode": (b"\xff.", MalformedInput, "unknown opcode: found 0xff"),
    "tuple without mark": (b"K\x01t.", MalformedInput, "stack underflow"),
    "mark left open": (b"(K\x01.", MalformedInput, "values left over"),
    "two values": (b"K\x01K\x02.", MalformedInput, "values left over"),
    "state for text": (text("a") + b"}b.", MalformedInput, "state for a value that has none"),
    "state twice": (b"ca\nb\n)R}b}b.", MalformedInput, "state given twice"),
    "items for a dictionary": (b"}K\x01a.", MalformedInput, "no list: found Dict"),
    "entries for a list": (b"]K\x01K\x02s.", MalformedInput, "no dictionary: found list"),
    "items for a tuple": (b")K\x01a.", MalformedInput, "no list"),
    "protocol 9": (b"\x80\x09N.", MalformedInput, "expected 0 to 5, found 9"),
    "bad UTF-8": (b"X\1\0\0\0\xff.", MalformedInput, "not UTF-8"),
    "bad UTF-8 global": (b"c\xff\nb\n.", MalformedInput, "not UTF-8"),
    "text of 4 GiB": (b"X\xff\xff\xff\xff.", TruncatedInput, "expected 4294967295 bytes, found 1"),
    "text of 1 TiB": (b"\x8d" + struct.pack("<Q", 1 << 40), TruncatedInput, "longer than"),
    "bytes of 1 TiB": (b"\x8e" + struct.pack("<Q", 1 << 40), TruncatedInput, "longer than"),
    "bytearray of 1 TiB": (b"\x96" + struct.pack("<Q", 1 << 40), TruncatedInput, "longer than"),
    "frame of 1 TiB": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40), TruncatedInput, "longer"),
    "integer of 2 GiB": (b"\x8b\xff\xff\xff\x7f.", TruncatedInput, "longer than"),
    "negative integer": (b"\x8b\xff\xff\xff\xff.", MalformedInput, "negative length: found -1"),
    "cut number": (b"J\0\0", TruncatedInput, "inside a number"),
    "cut float": (b"G\0\0", TruncatedInput, "longer than"),
    "memo of 2^28": (b"\x80\x02Nr\0\0\0\x10.", UnsafeInput, "larger than the pickle"),
    "memo of 2^31": (b"Nr\0\0\0\x80.", UnsafeInput, "larger than the pickle"),
    "memo by text": (b"Np99999999\n.", UnsafeInput, "larger than the pickle"),
    "memo of words": (b"Npx\n.", MalformedInput, "bad memo index"),
    "extension 1": (b"\x82\1.", UnsafeInput, "extension registry"),
    "extension 2": (b"\x83\1\0.", UnsafeInput, "extension registry"),
    "extension 4": (b"\x84\1\0\0\0.", UnsafeInput, "extension registry"),
    "text persistent id": (b"Pabc\n.", UnsafeInput, "persistent id written as text"),
    "next buffer": (b"\x97.", UnsafeInput, "out-of-band buffer"),
    "read-only buffer": (b"N\x98.", UnsafeInput, "out-of-band buffer"),
    "global without end": (b"cos" + b"x" * 9000, UnsafeInput, "line of text too long"),
    "global of 10 MB": (b"cos\n" + b"x" * 10_000_000, UnsafeInput, "line of text too long"),
    "cut global": (b"cos\nsys", TruncatedInput, "inside a line of text"),
    "long stack global": (
        text("m" * 5000) + text("n") + b"\x93.", UnsafeInput, "too long a name"
    ),
    "global of numbers": (b"K\1K\2\x93.", MalformedInput, "name is no text"),
    "call of text": (text("os.system") + b")R.", MalformedInput, "no function: found str"),
    "call without tuple": (b"cos\nsystem\n]R.", MalformedInput, "no tuple: found list"),
    "object of a list": (b"])\x81.", MalformedInput, "no function: found list"),
    "object of nothing": (b"(o.", MalformedInput, "stack underflow"),
    "digits without end": (b"I" + b"9" * 5000 + b"\n.", MalformedInput, "bad text of a integer"),
    "words for a float": (b"Fabc\n.", MalformedInput, "bad text of a float"),
    "string without quotes": (b"Sabc\n.", MalformedInput, "bad text of a string"),
    "string with a bad escape": (b"S'\\xg'\n.", MalformedInput, "bad text of a string"),
    "bytes beyond latin-1": (
        call("_codecs.encode", text("€"), text("latin1")) + b".", MalformedInput, "outside Latin-1"
    ),
    "complex beyond floats": (
        call("builtins.complex", integer(10**400), integer(0)) + b".", MalformedInput, "too large"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_pickle_is_one_line_with_its_position(fault):
    data, kind, message = FAULTS[fault]
    with bounded(), pytest.raises(InputError) as caught:
        parse(data, name="data.pkl", path="model.pth", base=1000)
    assert type(caught.value) is kind
    line = str(caught.value)
    assert message in line
    assert re.match(r"model.pth: at byte \d{4,}: data.pkl: ", line)
    assert 1000 <= caught.value.offset <= 1000 + len(data)
    assert caught.value.exit_code == 3
    assert "\n" not in line
    assert len(line) < 600


def test_names_run_nothing_and_import_nothing(tmp_path):
    canary = tmp_path / "canary"
    attacks = [
        call("os.system", text(f"touch {canary}")),
        call("builtins.eval", text(f"open({str(canary)!r}, 'w')")),
        call("builtins.exec", text(f"open({str(canary)!r}, 'w')")),
        call("torch.utils.collect_env.run", text(f"touch {canary}")),
        call("antigravity.geohash", integer(1)),
        call("_codecs.encode", text("abc"), text("rot13")),
        call("builtins.bytearray", integer(2**33)),
        call("torch.FloatTensor", integer(2**33)),
        b"\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x0bsystem.path\x93\x8c\x04join\x86R",
        call("builtins.getattr", call("builtins.getattr", name("os.path"), text("os")), text("x")),
        b"(S'touch'\nios\nsystem\n",
        name("os.system") + b"(" + text("touch") + b"t\x81",
        name("webbrowser.open") + b")}\x92",
    ]
    before = set(sys.modules)
    for body in attacks:
        result = parse(b"\x80\x04" + body + b".")
        assert isinstance(result.value, Call)
        assert result.globals
        assert repr(result.value)
    with pytest.raises(MalformedInput):
        parse(pickled(attacks[0], b"0\xff"))
    assert set(sys.modules) - before == set()
    assert not canary.exists()


def nested_key(depth: int) -> bytes:
    """A dictionary key that is a tuple of the same tuple twice, `depth` times: M3 of the corpus."""
    body = b")q\x00"
    for _ in range(depth):
        body += b"0h\x00h\x00\x86q\x00"
    return pickled(b"}", body, b"Ns")


def test_keys_that_take_forever_to_hash_are_never_hashed():
    with bounded():
        value = load(nested_key(50))
    assert dict(value) == {}
    assert [v for _, v in value.odd] == [None]


def test_numbers_chosen_to_collide_do_not_fill_a_dictionary():
    # Multiples of the modulus of integer hashes: all hash to 0.
    items = b"".join(integer(k * (2**61 - 1)) + b"N" for k in range(1, 100_000))
    with bounded():  # a dictionary takes more than a minute for them
        value = load(pickled(b"}(", items, b"u"))
    assert len(value) + len(value.odd) == 99_999


def test_many_consecutive_integer_keys_are_plain_keys():
    value = load(pickle.dumps(dict.fromkeys(range(100_000)), 2))
    assert len(value) == 100_000
    assert not value.odd


def test_a_billion_laughs_build_in_no_time_and_are_never_walked():
    # Each list holds the one before it twice: 2^60 leaves.
    laughs = b"]q\x000" + b"".join(
        b"](h%ch%ceq%c0" % (index, index, index + 1) for index in range(60)
    )
    with bounded():
        result = parse(pickled(laughs, b"h\x3c"))
        assert describe(result.value) == "<list of 2 entries>"
    assert result.nodes == 61


DEEP = {
    "lists": b"]" * 1_000_000 + b"a" * 999_999,
    "tuples": b"N" + b"\x85" * 1_000_000,
    "dictionaries": b"}N" * 500_000 + b"}" + b"s" * 500_000,
    "calls": b"ca\nb\nq\x00" + b"h\x00" * 300_000 + b")R" + b"\x85R" * 300_000,
    "states": b"ca\nb\nq\x000" + b"h\x00)R" * 300_000 + b"b" * 299_999,
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_million_levels_are_built_and_freed_without_recursion(kind):
    value = load(pickled(DEEP[kind]))
    assert len(describe(value)) < 100
    del value
    gc.collect()


def test_too_many_open_marks_are_refused():
    with pytest.raises(UnsafeInput, match="too many open marks"):
        parse(b"(" * 1_000_000)


def test_too_many_objects_are_refused():
    with pytest.raises(UnsafeInput, match=f"too many objects: expected at most {MAX_NODES}"):
        parse(b"]" * (MAX_NODES + 2))


def test_persistent_ids_are_nodes():
    node = load(b"\x80\x02(" + text("storage") + text("0") + b"tQ.")
    assert isinstance(node, Persistent)
    assert node.id == ("storage", "0")


def test_descriptions_are_short_and_walk_nothing():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    call_node = Call(Global("a", "b"), (deep, 10**5000, "x" * 10_000))
    for value in (deep, call_node, 10**5000, ByteText.of(b"\xff"), b"x" * 1000, Dict()):
        assert len(describe(value)) < 200
        assert len(repr(call_node)) < 200
    del deep, call_node


SEEDS = [
    pickle.dumps({"a": [1, 2.5, "x", b"y", None, True], "b": (3, {"c": {4, 5}})}, protocol)
    for protocol in range(6)
] + [
    pickled(call("collections.OrderedDict"), b"}", text("_metadata"), b"}sb"),
    pickle.dumps(collections.OrderedDict(a=1, b=bytearray(b"abc")), 5),
    nested_key(5),
]


def test_pickles_cut_anywhere_are_errors_of_the_input():
    for seed in SEEDS:
        for length in range(len(seed)):
            with pytest.raises(InputError):
                parse(seed[:length])


def test_mutations_never_raise_anything_else():
    rng = random.Random(20_260)
    for _ in range(4000):
        data = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at:at] = bytes([rng.randrange(256)])
            elif kind == 2 and len(data) > 1:
                del data[at]
            else:
                data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1)))
        try:
            describe(parse(bytes(data)).value)
        except InputError:
            continue
