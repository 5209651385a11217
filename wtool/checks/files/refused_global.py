"""The pickle names something that torch's `weights_only` loader refuses.

Why it is bad: the file loads only with `weights_only=False`, which runs whatever it names. Users
are taught to switch safety off; scanners flag the file. What runs commands, reads files or opens
connections is an error, a class of one's own a warning.

Example: `argparse.Namespace`, mentioned once, in `hyper_parameters`.

How to mend it: save tensors and plain values only; `wtool convert FILE OUT --drop-extras` keeps the
tensors and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.files.containers import LOADED_BY_TORCH
from wtool.checks.subject import Subject
from wtool.dialects.torch_allowlist import is_allowed


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# First components of modules through which a pickle takes over the process.
_RUNNERS = _words(
    "os posix nt sys subprocess pty runpy importlib shutil socket ctypes code codeop pdb bdb "
    "pickle _pickle cPickle dill cloudpickle joblib marshal webbrowser multiprocessing asyncio "
    "threading signal requests urllib http ftplib smtplib timeit cProfile profile trace pip "
    "pkgutil zipimport tempfile commands platform builtins __builtin__ operator functools "
    "types inspect gc site atexit"
)
# Of these modules, names that do no harm.
_HARMLESS = _words(
    "builtins.set builtins.frozenset builtins.bytearray builtins.complex builtins.slice "
    "builtins.range builtins.object builtins.list builtins.dict builtins.tuple builtins.int "
    "builtins.float builtins.str builtins.bool builtins.bytes types.SimpleNamespace"
)


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each global that is refused."""
    for path, checkpoint in subject.parts():
        if checkpoint.format not in LOADED_BY_TORCH:
            continue
        for name, count in sorted(checkpoint.globals.items()):
            if is_allowed(name):
                continue
            runs = name.partition(".")[0] in _RUNNERS and name not in _HARMLESS
            what = "and can run code" if runs else "so it loads with weights_only=False only"
            yield Finding(
                f"the pickle names '{name}' ({count:,} times), which weights_only refuses, {what}",
                value=name,
                file=path,
                severity="error" if runs else None,
            )


RULE = Rule(
    "WT040",
    "refused-global",
    "warning",
    "save tensors and plain values only, by wtool convert --drop-extras",
    find,
    __doc__,
)
