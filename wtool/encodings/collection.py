"""Python's cycle collector, set aside while many small objects are made.

Each of a million nodes of a large pickle is alive until the end; looking through them for garbage
again and again took more than half of the time to open a file of 100,000 tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """No cycle collection inside the block; afterwards as before. May be nested."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # All that was made counts as old: else the next collection looks through all of it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
