"""What a strange file may cost: processor time, for a clock counts what else the machine does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

# What runs away takes minutes or never ends; what does not takes well under a second.
SECONDS = 10


@contextlib.contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Fails where its body takes more processor time of this thread."""
    start = time.thread_time()
    yield
    spent = time.thread_time() - start
    assert spent < seconds, f"{spent:.1f} s of processor time"
