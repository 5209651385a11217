"""Python 2's names of modules and globals, as old pickles and protocols below 3 write them.

Only those that occur in weight files. Source: PEP 3108, and CPython's rename tables for pickles.
"""

from __future__ import annotations

_PYTHON2_GLOBALS = {
    ("__builtin__", "xrange"): ("builtins", "range"),
    ("__builtin__", "long"): ("builtins", "int"),
    ("__builtin__", "unicode"): ("builtins", "str"),
    ("__builtin__", "unichr"): ("builtins", "chr"),
    ("__builtin__", "reduce"): ("functools", "reduce"),
    ("__builtin__", "intern"): ("sys", "intern"),
    ("exceptions", "StandardError"): ("builtins", "Exception"),
    ("UserDict", "UserDict"): ("collections", "UserDict"),
    ("UserList", "UserList"): ("collections", "UserList"),
    ("UserString", "UserString"): ("collections", "UserString"),
    ("itertools", "izip"): ("builtins", "zip"),
    ("itertools", "imap"): ("builtins", "map"),
    ("itertools", "ifilter"): ("builtins", "filter"),
    ("cPickle", "loads"): ("pickle", "loads"),
}

_PYTHON2_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "exceptions": "builtins",
    "Queue": "queue",
    "ConfigParser": "configparser",
    "cPickle": "pickle",
    "commands": "subprocess",
    "StringIO": "io",
    "cStringIO": "io",
    "thread": "_thread",
    "dummy_thread": "_dummy_thread",
    "repr": "reprlib",
    "urllib2": "urllib.request",
    # Not Python 2: torch's own move, which its loader maps in the same place.
    "torch.tensor": "torch._tensor",
}


def modern_name(module: str, name: str) -> tuple[str, str]:
    """(module, name) under which Python 3 knows a global; unchanged where it never moved."""
    moved = _PYTHON2_GLOBALS.get((module, name))
    if moved is not None:
        return moved
    return _PYTHON2_MODULES.get(module, module), name
