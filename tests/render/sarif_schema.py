"""The part of SARIF 2.1.0 that wtool writes, as a JSON schema that allows nothing else.

Written from the standard (OASIS, errata 01), section by section: stricter than the official schema,
which allows every optional property. It is not a copy of it.
"""

from __future__ import annotations

from typing import Any


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with exactly these properties allowed."""
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
MESSAGE = closed(["text"], text=TEXT)  # 3.11, 3.12
LEVEL = {"enum": ["none", "note", "warning", "error"]}  # 3.27.10
RULE = closed(  # 3.49
    ["id"],
    id=TEXT,
    name=TEXT,
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    defaultConfiguration=closed([], level=LEVEL),
)
ARTIFACT = closed(["uri"], uri={"type": "string", "format": "uri-reference"})  # 3.4
LOCATION = closed(  # 3.28
    [],
    physicalLocation=closed(["artifactLocation"], artifactLocation=ARTIFACT),
    logicalLocations={
        "type": "array",
        "uniqueItems": True,
        "items": closed([], fullyQualifiedName={"type": "string"}, kind={"type": "string"}),
    },
)
SUPPRESSION = closed(  # 3.35
    ["kind"],
    kind={"enum": ["inSource", "external"]},
    status={"enum": ["accepted", "underReview", "rejected"]},
    justification={"type": "string"},
)
RESULT = closed(  # 3.27
    ["message", "ruleId"],
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": -1},
    level=LEVEL,
    message=MESSAGE,
    locations={"type": "array", "items": LOCATION},
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    suppressions={"type": "array", "uniqueItems": True, "items": SUPPRESSION},
    properties={"type": "object"},
)
DRIVER = closed(["name"], name=TEXT, rules={"type": "array", "uniqueItems": True, "items": RULE})
RUN = closed(  # 3.14
    ["tool"],
    tool=closed(["driver"], driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": RESULT},
)
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    **closed(  # 3.13
        ["version", "runs"],
        **{"$schema": {"type": "string", "format": "uri"}},
        version={"const": "2.1.0"},
        runs={"type": "array", "items": RUN},
    ),
}
