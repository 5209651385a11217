"""Two-way name templates: what matches, what is written, what is refused when a file is loaded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtool.conversion.templates import link
from wtool.errors import MalformedInput, UnsupportedError

SEPARATORS = {"a": ".", "b": "/"}


def pair(a: str, b: str):
    made = link({"a": [a], "b": [b]}, SEPARATORS)
    return made["a"][0], made["b"][0]


@pytest.mark.parametrize(
    ("a", "b", "name", "other"),
    [
        ("fc.weight", "predictions/kernel", "fc.weight", "predictions/kernel"),
        (
            "layer{s:int}.{n:int}.conv{k:1..3}",
            "conv{s+1}_block{n+1}_{k}_conv",
            "layer4.0.conv3",
            "conv5_block1_3_conv",
        ),
        ("{p**}.weight", "{p**}/kernel", "a.b.0.weight", "a/b/0/kernel"),
        ("{q:query|key}.w", "{q:query|key}_dense/w", "key.w", "key_dense/w"),
        ("blocks.{s:int}.{n:int}", "block{s+1}{n:letter}_x", "blocks.0.2", "block1c_x"),
        ("x.{{0}}", "x/{{0}}", "x.{0}", "x/{0}"),
        ("{m}.{m}", "{m}", "a.a", "a"),
    ],
)
def test_a_name_becomes_the_other_and_comes_back(a, b, name, other):
    one, two = pair(a, b)
    assert two.render(one.match(name)) == other
    assert one.render(two.match(other)) == name


@pytest.mark.parametrize(
    ("a", "b", "name"),
    [
        ("conv{k:1..3}", "c{k}", "conv0"),
        ("conv{k:1..3}", "c{k}", "conv4"),
        ("conv{k:int}", "c{k}", "conv01"),
        ("conv{k:int}", "c{k}", "conv-1"),
        ("{q}.weight", "{q}/kernel", "a.b.weight"),
        ("{q:x|y}", "{q}", "z"),
        ("{m}.{m}", "{m}", "a.b"),
        ("a.{p**}", "a/{p**}", "a."),
    ],
)
def test_what_is_not_meant_does_not_match(a, b, name):
    assert pair(a, b)[0].match(name) is None


def test_the_way_back_does_not_go_below_zero():
    one, two = pair("layer{s:int}", "conv{s+1}")
    assert two.match("conv0") is None
    assert one.render(two.match("conv1")) == "layer0"


def test_a_letter_beyond_z_is_refused():
    _, two = pair("b{n:int}", "b{n:letter}")
    with pytest.raises(UnsupportedError, match="no letter for 26"):
        two.render({"n": 26})


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("x{i:int}", "y", "lacks {i}"),
        ("x{i}", "y{i+1}", "counts with {i}, which is no number"),
        ("x{i:int}", "y{i:1..3}.{i:2..4}", "declares {i} otherwise"),
        ("x{i:float}", "y{i}", "unknown type 'float'"),
        ("x{i:3..1}", "y{i}", "empty range"),
        ("{a}{b}", "{a}/{b}", "nothing between them"),
        ("x{i", "y", "brace without its pair"),
        ("x{}", "y", "no variable in '{}'"),
        ("", "y", "a name is empty"),
        ("{a**}.{b**}.{c**}", "{a**}/x/{b**}/y/{c**}", "too many variables"),
    ],
)
def test_a_pair_that_cannot_work_both_ways_is_refused(a, b, message):
    with pytest.raises(MalformedInput) as caught:
        pair(a, b)
    assert message in str(caught.value)


WORDS = st.text("abc_01", min_size=1, max_size=6)


@settings(deadline=None, max_examples=100)
@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(0, 10**6), WORDS)
def test_rendering_what_was_matched_gives_the_name_again(path, number, word):
    one, two = pair("{p**}.layer{i:int}.{w}.end", "m/{w}/{i+3}/{p**}/end")
    name = ".".join([*path, f"layer{number}", word, "end"])
    values = one.match(name)
    assert values is not None
    assert one.render(values) == name
    other = two.render(values)
    assert two.match(other) == values
