"""An object of some Python class is stored beside the tensors.

Why it is bad: it can be rebuilt only where that class can be imported, in that version; the file
breaks when the code is moved or renamed.

Example: `hyper_parameters.scheduler` is a `mylib.schedules.Cosine`.

How to mend it: store the object's plain values (a dictionary of numbers and texts) instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import extra_nodes
from wtool.checks.subject import Subject
from wtool.encodings.pickle_nodes import Call

# Values of the standard library and NumPy that every program can rebuild.
_PLAIN = ("collections.", "builtins.", "_codecs.", "pathlib.", "datetime.", "numpy.", "torch.")


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each class, with the first place where an object of it is."""
    for path, checkpoint in subject.parts():
        if not checkpoint.globals or checkpoint.format == "torchscript":
            continue
        places: dict[str, list[str]] = {}
        for key, node in extra_nodes(checkpoint):
            if isinstance(node, Call) and node.full and not node.full.startswith(_PLAIN):
                places.setdefault(node.full, []).append(key)
        for name, keys in places.items():
            yield Finding(
                f"'{keys[0]}' holds an object of class '{name}' ({len(keys):,} in all)",
                value=name,
                file=path,
            )


RULE = Rule(
    "WT041",
    "unknown-object",
    "warning",
    "store its plain values instead, or use wtool convert --drop-extras",
    find,
    __doc__,
)
