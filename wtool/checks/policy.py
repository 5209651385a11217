"""The release policy: what a TOML file says about rules, suppressions, limits and requirements.

[check]     fail_on = "warning", only = [...], ignore = [...]
[severity]  WT040 = "error"
[[suppress]]  rule = "WT010", tensor = "head.*", reason = "pruned on purpose"
[allow]     containers = [...], dtypes = [...]
[limits]    bytes, file_bytes, shard_bytes, tensors, parameters = most of each
[expect]    parameters = exactly so many
[require]   metadata = [...], tensors = [...], manifest = "release.json"
[forbid]    tensors = [...]

Unknown tables and keys are refused: a typing error must not pass for a clean result.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wtool.checks import SEVERITIES
from wtool.dtypes import DTYPES
from wtool.errors import UsageError
from wtool.sources import FileSource, read_bytes

MAX_POLICY_NBYTES = 1 << 20
LIMITS = ("bytes", "file_bytes", "shard_bytes", "tensors", "parameters")
CODE = re.compile(r"WT\d{3}")


@dataclass(frozen=True, slots=True)
class Suppression:
    """Findings that are accepted: of one rule, in tensors that match (all without a pattern)."""

    rule: str
    reason: str
    tensor: str | None = None


@dataclass(frozen=True)
class Policy:
    """What a release must be. Every part is optional; without any, the rules' own defaults hold."""

    path: str | None = None
    fail_on: str | None = None
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)
    suppress: tuple[Suppression, ...] = ()
    containers: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    metadata: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    manifest: str | None = None


_TABLES = {
    "check": ("fail_on", "only", "ignore"),
    "allow": ("containers", "dtypes"),
    "limits": LIMITS,
    "expect": ("parameters",),
    "require": ("metadata", "tensors", "manifest"),
    "forbid": ("tensors",),
}


def name_matches(pattern: str, name: str) -> bool:
    """Whether a glob matches the whole name, or a regular expression after "re:" any part of it."""
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern)


def read_policy(path: str) -> Policy:
    """The policy in a TOML file; UsageError that names the table and key where it says nonsense."""
    source = FileSource(path)
    if source.size > MAX_POLICY_NBYTES:
        raise UsageError(
            "policy too long", path=path, expected=f"{MAX_POLICY_NBYTES} bytes", found=source.size
        )
    try:
        document = tomllib.loads(bytes(read_bytes(source, 0, source.size)).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"policy is not TOML: {error}", path=path) from error
    try:
        return _policy(document, path)
    except UsageError as error:
        raise error.locate(path=path) from error.__cause__


def _policy(document: Mapping[str, Any], path: str) -> Policy:
    tables: dict[str, Mapping[str, Any]] = {}
    for name, value in document.items():
        if name not in (*_TABLES, "severity", "suppress"):
            known = ", ".join((*_TABLES, "severity", "suppress"))
            raise UsageError(f"policy has an unknown table [{name}]", expected=known)
        if name == "suppress":
            continue
        if type(value) is not dict:
            raise UsageError(f"policy: {name} is not a table", expected=f"[{name}]")
        for key in value:
            if name != "severity" and key not in _TABLES[name]:
                raise UsageError(
                    f"policy has an unknown key {name}.{key}", expected=", ".join(_TABLES[name])
                )
        tables[name] = value
    check, allow = tables.get("check", {}), tables.get("allow", {})
    require = tables.get("require", {})
    manifest = _text(require, "require", "manifest")
    if manifest is not None and not os.path.isabs(manifest):
        manifest = os.path.join(os.path.dirname(path), manifest)
    return Policy(
        path=path,
        fail_on=_one_of(check.get("fail_on"), "check.fail_on", SEVERITIES[1:]),
        only=_codes(_texts(check, "check", "only")),
        ignore=_codes(_texts(check, "check", "ignore")),
        severity={
            _code(code): _one_of(level, f"severity.{code}", SEVERITIES) or ""
            for code, level in tables.get("severity", {}).items()
        },
        suppress=_suppressions(document.get("suppress", [])),
        containers=_texts(allow, "allow", "containers"),
        dtypes=tuple(
            _one_of(name, "allow.dtypes", tuple(DTYPES)) or ""
            for name in _texts(allow, "allow", "dtypes")
        ),
        limits={
            key: _whole(value, f"limits.{key}") for key, value in tables.get("limits", {}).items()
        },
        parameters=next(
            (_whole(value, "expect.parameters") for value in tables.get("expect", {}).values()),
            None,
        ),
        metadata=_texts(require, "require", "metadata"),
        required=_patterns(require, "require"),
        forbidden=_patterns(tables.get("forbid", {}), "forbid"),
        manifest=manifest,
    )


def _suppressions(entries: Any) -> tuple[Suppression, ...]:
    if type(entries) is not list:
        raise UsageError("policy: suppress is not a list of tables", expected="[[suppress]]")
    found = []
    for entry in entries:
        if type(entry) is not dict or not set(entry) <= {"rule", "tensor", "reason"}:
            raise UsageError(
                "policy: a suppression has other keys", expected="rule, reason, and maybe tensor"
            )
        reason = _text(entry, "suppress", "reason")
        if not reason or not reason.strip():
            raise UsageError(
                "policy: a suppression without a reason",
                found=str(entry.get("rule")),
                hint='say why: reason = "..."',
            )
        rule = _code(_text(entry, "suppress", "rule") or "")
        tensor = _text(entry, "suppress", "tensor")
        found.append(Suppression(rule, reason, None if tensor is None else _pattern(tensor)))
    return tuple(found)


def _code(text: str) -> str:
    if not CODE.fullmatch(text):
        raise UsageError("not the code of a rule", expected="WT and three digits", found=text)
    return text


def _codes(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_code(text) for text in texts)


def _text(table: Mapping[str, Any], name: str, key: str) -> str | None:
    value = table.get(key)
    if value is not None and type(value) is not str:
        raise UsageError(f"policy: {name}.{key} is not text", found=type(value).__name__)
    return value


def _texts(table: Mapping[str, Any], name: str, key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if type(value) is not list or any(type(item) is not str for item in value):
        raise UsageError(f"policy: {name}.{key} is not a list of texts")
    return tuple(value)


def _patterns(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(_pattern(text) for text in _texts(table, name, "tensors"))


def _pattern(text: str) -> str:
    try:
        re.compile(text.removeprefix("re:") if text.startswith("re:") else "")
    except re.error as error:
        raise UsageError(f"policy: bad pattern '{text}': {error}") from error
    return text


def _one_of(value: Any, name: str, choices: tuple[str, ...]) -> str | None:
    if value is not None and value not in choices:
        raise UsageError(
            f"policy: bad value of {name}", expected=", ".join(choices), found=repr(value)[:80]
        )
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise UsageError(f"policy: {name} is not a whole number from 0 on", found=repr(value)[:80])
    return value
