"""The file holds absolute paths of the machine that wrote it.

Why it is bad: they tell strangers how the author's disks, projects and data sets are named, and
make the same training on two machines give two files.

Example: `args.data_dir` is `/scratch/alice/imagenet-clean`.

How to mend it: save without the arguments of the run, or with relative paths; `wtool convert
--drop-extras` leaves out everything that is not a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import texts
from wtool.checks.subject import Subject

# Roots of common systems, drive letters, and network shares.
PATH = re.compile(
    r"(?<![\w.:/\\])(?:/(?:home|Users|root|mnt|data|datasets|tmp|var|opt|scratch|workspace|work|"
    r"content|kaggle|gpfs|lustre|nfs|usr|srv|private|Volumes|media|cluster|storage|fsx|shared)"
    r"/[^\s\"'<>|,;]{1,200}|[A-Za-z]:\\[^\s\"'<>|]{1,200}|\\\\[\w.-]{1,64}\\[^\s\"'<>|]{1,200})"
)


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each entry with paths, with the first of them."""
    for path, checkpoint in subject.parts():
        seen: set[str] = set()
        for key, text in texts(checkpoint):
            match = None if key in seen else PATH.search(text)
            if match:
                seen.add(key)
                yield Finding(
                    f"'{key}' holds the absolute path {match[0]}", value=match[0], file=path
                )


RULE = Rule(
    "WT042",
    "absolute-path",
    "warning",
    "save without the run's arguments, or use wtool convert --drop-extras",
    find,
    __doc__,
)
