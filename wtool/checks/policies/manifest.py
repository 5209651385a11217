"""The model does not verify against the manifest that the policy names.

Why it is bad: these are not the weights that were signed off.

Example: `[require] manifest = "release.json"`, and `fc.weight` differs from its digest.

How to mend it: publish the file that the manifest describes, or write a new manifest of what was
signed off (`wtool manifest`); `wtool verify MODEL MANIFEST` shows every difference.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.errors import UsageError


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each line that the verification gives."""
    manifest = subject.policy.manifest
    if manifest is None:
        return
    if subject.verify is None:
        raise UsageError("the policy names a manifest, and nothing here can verify it")
    for tensor, message in subject.verify(subject.checkpoint, manifest):
        yield Finding(message, tensor)


RULE = Rule(
    "WT067",
    "manifest",
    "error",
    "publish the file that the manifest describes; wtool verify shows every difference",
    find,
    __doc__,
)
