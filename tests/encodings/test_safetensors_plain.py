"""Headers read with one pattern: always the answer, or the error, of the strict reader."""

import json
import random

import numpy as np
import pytest
import safetensors.numpy

from wtool.encodings import safetensors_header, strict_json
from wtool.encodings.safetensors_header import read_header
from wtool.encodings.safetensors_plain import read_plain
from wtool.errors import InputError
from wtool.sources import BytesSource


def file_of(header: str | bytes, nbytes: int) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + bytes(nbytes)


def answer(data: bytes):
    try:
        return read_header(BytesSource(data, "m.safetensors"))
    except InputError as error:
        return type(error), str(error)


def both(data: bytes, monkeypatch):
    """What is said of `data`, by the pattern and without it alike."""
    said = answer(data)
    with monkeypatch.context() as patched:
        patched.setattr(safetensors_header, "read_plain", lambda *_: None)
        assert answer(data) == said
    return said


def is_plain(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    return read_plain(data[8 : 8 + length], 8, len(data) - 8 - length) is not None


def tensor(dtype: str, shape: str, begin: object, end: object) -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


A = f'"a":{tensor("F32", "[2,3]", 0, 24)}'
B = f'"b":{tensor("I8", "[4]", 24, 28)}'


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"a": '{"b": "\\"c\\" }, \u00e9"}'}])
def test_what_the_reference_writes_is_plain(metadata, monkeypatch):
    arrays = {
        "fc.weight": np.ones((3, 4), "<f4"),
        "fc.bias": np.ones(3, "<f2"),
        "слой.вес": np.ones((2, 0, 3), "<i8"),
        "scalar": np.array(7, "u1"),
        "": np.ones((1, 1, 1, 1, 5), "?"),
    }
    data = safetensors.numpy.save(arrays, metadata)
    assert is_plain(data)
    header = both(data, monkeypatch)
    assert header.metadata == (metadata or {})
    assert {name: entry.shape for name, entry in header.entries} == {
        name: array.shape for name, array in arrays.items()
    }


PLAIN = {
    "two": (f"{{{A},{B}}}", 28),
    "spaces behind": (f"{{{A},{B}}}   \n\t", 28),
    "an empty tensor between": (f'{{{A},"e":{tensor("F64", "[0]", 24, 24)},{B}}}', 28),
    "empty metadata": (f'{{"__metadata__":{{}},{A}}}', 24),
    "a name like JSON": ('{"x:{[,]}":' + tensor("U8", "[]", 0, 1) + "}", 1),
    "half bytes": (f'{{"f":{tensor("F4", "[2,3]", 0, 3)}}}', 3),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_headers(case, monkeypatch):
    data = file_of(*PLAIN[case])
    assert is_plain(data)
    assert isinstance(both(data, monkeypatch), safetensors_header.Header)


OTHERS = {
    "in another order": (f"{{{B},{A}}}", 28),
    "fields in another order": ('{"a":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}}', 1),
    "spaces between": (f"{{{A}, {B}}}", 28),
    "an escape in a name": ('{"a\\u0062":' + tensor("U8", "[]", 0, 1) + "}", 1),
    "a field more": ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', 1),
    "metadata behind": (f'{{{A},"__metadata__":{{"k":"v"}}}}', 24),
    "metadata null": (f'{{"__metadata__":null,{A}}}', 24),
    "nothing": ("{}", 0),
    "metadata only": ('{"__metadata__":{"format":"pt"}}', 0),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_sound_headers_are_left_to_the_strict_reader(case, monkeypatch):
    data = file_of(*OTHERS[case])
    assert not is_plain(data)
    assert isinstance(both(data, monkeypatch), safetensors_header.Header)


FAULTS = {
    "a name twice": (f'{{{A},"a":{tensor("I8", "[4]", 24, 28)}}}', 28),
    "a tensor called as the metadata": (f'{{"__metadata__":{tensor("U8", "[]", 0, 1)}}}', 1),
    "metadata twice": (f'{{"__metadata__":{{}},"__metadata__":{tensor("U8", "[]", 0, 1)}}}', 1),
    "a number in the metadata": (f'{{"__metadata__":{{"k":1}},{A}}}', 24),
    "a key of the metadata twice": (f'{{"__metadata__":{{"k":"1","k":"2"}},{A}}}', 24),
    "NaN in the metadata": (f'{{"__metadata__":{{"k":NaN}},{A}}}', 24),
    "a comma behind": (f"{{{A},{B},}}", 28),
    "no comma between": (f"{{{A}}}{B}}}", 28),
    "a brace in place of a comma": (f"{{{A}}}{B}}}", 28),
    "no brace behind": (f"{{{A},{B}", 28),
    "a brace too many": (f"{{{A},{B}}}}}", 28),
    "text between": (f"{{{A},0{B}}}", 28),
    "text in front": (f"x{{{A},{B}}}", 28),
    "no brace in front": (f"{A},{B}}}", 28),
    "a hole": (f'{{{A},"b":{tensor("I8", "[4]", 25, 29)}}}', 29),
    "an overlap": (f'{{{A},"b":{tensor("I8", "[4]", 23, 27)}}}', 27),
    "bytes left over": (f"{{{A},{B}}}", 29),
    "bytes missing": (f"{{{A},{B}}}", 27),
    "an end before the beginning": (f'{{{A},"b":{tensor("I8", "[4]", 24, 20)}}}', 20),
    "a beginning after zero": (f'{{"a":{tensor("I8", "[4]", 4, 8)}}}', 8),
    "a zero in front": (f'{{"a":{tensor("I8", "[4]", 0, "04")}}}', 4),
    "two zeros": (f'{{"a":{tensor("I8", "[0]", "00", "0")}}}', 0),
    "a zero in front of a size": (f'{{"a":{tensor("I8", "[04]", 0, 4)}}}', 4),
    "a size missing": (f'{{"a":{tensor("I8", "[4,]", 0, 4)}}}', 4),
    "a sign": (f'{{"a":{tensor("I8", "[4]", "-0", 4)}}}', 4),
    "a shape of another size": (f'{{"a":{tensor("I8", "[5]", 0, 4)}}}', 4),
    "one shape, two sizes": (
        f'{{"a":{tensor("I8", "[4]", 0, 4)},"b":{tensor("I8", "[4]", 4, 9)}}}', 9
    ),
    "half a byte": (f'{{"a":{tensor("F4", "[3]", 0, 1)}}}', 1),
    "an unknown type": (f'{{"a":{tensor("F33", "[4]", 0, 4)}}}', 4),
    "a size beyond 64 bits": (f'{{"a":{tensor("I8", f"[{1 << 64},0]", 0, 0)}}}', 0),
    "a size beyond 64 bits behind a zero": (
        f'{{"a":{tensor("I8", f"[0,{1 << 64}]", 0, 0)}}}', 0
    ),
    "a bracket in front": (f"[{A},{B}}}", 28),
    "a count beyond 64 bits": (f'{{"a":{tensor("I8", f"[{1 << 40},{1 << 40},0]", 0, 0)}}}', 0),
    "an offset of 21 digits": (f'{{"a":{tensor("I8", "[4]", 0, "4" * 21)}}}', 4),
    "digits of another alphabet": (f'{{"a":{tensor("I8", "[٤]", 0, "٤")}}}', 4),
    "a control character in a name": (f'{{"a\x01":{tensor("I8", "[4]", 0, 4)}}}', 4),
    "no UTF-8": (b'{"a\xff":' + tensor("I8", "[4]", 0, 4).encode() + b"}", 4),
    "a line behind the type": (f'{{"a":{tensor("I8", "[4]", 0, 4)}}}\0', 4),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_the_error_of_the_strict_reader(case, monkeypatch):
    data = file_of(*FAULTS[case])
    assert not is_plain(data)
    kind, _ = both(data, monkeypatch)
    assert issubclass(kind, InputError)


def test_any_changed_byte_gives_the_answer_of_the_strict_reader(monkeypatch):
    header = f'{{"__metadata__":{{"k":"v"}},{A},{B}}}'.encode()
    others = b'"{}[],:\\09 aF\xff'
    for at in range(len(header)):
        for byte in others:
            changed = bytearray(header)
            changed[at] = byte
            both(file_of(bytes(changed), 28), monkeypatch)
        both(file_of(header[:at] + header[at + 1 :], 28), monkeypatch)


def test_seeded_tensors_are_those_of_json(monkeypatch):
    choose = random.Random(9)
    for _ in range(200):
        position, members = 0, {}
        for index in range(choose.randint(1, 9)):
            dtype = choose.choice(["F32", "U8", "BF16", "C64", "F4"])
            shape = [choose.choice([0, 1, 2, 10, 300]) for _ in range(choose.randint(0, 4))]
            bits = safetensors_header.BITS[dtype] * int(np.prod(shape, dtype=object))
            if bits % 8:
                continue
            members[f"layer.{index}"] = {
                "dtype": dtype, "shape": shape, "data_offsets": [position, position + bits // 8]
            }  # fmt: skip
            position += bits // 8
        if not members or position > 1 << 20:
            continue
        data = file_of(json.dumps(members, separators=(",", ":")), position)
        assert is_plain(data)
        header = both(data, monkeypatch)
        assert [(name, *entry) for name, entry in header.entries] == [
            (name, found["dtype"], tuple(found["shape"]), *found["data_offsets"])
            for name, found in members.items()
        ]


def test_a_header_of_too_many_values_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(strict_json, "MAX_VALUES", 3)
    kind, line = both(file_of(f"{{{A},{B}}}", 28), monkeypatch)
    assert "too many values" in line
    assert issubclass(kind, InputError)
