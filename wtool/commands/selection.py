"""`--select` and `--exclude`: tensors by glob, or by regular expression with `re:`."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from wtool.checkpoint import Checkpoint
from wtool.errors import UsageError

# Names longer than this are not matched by regular expressions from the command line.
MAX_PATTERN = 4096


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the command line as one that must match a whole name.

    Globs: `*` any characters (dots included), `?` one, `[seq]`. `re:` starts a regular expression,
    searched anywhere in the name. UsageError where it is none.
    """
    if len(pattern) > MAX_PATTERN:
        raise UsageError(
            "pattern too long", expected=f"{MAX_PATTERN} characters", found=len(pattern)
        )
    try:
        if pattern.startswith("re:"):
            return re.compile(f"(?s:.*?)(?:{pattern[3:]})(?s:.*)")
        return re.compile(fnmatch.translate(pattern))
    except re.error as error:
        raise UsageError(f"bad pattern '{pattern}': {error}") from error


def each(texts: str | Iterable[str]) -> tuple[str, ...]:
    """What a keyword names that takes several texts; one alone is one, not its letters."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


def matches(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that `pattern` selects; UsageError where there is none."""
    compiled = compile_pattern(pattern)
    chosen = [name for name in names if compiled.fullmatch(name)]
    if not chosen:
        raise UsageError(
            f"pattern '{pattern}' matches no tensor", hint="wtool ls MODEL lists the names"
        )
    return chosen


def choose(
    checkpoint: Checkpoint, select: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Checkpoint:
    """The checkpoint with only the tensors that are selected and not excluded, in stored order.

    UsageError where a pattern matches nothing: a typing error must not pass for a clean result.
    """
    select, exclude = each(select), each(exclude)
    if not select and not exclude:
        return checkpoint
    names = list(checkpoint.tensors)
    chosen = {name for pattern in select for name in matches(pattern, names)}
    if not select:
        chosen = set(names)
    for pattern in exclude:
        chosen.difference_update(matches(pattern, names))
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name in chosen}
    return dataclasses.replace(checkpoint, tensors=kept)


def keep_names(
    select: Sequence[str], exclude: Sequence[str], *, strict: bool = True
) -> Callable[[Iterable[str]], set[str]]:
    """A function from names to those that the patterns select and do not exclude.

    strict: it raises UsageError where a pattern matches none of the names.
    """
    chosen = [(compile_pattern(p), p) for p in each(select)]
    dropped = [(compile_pattern(p), p) for p in each(exclude)]

    def keep(names: Iterable[str]) -> set[str]:
        every = set(names)
        for compiled, text in (*chosen, *dropped):
            if strict and not any(compiled.fullmatch(name) for name in every):
                raise UsageError(f"pattern '{text}' matches no tensor of either")
        return {
            name
            for name in every
            if (not chosen or any(compiled.fullmatch(name) for compiled, _ in chosen))
            and not any(compiled.fullmatch(name) for compiled, _ in dropped)
        }

    return keep
