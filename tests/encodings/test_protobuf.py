"""The protobuf wire format against the reference library, and what breaks its rules."""

from __future__ import annotations

import pytest
import tf_files as tf
from google.protobuf import descriptor_pb2

from wtool.encodings.protobuf import FIXED32, FIXED64, LENGTH, VARINT, fields, signed, text, varints
from wtool.errors import InputError


def test_fields_of_a_message_are_those_that_the_reference_wrote():
    message = descriptor_pb2.FieldDescriptorProto(name="näme", number=-5, type=3)
    message.json_name = "x" * 300
    data = message.SerializeToString()
    found = {}
    for number, wire, a, b in fields(data):
        found[number] = text(data, a, b) if wire == LENGTH else signed(a)
    assert found == {1: "näme", 3: -5, 5: 3, 10: "x" * 300}


def test_packed_and_single_integers_are_the_same():
    location = descriptor_pb2.SourceCodeInfo.Location(path=[1, 300, 2**31 - 1])
    data = location.SerializeToString()
    (packed,) = fields(data)
    assert list(varints(data, packed)) == [1, 300, 2**31 - 1]
    single = tf.number(1, 300)
    assert list(varints(single, next(iter(fields(single))))) == [300]


def test_fixed_fields_and_spans_are_given_as_they_stand():
    data = b"\x0d\x01\x02\x03\x04" + b"\x11" + bytes(range(8)) + b"\x1a\x02hi" + b"\x20\x96\x01"
    assert list(fields(data)) == [
        (1, FIXED32, 0x04030201, 0),
        (2, FIXED64, 0x0706050403020100, 0),
        (3, LENGTH, 16, 18),
        (4, VARINT, 150, 0),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08" + b"\xff" * 10 + b"\x01", "varint too long"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "does not fit in 64 bits"),
        (b"\x08\x80", "varint runs past its end"),
        (b"\x08", "varint runs past its end"),
        (b"\x0b", "bad wire type"),
        (b"\x0c", "bad wire type"),
        (b"\x0e", "bad wire type"),
        (b"\x0f", "bad wire type"),
        (b"\x00\x00", "bad field number"),
        (b"\xf8\xff\xff\xff\x7f\x00", "bad field number"),
        (b"\x0a\x05abc", "runs past its end"),
        (b"\x0a" + tf.varint(2**63), "runs past its end"),
        (b"\x0d\x00\x00", "runs past its end"),
        (b"\x09" + bytes(7), "runs past its end"),
    ],
)
def test_broken_bytes_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        list(fields(data))
