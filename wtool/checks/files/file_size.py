"""A file is larger than hosts accept, or than the policy allows.

Why it is bad: model hubs refuse single files above 50 GB, downloads cannot be resumed by part, and
loading needs the file whole.

Example: `model.safetensors` is 68 GB.

How to mend it: split it: `wtool convert FILE OUT --max-shard-size 5GB`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject

# Hugging Face's limit for a single file.
LIMIT = 50_000_000_000


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each file above [limits] file_bytes, or above 50 GB."""
    stated = subject.policy.limits.get("file_bytes")
    limit = LIMIT if stated is None else stated
    for path in subject.checkpoint.files:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        if size > limit:
            yield Finding(
                f"{size:,} bytes, at most {limit:,} are allowed",
                value=size,
                file=path,
                severity=None if stated is None else "error",
            )


RULE = Rule(
    "WT053",
    "file-size",
    "warning",
    "split it into shards by wtool convert",
    find,
    __doc__,
)
