"""What a pickle says, as inert values: globals that are named, calls that are never made.

Plain data stays plain: None, bool, int, float, complex, str, bytes, bytearray, list, tuple. Every
dictionary is a `Dict`. All else is a node of this module. No node runs, imports or compares
anything, and no text of a node walks its children: 500 bytes can describe 2^60 of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Longest text that `str` of a node shows.
MAX_TEXT = 120
_NOT_GIVEN: dict[str, Any] = {"cls": None, "args": (), "odd": (), "state": None}
_NOT_GIVEN_TO_CALL: dict[str, Any] = {
    "new": False,
    "state": None,
    "items": None,
    "pairs": None,
    "kwargs": None,
}


class Global:
    """A name that the pickle mentions, Python 2 modules by their Python 3 name; not imported.

    full: "module.name". Within one pickle there is one object per name.
    """

    __slots__ = ("full", "module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.full = f"{module}.{name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Global) and (self.module, self.name) == (other.module, other.name)

    def __hash__(self) -> int:
        return hash((self.module, self.name))

    def __repr__(self) -> str:
        return self.full


class Call:
    """A call or an object that the pickle asks for: `function(*args)`, which is never made.

    function: a Global, or a Call whose result would have been called.
    state: what BUILD would have set. items: what APPEND(S) and ADDITEMS gave, in order.
    pairs: what SETITEM(S) gave, in order. kwargs: of NEWOBJ_EX.
    new: whether it came from NEWOBJ (an object of a class) and not from REDUCE.
    view, key: of a call that asks for a plain view of the storage `key`, what its arguments say;
    `args` is made of them when somebody asks.
    """

    # A torch file has a call for each tensor: what is not given takes neither time nor memory.
    __slots__ = ("args", "function", "items", "key", "kwargs", "new", "pairs", "state", "view")

    function: Any
    args: tuple
    new: bool
    state: Any
    items: list[Any] | None
    pairs: list[tuple[Any, Any]] | None
    kwargs: Any
    view: StorageView | None
    key: str

    def __init__(self, function: Any, args: tuple, new: bool = False) -> None:
        self.function = function
        self.args = args
        self.view = None
        if new:
            self.new = new

    @classmethod
    def of_view(cls, view: StorageView, key: str) -> Call:
        """`function(storage, offset, size, stride, False, OrderedDict())` of that view."""
        call = cls.__new__(cls)
        call.function = view.function
        call.view = view
        call.key = key
        return call

    def __getattr__(self, name: str) -> Any:
        """What an attribute is that was never given."""
        if name == "args":
            self.args = args = self._view_args()
            return args
        try:
            return _NOT_GIVEN_TO_CALL[name]
        except KeyError:
            raise AttributeError(name) from None

    def _view_args(self) -> tuple:
        view = self.view
        if view is None:
            raise AttributeError("args")
        hooks = Dict()
        hooks.cls = view.hooks
        id = (view.kind, view.cls, self.key, view.device, view.numel)
        return (Persistent(id), view.offset, view.size, view.stride, False, hooks)

    @property
    def full(self) -> str:
        """ "module.name" of the function where it is a plain global, else ""."""
        return self.function.full if type(self.function) is Global else ""

    def __repr__(self) -> str:
        shown = ", ".join(_short(value) for value in self.args[:8])
        more = ", ..." if len(self.args) > 8 else ""
        return _cut(f"{_short(self.function)}({shown}{more})")


@dataclass(frozen=True, slots=True, eq=False)
class StorageView:
    """A plain view of a storage as torch.save spells it, all but the storage's key.

    Calls that say the same share one. All types are what they are said to be, and no number is
    negative. function: of the call. kind, cls, device, numel: what the persistent id of the storage
    says. offset, size, stride: of the view, in elements. hooks: the Global of an empty dictionary.
    """

    function: Global
    kind: str
    cls: Global
    device: str
    numel: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    hooks: Global


class Persistent:
    """An object kept outside of the pickle, named by `id`: in torch files, a storage."""

    __slots__ = ("id",)

    def __init__(self, id: Any) -> None:
        self.id = id

    def __repr__(self) -> str:
        return "<persistent object>"


class Dict(dict):
    """A dictionary in stored order.

    cls: the Global of its class where that is not `dict` (collections.OrderedDict, Counter,
    defaultdict). args: of the class, for a defaultdict its factory.
    odd: pairs whose key is no text, number, bool, None or flat tuple of those (or where too many
    are not text): hashing such a key could take forever, so they stay pairs.
    state: what BUILD gave, for a state dict {"_metadata": ...}.
    """

    # A torch file has an empty OrderedDict for each tensor: what is not given takes no memory.
    __slots__ = ("args", "cls", "odd", "state")
    __hash__ = None

    cls: Global | None
    args: tuple
    odd: list[tuple[Any, Any]] | tuple
    state: Any

    def __getattr__(self, name: str) -> Any:
        """What an attribute is that was never given."""
        try:
            return _NOT_GIVEN[name]
        except KeyError:
            raise AttributeError(name) from None

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Every (key, value): those with plain keys in stored order, then the odd ones."""
        yield from self.items()
        yield from self.odd

    def __repr__(self) -> str:
        return f"<dictionary of {len(self) + len(self.odd)} entries>"


class Size(tuple):
    """A torch.Size."""

    __slots__ = ()


class ByteText(str):
    """A Python 2 string: text, and in `raw` the bytes that it was."""

    __slots__ = ("raw",)
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> str:
        """ASCII gives a plain str; UTF-8 where valid; else each byte is one character (Latin-1)."""
        if raw.isascii():
            return raw.decode("ascii")
        try:
            text = cls(raw.decode("utf-8"))
        except UnicodeDecodeError:
            text = cls(raw.decode("latin-1"))
        text.raw = raw
        return text


def raw_bytes(value: Any) -> bytes | None:
    """The bytes behind bytes, bytearray or a Python 2 string; None for anything else."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, ByteText):
        return value.raw
    if isinstance(value, str) and value.isascii():
        return value.encode("ascii")
    return None


def describe(value: Any) -> str:
    """One short line for any value of a pickle; containers are named by their size, not walked."""
    return _short(value)


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool | float | complex | Global | Persistent | Dict):
        return repr(value)
    if type(value) is int:
        return (
            str(value) if value.bit_length() <= 256 else f"<integer of {value.bit_length()} bits>"
        )
    if isinstance(value, str | bytes | bytearray):
        return _cut(repr(value[:MAX_TEXT]))
    if isinstance(value, list | tuple):
        return f"<{type(value).__name__.lower()} of {len(value)} entries>"
    if isinstance(value, Call):
        return f"{value.full or '<call>'}(...)"
    return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
