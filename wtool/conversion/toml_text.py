"""Mapping files written: names and values as TOML says them."""

from __future__ import annotations

import re


def escape(name: str) -> str:
    """A name as a template that matches only itself."""
    return name.replace("{", "{{").replace("}", "}}")


def quote(text: str) -> str:
    """A TOML basic string."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", text) + '"'


def value_text(value: object) -> str:
    """A text, a boolean, a number, a list of numbers or a table; a text in brackets is
    one already.
    """
    if isinstance(value, str):
        return value if value.startswith("[") else quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        items = (f"{quote(key)} = {value_text(item)}" for key, item in value.items())
        return f"{{ {', '.join(items)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def table(header: str, **entries: object) -> list[str]:
    """The lines of one `[[header]]`."""
    return [f"[[{header}]]", *(f"{key} = {value_text(value)}" for key, value in entries.items())]
