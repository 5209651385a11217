"""The container is one that its framework has replaced.

Why it is bad: it cannot be mapped or read in part, newer versions read it by a slow path, if at
all, and some lose ties or names in it.

Example: a torch file from before 1.6 (a plain pickle), a TensorFlow V1 checkpoint.

How to mend it: `wtool convert FILE OUT` writes the current container.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject

LEGACY = {
    "torch-legacy": "a torch file from before 1.6",
    "torch-tar": "a torch tar archive of 2016",
    "tensorflow_v1": "a TensorFlow V1 checkpoint",
    "keras_h5": "a whole Keras model in HDF5",
}


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each file in an old container; only a note for Keras HDF5."""
    for path, checkpoint in subject.parts():
        what = LEGACY.get(checkpoint.format)
        if what:
            yield Finding(
                f"the container is {what}",
                value=checkpoint.format,
                file=path,
                severity="note" if checkpoint.format == "keras_h5" else None,
            )


RULE = Rule(
    "WT051",
    "legacy-container",
    "warning",
    "write the current container by wtool convert",
    find,
    __doc__,
)
