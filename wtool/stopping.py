"""Ctrl-C and SIGTERM: raised once, so that what is half written is removed on the way out.

A handler runs between any two steps of the main thread, inside a library as well, which may turn
what it raises into an error of its own (Python makes it a RuntimeError while a class is made) or
drop it (a destructor). So what was asked is remembered here, apart from what is raised.
"""

from __future__ import annotations

import signal
import weakref
from types import FrameType

# What shells report for a process that a signal ended.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(BaseException):
    """Somebody asked the process to end."""


_received: list[signal.Signals] = []
_raised: weakref.ref[Stopped] | None = None


def raise_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM raise Stopped, where they are not ignored (`nohup`)."""
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def asked_to_stop() -> signal.Signals | None:
    """The first signal that came; None before there is one."""
    return _received[0] if _received else None


def end_if_asked() -> None:
    """Raise Stopped, in any thread, where a signal came."""
    if _received:
        raise Stopped


def _stop(number: int, frame: FrameType | None) -> None:
    global _raised
    _received.append(signal.Signals(number))
    # A second signal must not stop the cleaning up; but one that was dropped may be given again.
    if _raised is None or _raised() is None:
        stopped = Stopped()
        _raised = weakref.ref(stopped)
        try:
            raise stopped
        finally:
            # Its traceback holds this frame: a name here would keep a dropped one alive.
            del stopped
