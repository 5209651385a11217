"""Names carry the prefix of a wrapper that training put around the model.

Why it is bad: `module.` (DataParallel), `_orig_mod.` (torch.compile) and the like are not in the
model's own names: loading fails, or with `strict=False` loads nothing and says nothing.

Example: all 314 names begin with `_orig_mod.module.`.

How to mend it: save the inner model (`model.module.state_dict()`), or strip the prefix: `wtool
convert FILE OUT --strip-prefix _orig_mod.`.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject

# Components that only wrappers put into a name, wherever it stands...
WRAPPERS = frozenset(
    (
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_flat_param_module",
    )
)
# ...and one that models use inside, but not at the top.
TOP = "module"


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each prefix: how many names have it, the first of them."""
    seen: dict[str, list[str]] = {}
    for name in subject.checkpoint.tensors:
        prefix = wrapper_of(name)
        if prefix:
            seen.setdefault(prefix, []).append(name)
    total = len(subject.checkpoint.tensors)
    for prefix, names in seen.items():
        which = f"all {total:,}" if len(names) == total else f"{len(names):,} of {total:,}"
        yield Finding(f"{which} names carry '{prefix}.'", names[0], value=prefix)


def wrapper_of(name: str) -> str:
    """The wrappers' components in a name, joined by dots; "" where it has none."""
    parts = name.split(".")[:-1]
    found: list[str] = []
    for place, part in enumerate(parts):
        if part in WRAPPERS or (part == TOP and len(found) == place):
            found.append(part)
    return ".".join(found)


RULE = Rule(
    "WT022",
    "leftover-prefix",
    "warning",
    "save the inner model, or use wtool convert --strip-prefix",
    find,
    __doc__,
)
