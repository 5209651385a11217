"""What a download that stopped half-way lacks: which record the file ends in, and how far."""

from __future__ import annotations

from collections.abc import Iterable

from wtool.errors import TruncatedInput


def cut_short(path: str, size: int, spans: Iterable[tuple[str, int, int]]) -> TruncatedInput | None:
    """The error for a file of `size` bytes that should hold `spans`, (name, begin, end) in bytes.

    It names the first record, by place, that the file does not hold whole: "the file ends 1234
    bytes into tensor 'x' of 5678". None where the file holds them all.
    """
    lost = 0
    first: tuple[int, int, str] | None = None
    last = 0
    for name, begin, end in spans:
        last = max(last, end)
        if end > size:
            lost += 1
            if first is None or (begin, end) < first[:2]:
                first = (begin, end, name)
    if first is None:
        return None
    begin, end, name = first
    others = f", and {lost - 1} more tensors are missing" if lost > 1 else ""
    return TruncatedInput(
        f"the file ends {max(0, size - begin)} bytes into the tensor's {end - begin}{others}",
        path=path,
        tensor=name,
        offset=size,
        expected=f"a file of at least {last} bytes",
        found=f"{size}",
        hint="the download or copy was cut short: fetch it again",
    )
