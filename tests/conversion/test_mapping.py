"""Mapping files: each mistake is refused with its line and its rule."""

from __future__ import annotations

import pytest

from wtool.conversion.mapping import parse_mapping, read_mapping
from wtool.errors import MalformedInput, MissingInput, UnsafeInput

HEAD = """[mapping]
name = "m"
a = { framework = "torch" }
b = { framework = "keras" }
"""
LINEAR = '[[layer]]\nkind = "linear"\na = "fc"\nb = "fc"\n'


def refuse(text: str) -> str:
    with pytest.raises(MalformedInput) as caught:
        parse_mapping(text, path="m.toml")
    assert str(caught.value).startswith("m.toml: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mapping", "not toml: "),
        ("[mapping]\n", "[mapping] lacks 'a'"),
        (HEAD, "no [[layer]] and no [[rule]]"),
        (HEAD + "[extra]\n", "no table 'extra'"),
        (HEAD.replace("torch", "caffe"), "a names no framework"),
        (HEAD.replace('"torch"', '"torch", sep = ":"'), "a sep"),
        (HEAD.replace('name = "m"', 'name = "m"\nschema = 2'), "unknown schema"),
        (HEAD + "[const]\nheads = true\n" + LINEAR, "constant 'heads' is a number"),
        (HEAD + "[layer]\nkind = 'linear'\n", "[[layer]] is a list of tables"),
        (HEAD + LINEAR + "\n" + LINEAR.replace("linear", "dense"), "[[layer]] at line 10: no kind"),
        (HEAD + LINEAR + "heads = 2\n", "line 5: a layer of kind 'linear' has no option 'heads'"),
        (HEAD + LINEAR.replace("linear", "mha"), "line 5: a layer of kind 'mha' needs 'heads'"),
        (HEAD + LINEAR.replace('b = "fc"\n', ""), "[[layer]] at line 5: [layer] lacks 'b'"),
        (HEAD + LINEAR.replace('a = "fc"', 'a = "fc{i:int}"'), "line 5: 'fc/kernel' lacks {i}"),
        (HEAD + LINEAR + 'bias = { only = "c", fill = 0 }\n', "option 'bias' cannot be read"),
        (HEAD + LINEAR + 'lossy = "all"\n', "declares a loss that its operations do not have"),
        (HEAD + LINEAR + 'weight_norm = "new"\n', "weight_norm = 'new'"),
        (HEAD + '[[rule]]\na = "x"\nb = "y"\nop = ["turn"]\n', "[[rule]] at line 5: no operation"),
        (
            HEAD + '[[rule]]\na = "x"\nb = "y"\nop = ["flatten 0 2"]\n',
            "line 5: op = ['flatten 0 2'] cannot be undone",
        ),
        (
            HEAD + '[[rule]]\na = ["x", "z"]\nb = "y"\nop = ["sum"]\n',
            "line 5: loses sum-of-biases and does not declare it",
        ),
        (HEAD + LINEAR + '[[ignore]]\nside = "a"\nname = "x"\n', "line 9: [ignore] lacks 'reason'"),
        (
            HEAD + LINEAR + '[[ignore]]\nside = "a"\nname = "x"\nreason = ""\n',
            "line 9: leaves a tensor out and gives no reason",
        ),
        (
            HEAD + LINEAR + '[[tied]]\nside = "c"\nname = "x"\nsame_as = "y"\n',
            "line 9: side is 'a' or 'b'",
        ),
        (
            HEAD + LINEAR + '[[tied]]\nside = "a"\nname = "x"\nsame_as = "y{i:int}"\n',
            "has variables that 'x' does not tell",
        ),
        (
            HEAD + LINEAR + '[[make]]\nside = "b"\nname = "x"\n',
            "line 9: says one of fill, values and from_template",
        ),
        (
            HEAD + LINEAR + '[[make]]\nside = "b"\nname = "x"\nshape = [2]\nvalues = [1, 2, 3]\n',
            "values are 2 numbers",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text, message):
    assert message in refuse(text)


def test_notes_of_blocks_are_notes_of_the_mapping():
    text = HEAD + 'notes = ["all"]\n' + LINEAR + 'note = "eps differs"\n'
    text += '[[rule]]\na = ["x", "y"]\nb = "z"\nop = ["concat 0 2"]\nnote = "joined"\n'
    assert parse_mapping(text).notes == ("all", "fc: eps differs", "x, y: joined")


def test_constants_of_the_caller_take_the_place_of_the_files():
    text = HEAD + "[const]\nheads = 2\n" + LINEAR.replace("linear", "mha") + 'heads = "heads"\n'
    for constants, expected in ((None, 2), ({"heads": 4}, 4)):
        mapping = parse_mapping(text, constants=constants)
        weight = mapping.blocks[0].parts[0]
        assert weight.steps["b"][-1].text == f"unflatten 1 {expected} -1"


def test_a_file_that_is_not_there_not_text_or_endless_is_an_error_of_the_file(tmp_path):
    path = tmp_path / "m.toml"
    with pytest.raises(MissingInput):
        read_mapping(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MalformedInput, match="not UTF-8"):
        read_mapping(path)
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UnsafeInput, match="too large"):
        read_mapping(path)
    path.write_text("x = " + "[" * 100_000)
    with pytest.raises(MalformedInput, match="not toml"):
        read_mapping(path)
