"""New names for the tensors of a checkpoint: prefixes stripped, patterns replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.shaping import renamed, with_tensors
from wtool.errors import UsageError, shorten

# Rules longer than this are not compiled.
MAX_RULE = 4096


def strip_prefixes(checkpoint: Checkpoint, prefixes: Sequence[str]) -> Checkpoint:
    """Each prefix, as it is written, taken from the front of the names that have it, in turn.

    UsageError where no name has it, or two tensors would get one name.
    """
    for prefix in prefixes:
        checkpoint = _apply(
            checkpoint,
            lambda name, prefix=prefix: name.removeprefix(prefix),  # type: ignore[misc]
            f"no name starts with '{shorten(prefix)}'",
        )
    return checkpoint


def rename(checkpoint: Checkpoint, rules: Sequence[str]) -> Checkpoint:
    """The rules `OLD=NEW` applied one after the other to every name.

    OLD is a glob that must match the whole name; each `*` or `?` of NEW stands for what the next
    one of OLD matched. Or OLD is `re:` and a regular expression, replaced by NEW wherever it is
    found; NEW may say `\\1` or `\\g<name>`. The last `=` separates the two.
    UsageError for a rule that is none or changes nothing, and where two tensors get one name.
    """
    for rule in rules:
        checkpoint = _apply(
            checkpoint, compile_rule(rule), f"rule '{shorten(rule)}' changes no name"
        )
    return checkpoint


def compile_rule(rule: str) -> Callable[[str], str]:
    """The function from old to new name that a rule `OLD=NEW` means; see `rename`."""
    old, equals, new = rule.rpartition("=")
    if not equals or not old or len(rule) > MAX_RULE:
        raise UsageError(
            "bad rule to rename", expected=f"OLD=NEW within {MAX_RULE} characters", found=rule
        )
    if old.startswith("re:"):
        return _regular_rule(old[3:], new, rule)
    if "*" not in old and "?" not in old:
        return lambda name: new if name == old else name
    return _glob_rule(old, new, rule)


def _regular_rule(old: str, new: str, rule: str) -> Callable[[str], str]:
    try:
        pattern = re.compile(old)
        # Groups that do not exist are found here, and not at the first name that matches.
        re.compile(f"(?:{old})|").sub(new, "")
    except (re.error, IndexError) as error:
        raise UsageError(f"bad rule '{shorten(rule)}': {error}") from error
    return lambda name: pattern.sub(new, name)


def _glob_rule(old: str, new: str, rule: str) -> Callable[[str], str]:
    groups = {"*": "(.*)", "?": "(.)"}
    pattern = re.compile("".join(groups.get(c, re.escape(c)) for c in old), re.DOTALL)
    pieces = re.split(r"[*?]", new)
    if len(pieces) - 1 > pattern.groups:
        raise UsageError(
            f"bad rule '{shorten(rule)}': more wildcards on the right",
            expected=f"at most {pattern.groups}",
            found=len(pieces) - 1,
        )

    def apply(name: str) -> str:
        match = pattern.fullmatch(name)
        if match is None:
            return name
        found = match.groups()
        ends = [found[i] + piece for i, piece in enumerate(pieces[1:])]
        return pieces[0] + "".join(ends)

    return apply


def _apply(checkpoint: Checkpoint, change: Callable[[str], str], unchanged: str) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    for tensor in checkpoint:
        name = change(tensor.name)
        if name in tensors:
            raise UsageError(
                f"two tensors would be called '{shorten(name)}'",
                found=f"'{shorten(came_from[name])}' and '{shorten(tensor.name)}'",
            )
        came_from[name] = tensor.name
        tensors[name] = tensor if name == tensor.name else renamed(tensor, name)
    if all(new == old for new, old in came_from.items()):
        raise UsageError(unchanged, hint="wtool ls MODEL lists the names")
    return with_tensors(checkpoint, tensors.values())
