"""`wtool check` through the command line: exit codes, renderings for CI, policies, explanations."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import xmlschema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "render"))

from planting import sound, write
from sarif_schema import SCHEMA

import wtool
from wtool.checks import SEVERITIES, rules
from wtool.cli import run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SCHEMAS = Path(__file__).resolve().parents[1] / "render" / "schemas"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Models: sound, with an error and a warning, with a warning, with a note."""
    folder = tmp_path_factory.mktemp("check")
    broken = sound()
    broken["blocks.3.conv.weight"][3, 2, 1, 0] = np.nan
    broken["head.weight"] *= 0
    warned = sound()
    warned["head.weight"] *= 0
    noted = {n: v if "norm" in n else v.astype(np.float16) for n, v in sound().items()}
    names = {"sound": sound(), "broken": broken, "warned": warned, "noted": noted}
    return {name: write(model, folder / f"{name}.safetensors") for name, model in names.items()}


def output(capsys, *arguments):
    code = run(["check", *arguments])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("sound", (), 0),
        ("noted", (), 0),
        ("warned", (), 1),
        ("warned", ("--fail-on", "error"), 0),
        ("broken", (), 1),
        ("broken", ("--fail-on", "error"), 1),
        ("broken", ("--ignore", "WT001", "--ignore", "all-zero"), 0),
        ("broken", ("--only", "scale"), 0),
        ("broken", ("--only", "WT999"), 2),
        ("broken", ("--exclude", "head.*", "--fail-on", "error"), 1),
        ("sound", ("--policy", "/nowhere/release.toml"), 3),
    ],
)
def test_exit_codes(capsys, files, name, options, code):
    assert output(capsys, files[name], *options)[0] == code


def test_a_selection_limits_the_findings_not_the_model(capsys, files):
    """What is left out is neither lost from its block nor missing in an index."""
    _, text = output(capsys, files["broken"], "--exclude", "blocks.3.*", "--format", "json")
    assert [row["rule"] for row in json.loads(text)["rows"]] == ["WT004"]
    shards = str(FIXTURES / "digits-cnn-safetensors-shards")
    assert output(capsys, shards, "--select", "fc1.*")[0] == 0


def test_an_unreadable_file_is_not_clean(capsys):
    assert output(capsys, str(FIXTURES / "broken" / "cut.safetensors"))[0] == 3


def test_without_a_model_there_is_nothing_to_check(capsys):
    assert output(capsys, "--only", "WT001")[0] == 2


def test_a_table_names_file_tensor_index_value_and_what_to_do(capsys, files):
    _, text = output(capsys, files["broken"])
    line = next(line for line in text.splitlines() if "WT001" in line)
    for word in (
        files["broken"],
        "error",
        "blocks.3.conv.weight",
        "[3, 2, 1, 0]",
        "NaN",
        "restore",
    ):
        assert word in line
    assert text.splitlines()[-1].endswith("rules: 1 error, 1 warning")
    _, text = output(capsys, files["broken"], "--format", "csv")
    assert '"[3, 2, 1, 0]"' in text


def test_json_holds_every_fact(capsys, files):
    _, text = output(capsys, files["sound"], files["broken"], "--format", "json")
    document = json.loads(text)
    assert document["command"] == "check"
    assert document["ok"] is False
    assert document["totals"] == {
        "errors": 1,
        "warnings": 1,
        "notes": 0,
        "suppressed": 0,
        "rules": len(rules()),
        "models": 2,
    }
    assert document["rows"][0] == {
        "file": files["broken"],
        "severity": "error",
        "rule": "WT001",
        "name": "nan",
        "tensor": "blocks.3.conv.weight",
        "index": [3, 2, 1, 0],
        "value": "NaN",
        "message": "1 of 5,184 values are NaN; restore the tensor from a checkpoint without NaN",
        "suppressed": None,
    }


def policy(tmp_path, text):
    path = tmp_path / "release.toml"
    path.write_text(text)
    return str(path)


SUPPRESS = '[[suppress]]\nrule = "WT004"\ntensor = "head.*"\nreason = "a new head"\n'


def test_a_suppressed_finding_is_shown_with_its_reason_and_does_not_fail(capsys, files, tmp_path):
    law = policy(tmp_path, SUPPRESS)
    code, text = output(capsys, files["warned"], "--policy", law)
    assert code == 0
    assert "a new head" in text
    assert text.splitlines()[-1].endswith("1 suppressed by the policy")


def test_a_suppression_that_nothing_needs_is_told(capsys, files, tmp_path):
    """It would hide the next fault. Rules that do not run, and parts of a model, say nothing."""
    law = policy(tmp_path, SUPPRESS + SUPPRESS.replace("head", "tail"))
    useless = "note: the policy accepts WT004 of 'tail.*', but there is nothing to accept"
    for options, told in (
        ([], True),
        ([files["sound"]], True),
        (["--ignore", "WT004"], False),
        (["--select", "head.*"], False),
    ):
        run(["check", files["warned"], *options, "--policy", law])
        assert (useless in capsys.readouterr().err) == told
        run(["check", files["sound"], "--policy", law])
        assert "of 'head.*', but" in capsys.readouterr().err


def test_a_policy_raises_a_severity(capsys, files, tmp_path):
    law = policy(tmp_path, '[check]\nfail_on = "error"\n[severity]\nWT004 = "error"\n')
    assert output(capsys, files["warned"], "--policy", law)[0] == 1
    law = policy(tmp_path, '[check]\nfail_on = "error"\n')
    assert output(capsys, files["warned"], "--policy", law)[0] == 0


def test_a_policy_that_names_no_rule_is_refused(capsys, files, tmp_path):
    law = policy(tmp_path, '[[suppress]]\nrule = "WT999"\nreason = "x"\n')
    assert output(capsys, files["warned"], "--policy", law)[0] == 2


def test_a_manifest_that_does_not_verify_fails_the_check(capsys, tmp_path):
    manifest = FIXTURES / "manifests" / "release-1.json"
    law = policy(tmp_path, f'[require]\nmanifest = "{manifest}"\n')
    good, bad = FIXTURES / "digits-cnn.safetensors", FIXTURES / "digits-cnn-fresh.pth"
    assert output(capsys, str(good), "--policy", law)[0] == 0
    code, text = output(capsys, str(bad), "--policy", law, "--only", "WT067")
    assert code == 1
    assert "fc1.weight" in text


def sarif(capsys, *arguments):
    document = json.loads(output(capsys, *arguments, "--format", "sarif")[1])
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    official_sarif().validate(document)
    return document["runs"][0]


@cache
def official_sarif():
    """The validator of the published schema."""
    schema = json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text("utf-8"))
    return jsonschema.Draft4Validator(
        schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )


@cache
def official_junit():
    """The validator of Jenkins' schema."""
    return xmlschema.XMLSchema(str(SCHEMAS / "junit-10.xsd"))


def test_the_published_sarif_schema_refuses_what_is_wrong(capsys, files):
    """Break it once: an unknown level, an unnamed property, a path that is no URI."""
    document = json.loads(output(capsys, files["broken"], "--format", "sarif")[1])
    document["runs"][0]["results"][0]["level"] = "fatal"
    document["runs"][0]["results"][1]["where"] = "here"
    location = document["runs"][0]["results"][1]["locations"][0]["physicalLocation"]
    location["artifactLocation"]["uri"] = "ein modell"
    assert len(list(official_sarif().iter_errors(document))) == 3


@pytest.fixture(scope="module")
def odd_models(tmp_path_factory):
    """A folder of models with odd names, and a policy that accepts and downgrades findings."""
    folder = tmp_path_factory.mktemp("odd")
    names = ["w<&>\"'.weight", "\u2028\x01\x1b\ud7ff\uffff\U0001f600.weight", "a\nb\tc.weight"]
    model = {name: np.full((4, 4), at, np.float32) for at, name in enumerate(names)}
    model["inf.weight"] = np.full((4, 4), np.inf, np.float32)
    model["bn.running_var"] = np.array([-np.inf, np.nan, 1], np.float32)
    first = write(model, folder / "ein modell,%:\u00fc[1]#?.safetensors")
    second = write(sound(), folder / "sound.safetensors")
    law = (
        '[[suppress]]\nrule = "WT004"\nreason = "a <new> & \\u0001 head"\n[severity]\n'
        'WT005 = "note"\n[require]\nmetadata = ["license"]\n[limits]\nbytes = 1\n'
    )
    (folder / "law.toml").write_text(law)
    return first, second, str(folder / "law.toml")


def test_odd_names_paths_and_every_severity_keep_both_published_schemas(capsys, odd_models):
    first, second, law = odd_models
    run_ = sarif(capsys, first, second, "--policy", law)
    assert {result["level"] for result in run_["results"]} == {"error", "warning", "note"}
    assert any("suppressions" in result for result in run_["results"])
    assert any("logicalLocations" not in r["locations"][0] for r in run_["results"])
    _, text = output(capsys, first, second, "--policy", law, "--format", "junit")
    official_junit().validate(text)


def test_rules_are_shown_to_people_not_to_ci(capsys):
    for options in (("--list-rules",), ("--explain", "WT001")):
        for rendering in ("sarif", "junit", "github"):
            assert output(capsys, *options, "--format", rendering)[0] == 2
        assert output(capsys, *options, "--format", "json")[0] == 0


def test_sarif_is_valid_and_complete(capsys, files, tmp_path):
    run_ = sarif(capsys, files["broken"], "--policy", policy(tmp_path, SUPPRESS))
    described = run_["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in described] == [rule.code for rule in rules()]
    assert [result["ruleId"] for result in run_["results"]] == ["WT001", "WT004"]
    for result in run_["results"]:
        assert described[result["ruleIndex"]]["id"] == result["ruleId"]
    nan, zero = run_["results"]
    assert nan["level"] == "error"
    location = nan["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == f"file://{files['broken']}"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "blocks.3.conv.weight"
    assert nan["properties"] == {"index": [3, 2, 1, 0], "value": "NaN"}
    assert "suppressions" not in nan
    assert zero["suppressions"][0]["justification"] == "a new head"


def test_sarif_of_a_clean_model_is_valid(capsys, files):
    assert sarif(capsys, files["sound"])["results"] == []


def test_sarif_uris_are_relative_where_the_path_is(capsys, files, tmp_path, monkeypatch):
    write({"w.weight": np.zeros((4, 4), np.float32)}, tmp_path / "ein modell.safetensors")
    monkeypatch.chdir(tmp_path)
    (result,) = sarif(capsys, "ein modell.safetensors", "--only", "WT004")["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "ein%20modell.safetensors"


SUITE = ("name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id")


def test_junit_keeps_the_rules_of_its_schema(capsys, files, tmp_path):
    """Elements, their order and required attributes, as Ant's schema has them."""
    law = policy(tmp_path, SUPPRESS)
    _, text = output(
        capsys,
        files["broken"],
        files["sound"],
        files["noted"],
        "--policy",
        law,
        "--format",
        "junit",
    )
    official_junit().validate(text)
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    assert [suite.attrib["id"] for suite in root] == ["0", "1", "2"]
    for suite in root:
        assert set(SUITE) <= set(suite.attrib) <= {*SUITE, "skipped"}
        assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}", suite.attrib["timestamp"])
        cases = suite.findall("testcase")
        assert len(suite.find("properties"))  # Jenkins' older schema refuses an empty list
        order = ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
        assert [child.tag for child in suite] == order
        assert int(suite.attrib["tests"]) == len(cases)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
        for case in cases:
            assert set(case.attrib) == {"name", "classname", "time"}
            assert len(case) <= 1
    broken, clean, noted = root
    failure = broken.find("testcase/failure")
    assert failure.attrib["type"] == "error"
    assert "restore the tensor" in failure.attrib["message"]
    assert failure.text == "blocks.3.conv.weight[3, 2, 1, 0] = NaN"
    assert clean.attrib["failures"] == noted.attrib["failures"] == "0"
    assert "WT026" in noted.find("system-out").text


def test_github_annotations_byte_for_byte(capsys, tmp_path, monkeypatch):
    model = {"w.weight": np.zeros((4, 4), np.float32), "50%\n,a:b.weight": np.ones((4, 4), "f4")}
    write(model, tmp_path / "a,b:c.safetensors")
    monkeypatch.chdir(tmp_path)
    code, text = output(
        capsys, "a,b:c.safetensors", "--format", "github", "--only", "WT004", "--only", "WT005"
    )
    assert code == 1
    assert text == (
        "::warning file=a%2Cb%3Ac.safetensors,title=WT004 all-zero::w.weight: all 16 values are 0; "
        "convert it again from the source, or suppress the finding if zero is meant\n"
        "::warning file=a%2Cb%3Ac.safetensors,title=WT005 constant::50%25\\n,a:b.weight: "
        "all 16 values are 1; restore or convert the tensor again\n"
    )


def test_every_rule_documents_itself_and_has_its_own_code(capsys):
    codes = [rule.code for rule in rules()]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in rules()}) == len(codes)
    for rule in rules():
        title, *parts = [part for part in rule.text.strip().split("\n\n") if part]
        assert title == rule.title
        assert title.endswith(".")
        starts = [re.sub(r":.*", "", part.replace("\n", " ")) for part in parts]
        assert starts[:3] == ["Why it is bad", "Example", "How to mend it"], rule.code
        assert rule.severity in SEVERITIES
        assert rule.mend
        code, text = output(capsys, "--explain", rule.code)
        assert code == 0
        assert rule.text.strip() in text


def test_the_list_of_rules_has_them_all(capsys):
    _, text = output(capsys, "--list-rules")
    for rule in rules():
        assert rule.code in text
        assert rule.title in text


def sound_fixtures():
    names = (FIXTURES / "expected.json").read_text()
    return sorted(name for name in json.loads(names) if not name.startswith("odd/"))


@pytest.mark.parametrize("name", sound_fixtures())
def test_no_sound_fixture_has_an_error(name):
    report = wtool.check(str(FIXTURES / name))
    assert report.totals["errors"] == 0


@pytest.mark.parametrize("name", ["digits-cnn-training.pth", "digits-cnn.keras", "digits-cnn.npz"])
def test_damaged_files_never_end_in_a_bug(capsys, tmp_path, name):
    """Bytes changed or cut at random: an answer, or an error of the file; for doctor too."""
    draw = np.random.default_rng(3)
    whole = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for turn in range(40):
        data = bytearray(whole)
        for at in draw.integers(len(data), size=1 + turn % 8):
            data[at] = draw.integers(256)
        if turn % 5 == 0:
            at = draw.integers(len(data) - 3000, len(data))
            data = data[:at] if turn % 2 else data[: at // 2]
        path.write_bytes(data)
        for command in ("check", "doctor"):
            assert run([command, "--quiet", str(path)]) in (0, 1, 3, 4)
    capsys.readouterr()
