"""The pickle writer against CPython's unpickler and pickletools."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtool.encodings.pickle_nodes import Call, Dict, Global
from wtool.encodings.pickle_writer import dumps
from wtool.errors import UnsupportedError

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 2039), (1 << 2039) - 1)
    | st.integers(-70000, 70000)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.binary().map(bytearray)
        | st.sets(st.integers())
    ),
    max_leaves=25,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_what_cpython_reads(value):
    data = dumps(value)
    found = pickle.loads(data)
    assert found == value
    assert dumps(found) == data  # signs of zero, types and order as well
    pickletools.dis(data, out=io.StringIO())


@pytest.mark.parametrize("size", [0, 1, 2, 999, 1000, 1001, 2000, 2001, 3500])
def test_containers_are_written_in_batches(size):
    items = list(range(size))
    table = {str(i): i for i in items}
    assert pickle.loads(dumps([items, table])) == [items, table]


@pytest.mark.parametrize("power", [7, 8, 15, 16, 31, 32, 63, 64, 2039])
def test_integers_around_powers_of_two_have_the_bytes_of_cpython(power):
    for value in (1 << power, (1 << power) - 1, -(1 << power), -(1 << power) - 1):
        if value.bit_length() < 2040:
            assert dumps(value) == pickle.dumps(value, protocol=2)


def test_shared_and_recursive_lists_stay_shared():
    inner = [1]
    inner.append(inner)
    found = pickle.loads(dumps([inner, inner]))
    assert found[0] is found[1]
    assert found[0][1] is found[0]


def test_a_tuple_that_contains_itself_through_a_call_is_refused():
    call = Call(Global("torch", "Size"), ([],))
    call.args[0].append(call)
    with pytest.raises(UnsupportedError):
        dumps(call)


def test_a_list_a_million_deep_is_written():
    deep: list = []
    for _ in range(1_000_000):
        deep = [deep]
    assert dumps(deep).count(b"]") >= 1_000_001


def test_ordered_dictionaries_keep_class_order_and_state():
    table = Dict({"b": 1, "a": [2]})
    table.cls = Global("collections", "OrderedDict")
    table.state = Dict({"_metadata": "x"})
    found = pickle.loads(dumps(table))
    assert type(found) is collections.OrderedDict
    assert list(found.items()) == [("b", 1), ("a", [2])]
    assert found._metadata == "x"


def test_what_protocol_2_cannot_hold_is_refused():
    for value in (1 << 2040, object(), Global("a\nb", "c"), Global("", "c")):
        with pytest.raises(UnsupportedError):
            dumps(value)
