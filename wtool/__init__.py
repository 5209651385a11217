"""wtool opens, measures, checks, casts, freezes and converts weight files without a framework.

import wtool

checkpoint = wtool.open("model.pth")          # headers only
checkpoint["fc.weight"].load()                # a NumPy array
report = wtool.stats(checkpoint, by="layer")  # or wtool.stats("model.pth", by="layer")
report.rows, report.totals, report.ok         # raw numbers; print(report) shows the table

Every command is a function of the same name, and an option `--keep-norms` is the keyword
`keep_norms=True`. What may be repeated takes a list, or one text: `select="fc.*"`. The rules of
`freeze` are pairs in their order: `rules=[("freeze", "*"), ("replace", "fc")]`. All raise
WtoolError, one line with the facts; `wtool COMMAND --help` and help(wtool.stats) say the same.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wtool.errors import WtoolError

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint
    from wtool.commands.cast import cast as cast
    from wtool.commands.check import check as check
    from wtool.commands.convert import convert as convert
    from wtool.commands.count import count as count
    from wtool.commands.diff import diff as diff
    from wtool.commands.doctor import doctor as doctor
    from wtool.commands.freeze import freeze as freeze
    from wtool.commands.init import init as init
    from wtool.commands.ls import ls as ls
    from wtool.commands.manifest import manifest as manifest
    from wtool.commands.map import map as map
    from wtool.commands.stats import stats as stats
    from wtool.commands.verify import verify as verify

__version__ = "0.1.0"

# Every command is a function of the same name, imported on first use, and known to type checkers
# from the imports above. Help keeps this order.
COMMANDS = (
    "ls",
    "count",
    "stats",
    "init",
    "diff",
    "convert",
    "cast",
    "map",
    "check",
    "doctor",
    "manifest",
    "freeze",
    "verify",
)

__all__ = ["WtoolError", "open", *COMMANDS]


def open(path: str | os.PathLike[str], *, root: str | None = None) -> Checkpoint:
    """Open a weight file, a TensorFlow prefix, an index or a model directory; reads headers only.

    root: which branch of a nested PyTorch file holds the model; "." keeps all branches and full
    names. Raises wtool.errors.InputError, one line that names the file and what is wrong.
    """
    from wtool.formats import open_checkpoint
    from wtool.layers import assign_roles

    checkpoint = open_checkpoint(path, root=root)
    assign_roles(checkpoint)
    return checkpoint


def __dir__() -> list[str]:
    return sorted({*globals(), *COMMANDS})


def _command(name: str) -> Any:
    """The function of a command; what is no command is no attribute either."""
    if name in COMMANDS:
        return getattr(import_module(f"wtool.commands.{name}"), name)
    raise AttributeError(f"module 'wtool' has no attribute {name!r}")


# A type checker that sees a `__getattr__` takes every name for one of ours, of any type.
if not TYPE_CHECKING:
    __getattr__ = _command
