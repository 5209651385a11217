"""Fields of a JSON object taken out one by one, each checked; what is left over is an error."""

from __future__ import annotations

import re
from typing import Any

from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput
from wtool.extents import check_shape
from wtool.kernels.digest import ALGORITHMS

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Fields:
    """The fields of one JSON object of a manifest; `place` is what an error calls it.

    Every method raises MalformedInput where the field is missing or of another form; `close` where
    a field was not taken.
    """

    def __init__(self, value: object, place: str) -> None:
        if type(value) is not dict:
            raise MalformedInput(f"{place} is no object", found=type(value).__name__)
        self._left: dict[str, Any] = dict(value)
        self.place = place

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def text(self, key: str, choices: tuple[str, ...] | None = None) -> str:
        """A string, one of `choices` where given."""
        value = self._take(key, str)
        if choices is not None and value not in choices:
            raise MalformedInput(
                f"{self.place}: unknown {key}", expected=", ".join(choices), found=value
            )
        return str(value)

    def optional_text(self, key: str) -> str | None:
        """A string, None where the field is missing or null."""
        return None if self._left.get(key) is None and self._drop(key) else self.text(key)

    def number(self, key: str) -> int:
        """An integer from 0 on."""
        value: int = self._take(key, int)
        if value < 0:
            raise MalformedInput(f"{self.place}: negative {key}", found=value)
        return value

    def flag(self, key: str) -> bool:
        """true, or false where the field is missing."""
        return bool(self._take(key, bool)) if key in self._left else False

    def digest(self, key: str) -> str:
        """64 hexadecimal digits."""
        value = self.text(key)
        if not _DIGEST.fullmatch(value):
            raise MalformedInput(
                f"{self.place}: bad {key}", expected="64 lower-case hexadecimal digits", found=value
            )
        return value

    def optional_digest(self, key: str) -> str | None:
        """64 hexadecimal digits, or null."""
        return None if self._left.get(key, "") is None and self._drop(key) else self.digest(key)

    def algorithm(self, key: str) -> str:
        """The name of a digest algorithm."""
        return self.text(key, ALGORITHMS)

    def dtype(self, key: str) -> str:
        """The name of an element type."""
        value = self.text(key)
        if value not in DTYPES:
            raise MalformedInput(f"{self.place}: unknown {key}", found=value)
        return value

    def shape(self, key: str) -> tuple[int, ...]:
        """A list of sizes."""
        return check_shape(tuple(self._take(key, list)))

    def objects(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [
            Fields(value, f"{self.place}, {key} {number}")
            for number, value in enumerate(self._take(key, list), 1)
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the field is missing."""
        values = self._take(key, list) if key in self._left else []
        if any(type(value) is not str for value in values):
            raise MalformedInput(f"{self.place}: {key} is no list of strings")
        return tuple(values)

    def object(self, key: str) -> Fields:
        """An object."""
        return Fields(self._take(key, dict), f"{self.place}, {key}")

    def members(self, key: str) -> dict[str, Fields]:
        """An object of objects."""
        return {
            name: Fields(value, f"{self.place}, {key} '{name}'")
            for name, value in self._take(key, dict).items()
        }

    def numbers(self, key: str) -> dict[str, int]:
        """An object of integers."""
        inner = self.object(key)
        return {name: inner.number(name) for name in list(inner._left)}

    def text_members(self, key: str) -> dict[str, str]:
        """An object of strings."""
        inner = self.object(key)
        return {name: inner.text(name) for name in list(inner._left)}

    def close(self) -> None:
        """Every field must have been taken."""
        if self._left:
            raise MalformedInput(
                f"{self.place}: unknown field", found=f"'{next(iter(self._left))}'"
            )

    def _take(self, key: str, kind: type) -> Any:
        if key not in self._left:
            raise MalformedInput(f"{self.place}: no {key}")
        value = self._left.pop(key)
        # `type`, not isinstance: true is no integer, and 1.5 is read as a text of its own class.
        if type(value) is not kind:
            raise MalformedInput(
                f"{self.place}: {key} has another type",
                expected=kind.__name__,
                found=type(value).__name__,
            )
        return value

    def _drop(self, key: str) -> bool:
        self._left.pop(key, None)
        return True
