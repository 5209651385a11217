"""Mapping files: each mistake is refused with its line and its rule."""

from __future__ import annotations

import pytest

from wtool.conversion.mapping import parse_mapping, read_mapping
from wtool.errors import MalformedInput, MissingInput, UnsafeInput, UsageError

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
        (HEAD + "[const]\nheads = true\n" + LINEAR, "constant 'heads' at line 5 is a number"),
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


MAKE = '[[make]]\nside = "b"\nname = "x"\n'
FLATTEN = LINEAR.replace("linear", "linear_flatten")
NORM, MHA, GRU = (LINEAR.replace("linear", kind) for kind in ("batchnorm", "mha", "gru"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (FLATTEN + f"chw = {chw}\n", "line 5: option 'chw' cannot be that")
            for chw in ("4", "true", "[]", "[4]", "[1.5, 2, 2]", "[-4, -1, 1]", "[[1, 2], 3]",
                        '["a", "b"]', "{ a = 1 }")
        ),
        (FLATTEN + 'chw = "flat"\n', "line 5: option 'chw' names no constant: found flat"),
        *(
            (NORM + f"chw = {chw}\n", "option 'chw' cannot be that")
            for chw in ('"flat"', "3", "{}")
        ),
        *(
            (MHA + f"heads = {heads}\n", "option 'heads' cannot be that")
            for heads in ("0", "[1, 2]", "{ a = 2 }", "2.0")
        ),
        (GRU + "suffix = 3\n", "option 'suffix' cannot be that"),
        (NORM + 'scale = "no"\n', "option 'scale' cannot be that"),
        (LINEAR + 'weight_norm = ["hook"]\n', "option 'weight_norm' cannot be that"),
        (LINEAR + 'b_names = { kernl = "w" }\n', "b_names has no leaf 'kernl' to name"),
        (LINEAR + 'a_names = { kernel = "w" }\n', "a_names has no leaf 'kernel' to name"),
        *(
            (LINEAR + f'bias = {{ only = "a", fill = {fill} }}\n', "option 'bias' cannot be read")
            for fill in ("nan", "inf", "true", "'x'")
        ),
        (LINEAR + 'note = ["a", "b"]\n', "line 5: note is a text"),
        (LINEAR + "note = []\n", "line 5: note is a text"),
        (LINEAR + "evidence = 3\n", "line 5: evidence is a text"),
        ('[[rule]]\na = "x"\nb = "y"\noptional = "yes"\n', "line 5: optional is true or false"),
        ('[[rule]]\na = "x"\nb = "y"\nreverse = "no"\n', "line 5: reverse is true or false"),
        (LINEAR + MAKE + "fill = 1000\ndtype = 'int8'\n", "line 9: int8 does not hold the value"),
        (LINEAR + MAKE + "fill = 0.5\ndtype = 'int32'\n", "line 9: int32 does not hold the value"),
        (LINEAR + MAKE + "fill = nan\n", "line 9: float32 does not hold the value"),
        (LINEAR + MAKE + "fill = 1e300\n", "line 9: float32 does not hold the value"),
        (LINEAR + MAKE + "fill = 1\ndtype = ['a']\n", "line 9: no such type of numbers"),
        (LINEAR + MAKE + "fill = 1\nalso = 3\n", "line 9: also is a text"),
        ("[const]\nheads = true\n" + LINEAR, "constant 'heads' at line 5 is a number"),
        ("[extra]\n" + LINEAR, "no table 'extra' at line 5"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_and_not_ignored(text, message):
    assert message in refuse(HEAD + text)


def test_a_framework_that_is_no_text_is_refused():
    assert "a names no framework" in refuse(HEAD.replace('"torch"', '["torch"]') + LINEAR)


def test_a_header_inside_a_text_moves_no_line():
    text = "notes = ['''\n[[layer]]\n''']\n"
    assert "[[layer]] at line 8: no kind" in refuse(HEAD + text + LINEAR.replace("linear", "dense"))


def test_a_constant_of_the_caller_that_nothing_takes_is_refused():
    text = HEAD + "[const]\nheads = 2\n" + LINEAR.replace("linear", "mha") + 'heads = "heads"\n'
    with pytest.raises(UsageError, match="nothing takes the constant 'haeds'"):
        parse_mapping(text, constants={"haeds": 4})
    rule = '[[rule]]\na = "x"\nb = "y"\nop = ["unflatten 0 parts -1"]\n'
    parse_mapping(HEAD + rule, constants={"parts": 4})


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
