"""Strict JSON: equal to Python's `json` on sound texts, an error where that one is lenient."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtool.encodings import strict_json
from wtool.encodings.strict_json import MAX_DEPTH, Number, loads
from wtool.errors import MalformedInput, UnsafeInput

SOUND = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(SOUND, st.booleans(), st.sampled_from([None, 1]))
def test_a_sound_text_gives_its_value(value: Any, ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert loads(text.encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text('{}[]",:0123456789.eE-tfn \\u"d8', max_size=40))
def test_any_bytes_give_a_value_that_json_gives_too_or_an_input_error(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    try:
        value = loads(raw)
    except (MalformedInput, UnsafeInput):
        return
    assert value == json.loads(raw.decode(), parse_float=str, parse_int=as_written_if_odd)


def as_written_if_odd(text: str) -> int | str:
    return text if text == "-0" or len(text) > 20 else int(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[NaN]", "no such number: found NaN"),
        (b"[-Infinity]", "no such number: found -Infinity"),
        (b"[1e999]", "number out of range: found 1e999"),
        (b'{"a":1,"a":1}', "a key twice: found 'a'"),
        (b'{"a":{"b":1,"\\u0062":2}}', "a key twice: found 'b'"),
        (b'["\\ud800"]', r"lone surrogate: found \\ud800"),
        (b'[["x\\uDFFFy"]]', r"lone surrogate: found \\udfff"),
        (b'{"\\ud83d":1}', "lone surrogate"),
        (b"\xef\xbb\xbf{}", "JSON is malformed"),
        (b'["\x01"]', "at byte 2: JSON is malformed: invalid control character"),
        (b"[1,]", "JSON is malformed"),
        (b"[01]", "JSON is malformed"),
        (b"[1] x", "at byte 4: JSON is malformed: extra data: found 'x'"),
        (b"", "JSON is malformed"),
        (b'["\xff"]', "at byte 2: JSON is not UTF-8: found byte 0xff"),
        ('["é", x]'.encode(), "at byte 7: JSON is malformed"),
    ],
)
def test_what_python_takes_or_json_forbids_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        loads(text)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert loads(b'["\\ud83d\\ude00"]') == ["😀"]


def test_numbers_that_are_no_plain_integers_stay_as_written() -> None:
    value = loads(b"[1.50,-0,1e2,123456789012345678901]")
    assert value == ["1.50", "-0", "1e2", "123456789012345678901"]
    assert all(type(number) is Number for number in value)
    assert loads(b"[0,-1,18446744073709551615]") == [0, -1, 2**64 - 1]


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_levels_are_bounded(pair: tuple[bytes, bytes]) -> None:
    def nested(depth: int) -> bytes:
        return pair[0] * depth + b"1" + pair[1] * depth

    loads(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 5_000, 1_000_000):
        with pytest.raises(MalformedInput, match="nests too deeply"):
            loads(nested(depth))


def test_values_and_containers_are_counted_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strict_json, "MAX_VALUES", 3)
    monkeypatch.setattr(strict_json, "MAX_CONTAINERS", 2)
    loads(b"[[1,2,3,4]]")
    for text in (b"[1,2,3,4,5]", b"[[[]]]", b'{"a":[{}]}'):
        with pytest.raises(UnsafeInput, match="too many values"):
            loads(text)


def test_objects_may_be_made_into_values_on_the_way() -> None:
    seen: list[Any] = []
    assert loads(b'{"a":{"b":1}}', on_object=lambda pairs: seen.append(pairs) or len(seen)) == 2
    assert seen == [[("b", 1)], [("a", 1)]]
