"""Shards are numbered, named or sized otherwise than their index and the policy say.

Why it is bad: `-00002-of-00004` beside three files means that a shard is lost, or that shards of
two saves lie together; a shard above the limit fits no memory plan.

Example: the index names 3 shards, their names say `of-00004`.

How to mend it: write all shards again (`wtool convert --max-shard-size`), and delete the old ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject

_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\..+)")


def find(subject: Subject) -> Iterator[Finding]:
    """Findings for the numbers in shard names, strays of the same name, and sizes."""
    checkpoint = subject.checkpoint
    if checkpoint.format != "sharded":
        return
    shards = list(checkpoint.files[1:])
    matches = [m for m in (_NUMBERED.fullmatch(os.path.basename(path)) for path in shards) if m]
    for match, path in zip(matches, shards, strict=False):
        if int(match[3]) != len(shards):
            yield Finding(
                f"its name says {int(match[3])} shards, the index has {len(shards)}",
                value=int(match[3]),
                file=path,
            )
            break
    if matches:
        stem, suffix = matches[0][1], matches[0][4]
        folder = os.path.dirname(shards[0])
        known = {os.path.basename(path) for path in shards}
        for name in sorted(os.listdir(folder or ".")):
            other = _NUMBERED.fullmatch(name)
            if other and other[1] == stem and other[4] == suffix and name not in known:
                yield Finding(
                    "lies beside the shards, and the index does not name it",
                    file=os.path.join(folder, name),
                )
    limit = subject.policy.limits.get("shard_bytes")
    for path in shards if limit is not None else ():
        size = os.path.getsize(path)
        if size > (limit or 0):
            yield Finding(
                f"{size:,} bytes, the policy allows {limit:,} for a shard",
                value=size,
                file=path,
                severity="error",
            )


RULE = Rule(
    "WT054",
    "sharding",
    "warning",
    "write all shards again, and delete the old ones",
    find,
    __doc__,
)
