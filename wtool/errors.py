"""The error tree: every way in which wtool says no, each class with its exit code.

An error is one line that names the file, the tensor, the offset, what was expected and what was
found. The place that knows a fact gives it; `locate` adds what only an outer place knows (the path,
the tensor) without touching what is already there.
"""

from __future__ import annotations

import os

# What is expected and what was found are short texts.
MAX_FACT_CHARACTERS = 1000


class WtoolError(Exception):
    """Base of all errors that wtool raises on purpose; `exit_code` is the process's answer.

    Args are the facts of the case, all optional: `path` of the file, `tensor` name, `offset` in
    bytes from the start of the file, `expected` and `found` as short texts with numbers, `hint`
    what to do.
    """

    exit_code = 70

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else os.fspath(path)
        self.tensor = tensor
        self.offset = offset
        self.expected = expected
        self.found = found
        self.hint = hint

    def locate(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        offset: int | None = None,
    ) -> WtoolError:
        """Fill the facts that the raising place could not know; returns self, to be raised."""
        if self.path is None and path is not None:
            self.path = os.fspath(path)
        if self.tensor is None:
            self.tensor = tensor
        if self.offset is None:
            self.offset = offset
        return self

    def __str__(self) -> str:
        parts = []
        if self.path is not None:
            parts.append(f"{self.path or repr('')}:")  # an empty variable of a shell
        if self.tensor is not None:
            parts.append(f"tensor '{shorten(self.tensor)}':")
        if self.offset is not None:
            parts.append(f"at byte {self.offset}:")
        text = self.message
        if self.expected is not None:
            text += f": expected {_shown(self.expected)}"
        if self.found is not None:
            text += f"{':' if self.expected is None else ','} found {_shown(self.found)}"
        parts.append(text)
        line = " ".join(parts)
        if self.hint:
            line += f" ({self.hint})"
        return escape_controls(line)


class UsageError(WtoolError):
    """The command was called wrongly: unknown option value, pattern that matches nothing."""

    exit_code = 2


class InputError(WtoolError):
    """The input cannot be read."""

    exit_code = 3


class MissingInput(InputError):
    """A file or shard does not exist or may not be opened."""


class TruncatedInput(InputError):
    """The file ends before the bytes that it promises, or shrank while it was read."""


class MalformedInput(InputError):
    """The bytes break the rules of their format."""


class UnsafeInput(InputError):
    """The file asks for what is never done: to leave its folder, run code, take any memory."""


class UnknownFormat(InputError):
    """No reader claims the content."""


class UnsupportedError(WtoolError):
    """The input is sound, but wtool or the target cannot hold part of it."""

    exit_code = 4


class OutputError(WtoolError):
    """The output cannot be written as asked."""

    exit_code = 5


class OutputExists(OutputError):
    """The target exists and --force was not given."""


class LossError(OutputError):
    """Writing would lose values, ties, names or extras that nobody allowed to lose."""


def _shown(fact: object) -> str:
    """A fact as text. Containers within one are not spelled out: a few bytes can describe 2^60.

    Python refuses to print integers of more than 4,300 digits.
    """
    if isinstance(fact, list | tuple) and any(isinstance(item, list | tuple) for item in fact):
        return f"a {type(fact).__name__} of {len(fact)} that holds others"
    try:
        return shorten(str(fact), MAX_FACT_CHARACTERS)
    except ValueError:
        return "a number of thousands of digits"


def escape_controls(text: str) -> str:
    """`text` with control characters and lone surrogates escaped: no name drives a terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def counted(number: int, one: str, many: str | None = None) -> str:
    """`number` and what it counts, in words for people: "1 tensor", "1,234 tensors".

    `many` where it is not `one` with an s: counted(n, "tensor is", "tensors are").
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shorten(name: str, limit: int = 200) -> str:
    """`name`, cut in the middle with its length where it is longer than `limit` characters."""
    if len(name) <= limit:
        return name
    half = limit // 2
    return f"{name[:half]}...{name[-half:]} [{len(name)} characters]"
