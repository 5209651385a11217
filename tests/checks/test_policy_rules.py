"""Policies: what they allow and ask for, how they accept findings, and how nonsense is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from planting import found, outcomes, sound, write

from wtool.checks.policy import Policy, Suppression, read_policy
from wtool.errors import UsageError

COUNT = sum(v.size for n, v in sound().items() if "running" not in n and "tracked" not in n)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    return write(sound(), folder / "m.safetensors", license="apache-2.0")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(containers=("safetensors",)), set()),
        (Policy(containers=("torch-zip",)), {("WT060", None)}),
        (Policy(dtypes=("float32", "int64")), set()),
        (
            Policy(dtypes=("float32",)),
            {("WT061", f"blocks.{i}.norm.num_batches_tracked") for i in range(6)},
        ),
        (Policy(limits={"parameters": COUNT, "tensors": len(sound())}), set()),
        (Policy(limits={"parameters": COUNT - 1}), {("WT062", None)}),
        (Policy(limits={"bytes": 1000}), {("WT062", None)}),
        (Policy(limits={"tensors": 3}), {("WT062", None)}),
        (Policy(parameters=COUNT), set()),
        (Policy(parameters=COUNT + 1), {("WT063", None)}),
        (Policy(metadata=("license",)), set()),
        (Policy(metadata=("framework_version",)), {("WT064", None)}),
        (Policy(required=("head.*", "re:conv")), set()),
        (Policy(required=("lm_head.*",)), {("WT065", None)}),
        (Policy(forbidden=("teacher.*",)), set()),
        (Policy(forbidden=("re:^stem.bias$",)), {("WT066", "stem.bias")}),
    ],
)
def test_a_policy_finds_what_it_forbids(model, policy, expected):
    assert found(model, policy) == expected


def test_a_manifest_is_verified_by_who_can(model):
    policy = Policy(manifest="release.json")
    assert found(model, policy, verify=lambda checkpoint, path: []) == set()
    lines = [("head.bias", f"differs from {policy.manifest}")]
    (hit,) = outcomes(model, policy, verify=lambda checkpoint, path: lines)
    assert (hit.rule.code, hit.finding.tensor) == ("WT067", "head.bias")


def test_a_suppression_accepts_one_rule_in_tensors_that_match(tmp_path):
    broken = sound()
    broken["head.weight"] *= 0
    broken["stem.weight"] *= 0
    path = write(broken, tmp_path / "m.safetensors")
    policy = Policy(suppress=(Suppression("WT004", "starts at zero", "head.*"),))
    assert {(o.finding.tensor, o.suppressed) for o in outcomes(path, policy)} == {
        ("head.weight", "starts at zero"),
        ("stem.weight", None),
    }


def test_a_policy_file_is_read(tmp_path):
    path = tmp_path / "release.toml"
    path.write_text(
        """
        [check]
        fail_on = "error"
        ignore = ["WT012"]
        [severity]
        WT004 = "error"
        [[suppress]]
        rule = "WT010"
        tensor = "head.*"
        reason = "pruned on purpose"
        [allow]
        containers = ["safetensors"]
        dtypes = ["float32", "int64"]
        [limits]
        parameters = 100
        shard_bytes = 5000000000
        [expect]
        parameters = 99
        [require]
        metadata = ["license"]
        tensors = ["head.*"]
        manifest = "release.json"
        [forbid]
        tensors = ["teacher.*"]
        """
    )
    assert read_policy(str(path)) == Policy(
        path=str(path),
        fail_on="error",
        ignore=("WT012",),
        severity={"WT004": "error"},
        suppress=(Suppression("WT010", "pruned on purpose", "head.*"),),
        containers=("safetensors",),
        dtypes=("float32", "int64"),
        limits={"parameters": 100, "shard_bytes": 5_000_000_000},
        parameters=99,
        metadata=("license",),
        required=("head.*",),
        forbidden=("teacher.*",),
        manifest=str(tmp_path / "release.json"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[suppress]]\nrule = 'WT010'", "without a reason"),
        ("[[suppress]]\nrule = 'WT010'\nreason = '  '", "without a reason"),
        ("[[suppress]]\nrule = 'zero'\nreason = 'x'", "not the code of a rule"),
        ("[allowed]\ndtypes = []", "unknown table [allowed]"),
        ("[allow]\ntypes = []", "unknown key allow.types"),
        ("[allow]\ndtypes = ['float31']", "allow.dtypes"),
        ("[severity]\nWT004 = 'bad'", "severity.WT004"),
        ("[limits]\nparameters = -1", "limits.parameters"),
        ("[forbid]\ntensors = ['re:(']", "bad pattern"),
        ("[[suppress]]\nrule = 'WT010'\nreason = 'x'\ntensor = 're:('", "bad pattern"),
        ("limits = 3", "not a table"),
        ("x = [", "not TOML"),
        ("[check]\nfail_on = 'note'", "check.fail_on"),
    ],
)
def test_nonsense_in_a_policy_is_refused(tmp_path, text, words):
    path = tmp_path / "release.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_policy(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_policy_may_start_with_a_byte_order_mark(tmp_path):
    """Editors of Windows write one; TOML itself knows none."""
    path = tmp_path / "release.toml"
    path.write_bytes(b"\xef\xbb\xbf[check]\r\nfail_on = 'error'\r\n")
    assert read_policy(str(path)).fail_on == "error"
