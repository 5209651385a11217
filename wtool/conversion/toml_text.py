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


def header_lines(text: str) -> dict[str, list[int]]:
    """Line numbers, from 1, of the headers of each table; tomllib keeps none.

    What stands in a text of several lines is no header.
    """
    lines: dict[str, list[int]] = {}
    inside = ""
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[\[?\s*[\"']?(\w+)[\"']?\s*\]", line)
        if header and not inside:
            lines.setdefault(header.group(1), []).append(number)
        for mark in re.findall(r'"""|\'\'\'', line.partition("#")[0] if not inside else line):
            inside = "" if inside == mark else inside or mark
    return lines
