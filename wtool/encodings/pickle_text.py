"""Values that protocols 0 and 1 write as lines of text."""

from __future__ import annotations

import codecs

# Reading decimals takes quadratic time; CPython has the same limit.
MAX_DIGITS = 4300


def read_text_value(kind: str, line: bytes) -> object:
    """The value of a line without its newline.

    kind: "float", "integer", "long integer", "string" (Python 2, quoted) or "unicode text".
    Raises ValueError where the line is no such value.
    """
    if kind == "unicode text":
        return line.decode("raw-unicode-escape")
    if kind == "string":
        from wtool.encodings.pickle_nodes import ByteText

        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"\"'":
            raise ValueError("no quotes")
        return ByteText.of(codecs.escape_decode(line[1:-1])[0])
    if len(line) > MAX_DIGITS:
        raise ValueError("too many digits")
    if kind == "float":
        return float(line)
    if kind == "integer" and line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L") if kind == "long integer" else line)
