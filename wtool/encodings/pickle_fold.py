"""Calls of known pure-data globals become the data; dictionaries are filled under key rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wtool.encodings.pickle_nodes import ByteText, Call, Dict, Global, Size, raw_bytes
from wtool.errors import MalformedInput

# Hashes of text are salted, those of numbers are not: keys can be chosen so that filling a
# dictionary takes quadratic time. Consecutive integers are safe; beyond this many others, pairs
# stay pairs.
MAX_ODD_KEYS = 4096
MAX_KEY_ITEMS = 64

ORDERED_DICT = "collections.OrderedDict"
_SCALARS = frozenset((str, ByteText, bytes, int, float, bool, type(None)))
_TEXT = {str}
_LATIN1 = frozenset(("latin1", "latin-1", "iso-8859-1"))


def fold_call(function: Any, args: Any, new: bool) -> Any:
    """What `function(*args)` stands for: data where the global is known and pure, else a Call.

    MalformedInput where `args` is no tuple or `function` could never be one.
    """
    if not isinstance(args, tuple):
        raise MalformedInput("arguments that are no tuple", found=type(args).__name__)
    if type(function) is Global:
        fold = _FOLDS.get(function.full)
        if fold is not None:
            return fold(function, args, new)
    elif type(function) is not Call:
        raise MalformedInput("call of a value that is no function", found=type(function).__name__)
    return Call(function, args, new)


def is_folded(function: Global) -> bool:
    """Whether a call of `function` may become data."""
    return function.full in _FOLDS


def store_items(target: Any, items: list[Any]) -> None:
    """Put `items` (key, value, key, value, ...) into a Dict or a Call."""
    if len(items) % 2:
        raise MalformedInput("dictionary entry without a value")
    flat = iter(items)
    if type(target) is Dict and set(map(type, items[::2])) == _TEXT:
        target.update(zip(flat, flat, strict=True))
    elif type(target) is Dict:
        for key, value in zip(flat, flat, strict=True):
            if type(key) is str or _may_hash(key, target):
                target[key] = value
            else:
                if not target.odd:
                    target.odd = []
                target.odd.append((key, value))  # type: ignore[union-attr]
    elif type(target) is Call:
        if target.pairs is None:
            target.pairs = []
        target.pairs.extend(zip(flat, flat, strict=True))
    else:
        raise MalformedInput(
            "entries for a value that is no dictionary", found=type(target).__name__
        )


def _may_hash(key: Any, target: Dict) -> bool:
    """Whether hashing the key, and filling the dictionary with such keys, takes bounded time."""
    kind = type(key)
    if kind is ByteText:
        return True
    if kind is int and 0 <= key <= 2 * len(target) + MAX_ODD_KEYS:
        return True
    if len(target) > MAX_ODD_KEYS:
        return False
    if kind is tuple or kind is Size:
        return len(key) <= MAX_KEY_ITEMS and all(type(item) in _SCALARS for item in key)
    return kind in _SCALARS


def _ordered_dict(function: Global, args: tuple, new: bool) -> Any:
    result = Dict()
    result.cls = function
    if not args:
        return result
    entries = args[0]
    if len(args) == 1 and type(entries) is Dict:
        store_items(result, [part for pair in entries.pairs() for part in pair])
        return result
    if len(args) == 1 and isinstance(entries, list | tuple):
        flat: list[Any] = []
        for entry in entries:
            if not isinstance(entry, list | tuple) or len(entry) != 2:
                return Call(function, args, new)
            flat.extend(entry)
        store_items(result, flat)
        return result
    return Call(function, args, new)


def _default_dict(function: Global, args: tuple, new: bool) -> Any:
    if len(args) > 1:
        return Call(function, args, new)
    result = Dict()
    result.cls = function
    result.args = args
    return result


def _encode(function: Global, args: tuple, new: bool) -> Any:
    if len(args) == 2 and isinstance(args[0], str) and args[1] in _LATIN1:
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError as error:
            raise MalformedInput("bytes written as text outside Latin-1") from error
    return Call(function, args, new)


def _bytes(function: Global, args: tuple, new: bool) -> Any:
    kind = bytearray if function.name == "bytearray" else bytes
    if not args:
        return kind()
    raw = raw_bytes(args[0])
    if len(args) == 1 and raw is not None and not isinstance(args[0], str):
        return kind(raw)
    if len(args) == 2 and isinstance(args[0], str) and args[1] in _LATIN1:
        return kind(_encode(function, args, new))
    return Call(function, args, new)


def _complex(function: Global, args: tuple, new: bool) -> Any:
    if len(args) == 2 and all(type(part) in (int, float) for part in args):
        try:
            return complex(*args)
        except OverflowError as error:
            raise MalformedInput("complex number too large") from error
    return Call(function, args, new)


def _size(function: Global, args: tuple, new: bool) -> Any:
    if not args:
        return Size()
    if len(args) == 1 and isinstance(args[0], list | tuple):
        return Size(args[0])
    return Call(function, args, new)


def _plain(function: Global, args: tuple, new: bool) -> Any:
    """int, str, list, tuple and dict called on a value of their own kind, as old picklers write."""
    kind = {"int": int, "str": str, "list": list, "tuple": tuple, "float": float, "bool": bool}.get(
        function.name, Dict
    )
    if not args:
        return kind()
    if len(args) == 1 and isinstance(args[0], kind):
        return args[0]
    return Call(function, args, new)


def _reconstructor(function: Global, args: tuple, new: bool) -> Any:
    """copyreg._reconstructor(cls, object, None): how protocols 0 and 1 make an object."""
    if len(args) == 3 and type(args[0]) is Global and type(args[1]) is Global and args[2] is None:
        return fold_call(args[0], (), True)
    return Call(function, args, new)


def _newobj(function: Global, args: tuple, new: bool) -> Any:
    return fold_call(args[0], args[1:], True) if args else Call(function, args, new)


_FOLDS: dict[str, Callable[[Global, tuple, bool], Any]] = {
    ORDERED_DICT: _ordered_dict,
    "collections.Counter": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "torch.Size": _size,
    "builtins.int": _plain,
    "builtins.str": _plain,
    "builtins.list": _plain,
    "builtins.tuple": _plain,
    "builtins.float": _plain,
    "builtins.bool": _plain,
    "builtins.dict": _plain,
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _newobj,
}
