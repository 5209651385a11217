"""Progress of long work: one line on standard error, drawn only when it is worth it."""

from __future__ import annotations

import sys
import time

# Work that ends sooner shows nothing; a redraw more often than this is wasted.
FIRST_SECONDS = 1.0
REDRAW_SECONDS = 0.1
WIDTH = 30


class Progress:
    """A context whose `update(done, total)` draws "[####    ]  40 %  1.2 of 3.0 GB" when due."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._due = 0.0
        self._drawn = False
        self.restart()

    def restart(self) -> None:
        """A new piece of work begins."""
        self._due = time.monotonic() + FIRST_SECONDS

    def update(self, done: int, total: int) -> None:
        """`done` of `total` bytes are dealt with."""
        if not self._enabled or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REDRAW_SECONDS
        share = done / total if total else 1.0
        bar = "#" * int(share * WIDTH)
        sys.stderr.write(
            f"\r[{bar:<{WIDTH}}] {share:4.0%}  {done / 1e9:.2f} of {total / 1e9:.2f} GB "
        )
        sys.stderr.flush()
        self._drawn = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            sys.stderr.write("\r" + " " * (WIDTH + 34) + "\r")
            sys.stderr.flush()
            self._drawn = False
