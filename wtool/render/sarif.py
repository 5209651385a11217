"""The findings of a check as SARIF 2.1.0, for code scanning.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0, errata 01. A tensor is a logical
location; the file is the artifact. Severities keep their names: note, warning, error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from wtool.errors import escape_controls
from wtool.report import Report

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def render(report: Report) -> Iterator[str]:
    """One run: the rules that were asked, and a result for each row."""
    rules = [_rule(facts) for facts in report.attachments.get("rules", ())]
    places = {rule["id"]: index for index, rule in enumerate(rules)}
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "wtool", "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(row, places) for row in report.rows],
            }
        ],
    }
    yield json.dumps(log, indent=2, allow_nan=False) + "\n"


def _rule(facts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": facts["code"],
        "name": "".join(word.capitalize() for word in facts["name"].split("-")),
        "shortDescription": {"text": facts["title"]},
        "fullDescription": {"text": facts["text"]},
        "help": {"text": facts["text"]},
        "defaultConfiguration": {"level": facts["severity"]},
    }


def _result(row: Mapping[str, Any], places: Mapping[str, int]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(row["file"])}}
    }
    if row.get("tensor"):
        name = escape_controls(row["tensor"])
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "member"}]
    text = row["message"] if not row.get("tensor") else f"{row['tensor']}: {row['message']}"
    result: dict[str, Any] = {"ruleId": row["rule"]}
    if row["rule"] in places:
        result["ruleIndex"] = places[row["rule"]]
    result |= {
        "level": row["severity"],
        "message": {"text": escape_controls(text)},
        "locations": [location],
        "partialFingerprints": {"wtool/v1": _fingerprint(row)},
    }
    facts = {key: row[key] for key in ("index", "value") if key in row}
    if facts:
        result["properties"] = {key: _plain(value) for key, value in facts.items()}
    if "suppressed" in row:
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": row["suppressed"]}
        ]
    return result


def _fingerprint(row: Mapping[str, Any]) -> str:
    """Equal for the same rule and tensor of a file of the same name, whatever the numbers say."""
    parts = (row["rule"], os.path.basename(row["file"]), row.get("tensor") or "")
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32]


def _uri(path: str) -> str:
    """A path as a URI reference; an absolute one as `file:`."""
    text = quote(os.fsencode(path))
    return f"file://{text}" if os.path.isabs(path) else text


def _plain(value: Any) -> Any:
    """JSON has no infinities."""
    return str(value) if isinstance(value, float) and value - value != 0 else value
