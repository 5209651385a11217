"""The `checkpoint` file: what TensorFlow writes and reads, and what breaks the text format."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from wtool.dialects.tf_state import parse_state
from wtool.errors import InputError

NAMES = ["ckpt-1", "dir/ckpt-2", "ä 重", "quote\"'\\", "tab\tline\nbell\a", "\x01\x7f", "#x"]


@pytest.mark.parametrize("name", NAMES)
def test_paths_come_back_as_the_reference_printed_them(name):
    state = CheckpointState(model_checkpoint_path=name, all_model_checkpoint_paths=["a", name])
    state.all_model_checkpoint_timestamps.extend([1.5, 1e300])
    for options in ({}, {"as_utf8": True}, {"as_one_line": True}):
        text = text_format.MessageToString(state, **options)
        parsed = parse_state(text.encode(), "checkpoint")
        assert (parsed.model, parsed.all) == (name, ("a", name))


@pytest.mark.parametrize(
    "text",
    [
        b"model_checkpoint_path: 'a'",
        b'model_checkpoint_path : "a" # the newest',
        b'# first\n\nmodel_checkpoint_path:\n  "a";',
        b'other: -1.5e3, flag: true\nmodel_checkpoint_path: "" "a"\n#end',
        b'model_checkpoint_path: "\\141"',
        b'model_checkpoint_path: "\\x61"',
    ],
)
def test_the_text_format_may_be_written_in_several_ways(text):
    parsed = parse_state(text, "checkpoint")
    reference = text_format.Parse(
        text.replace(b"other: -1.5e3, flag: true\n", b""), CheckpointState()
    )
    assert parsed.model == reference.model_checkpoint_path == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'model_checkpoint_path: "a', "state file broken"),
        (b'model_checkpoint_path: "a\n"', "state file broken"),
        (b'model_checkpoint_path "a"', "state file broken"),
        (b'model_checkpoint_path: "a" }', "at byte 27: checkpoint state file broken"),
        (b'model_checkpoint_path: "a\\"', "state file broken"),
        (b"\xff\xfe", "state file broken"),
        (b"model_checkpoint_path: a", "is not a string"),
        (b'all_model_checkpoint_paths: "a"', "names no checkpoint"),
        (b"", "names no checkpoint"),
        (b'"' * 1_000_001, "state file broken"),
        (b'a: "' + b"\\" * 1_000_001, "state file broken"),
    ],
)
def test_broken_text_is_an_error_with_its_place(text, message):
    with pytest.raises(InputError, match=message):
        parse_state(text, "checkpoint")
