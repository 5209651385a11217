"""An HDF5 file as a tree: groups and datasets by path, with their attributes; no value is read.

Links lead nowhere but to objects of the same file: soft and external links, external and virtual
storage are refused, and so is a group that is reached twice, as a tree with loops has no end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wtool.encodings.hdf5_heaps import FractalHeap, read_global_object, read_records
from wtool.encodings.hdf5_image import Image, open_image
from wtool.encodings.hdf5_links import read_links
from wtool.encodings.hdf5_messages import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    EXTERNAL,
    FILL,
    FILTERS,
    LAYOUT,
    LINK,
    LINK_INFO,
    SPACE,
    SYMBOL_TABLE,
    TYPE,
    Attribute,
    Filter,
    Layout,
    Message,
    decode_name,
    parse_attribute,
    parse_fill,
    parse_filters,
    parse_layout,
    read_messages,
)
from wtool.encodings.hdf5_types import Hdf5Type, parse_space, parse_type
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError, WtoolError
from wtool.sources import Source

MAX_OBJECTS = 200_000
MAX_DEPTH = 100
MAX_NAME_NBYTES = 1 << 16
MAX_TEXTS = 1_000_000


@dataclass(frozen=True)
class Dataset:
    """An array: shape is None for an empty value. Everything but its values.

    fill: one element as stored, for chunks that were never written; empty for zero.
    """

    path: str
    shape: tuple[int, ...] | None
    type: Hdf5Type
    layout: Layout
    filters: tuple[Filter, ...]
    attributes: dict[str, Attribute]
    fill: bytes = b""


@dataclass
class Group:
    """A folder of the tree: children by name, in the order in which HDF5 gives them."""

    path: str
    attributes: dict[str, Attribute]
    groups: dict[str, Group] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)

    def find(self, path: str) -> Group | Dataset | None:
        """The object at `path` below this group ("a/b/c"), None where there is none."""
        here = self
        *folders, last = path.split("/")
        for name in folders:
            below = here.groups.get(name)
            if below is None:
                return None
            here = below
        return here.groups.get(last) or here.datasets.get(last)


@dataclass(frozen=True)
class Hdf5File:
    """A file that was walked once: its bytes, and the tree from its root."""

    image: Image
    root: Group

    def texts(self, attribute: Attribute) -> list[str]:
        """The strings of an attribute, in order; MalformedInput where it holds anything else."""
        return [decode_name(raw, self.image.root) for raw in self._raw_texts(attribute)]

    def text(self, attribute: Attribute) -> str:
        """The one string of an attribute."""
        found = self.texts(attribute)
        if len(found) != 1:
            raise MalformedInput(f"attribute '{attribute.name}' is not one text", found=len(found))
        return found[0]

    def _raw_texts(self, attribute: Attribute) -> Iterator[bytes]:
        type, count = attribute.type, 1
        if type.name != "string":
            # An empty list has no strings to give it a type: NumPy makes it float64.
            if attribute.shape is not None and 0 in attribute.shape:
                return
            raise MalformedInput(
                f"attribute '{attribute.name}' is not text", found=attribute.type.what
            )
        for size in (0,) if attribute.shape is None else attribute.shape:
            count *= size
        if count > MAX_TEXTS or count * type.size > len(attribute.data):
            raise MalformedInput(
                f"attribute '{attribute.name}' is shorter than its shape says",
                expected=f"{count} texts of {type.size} bytes",
                found=f"{len(attribute.data)} bytes",
            )
        fields = self.image.cursor(attribute.data, 0, "HDF5 attribute")
        for _ in range(count):
            if type.vlen:
                size = fields.number(4)
                address, index = fields.address(), fields.number(4)
                yield (
                    read_global_object(self.image, address, index, size)
                    if size and address
                    else b""
                )
            elif type.padding == 2:
                yield fields.take(type.size).rstrip(b" ")
            elif type.padding == 1:
                yield fields.take(type.size).rstrip(b"\0")
            else:
                yield fields.take(type.size).split(b"\0", 1)[0]


def read_file(source: Source) -> Hdf5File:
    """The whole tree of the HDF5 file `source`; reads no value of a dataset.

    Raises MalformedInput or TruncatedInput for broken structures, UnsafeInput for what leads out of
    the file or round in circles, UnsupportedError for sound parts of HDF5 that Keras does not use.
    """
    try:
        image = open_image(source)
        return Hdf5File(image, _walk(image))
    except WtoolError as error:
        raise error.locate(path=source.name) from error.__cause__


def _walk(image: Image) -> Group:
    """The tree from the root group on, depth first without recursion."""
    messages = read_messages(image, image.root)
    root = Group("", _attributes(image, messages))
    pending = [(root, messages, 0)]
    seen = {image.root}
    count = 0
    while pending:
        group, messages, depth = pending.pop()
        for name, address in read_links(image, messages):
            count += 1
            if count > MAX_OBJECTS or depth >= MAX_DEPTH:
                raise UnsafeInput(
                    "too many or too deeply nested HDF5 objects",
                    expected=f"at most {MAX_OBJECTS} objects, {MAX_DEPTH} deep",
                )
            _check_name(group, name)
            path = f"{group.path}/{name}" if group.path else name
            below = read_messages(image, address)
            kinds = {message.kind for message in below}
            if LAYOUT in kinds:
                group.datasets[name] = _dataset(image, path, below)
            elif kinds & {SYMBOL_TABLE, LINK_INFO, LINK}:
                if address in seen:
                    raise UnsafeInput(f"HDF5 group '{path}' is reached twice", offset=address)
                seen.add(address)
                group.groups[name] = Group(path, _attributes(image, below))
                pending.append((group.groups[name], below, depth + 1))
            elif TYPE not in kinds:
                raise MalformedInput(f"HDF5 object '{path}' is neither group nor dataset")
    return root


def _check_name(group: Group, name: str) -> None:
    if not name or "/" in name or name in (".", "..") or len(name) > MAX_NAME_NBYTES:
        raise UnsafeInput(f"bad name in HDF5 group '{group.path}'", found=repr(name[:80]))
    if name in group.groups or name in group.datasets:
        raise MalformedInput(f"HDF5 group '{group.path}' has a name twice", found=repr(name[:80]))


def _attributes(image: Image, messages: list[Message]) -> dict[str, Attribute]:
    """The attributes of an object, wherever they are stored."""
    found = []
    for message in messages:
        if message.kind == ATTRIBUTE:
            if message.shared:
                raise UnsupportedError("shared HDF5 attribute is not read", offset=message.offset)
            found.append(parse_attribute(image, message.data, message.offset))
        elif message.kind == ATTRIBUTE_INFO:
            fields = image.cursor(message.data, message.offset, "HDF5 attribute list")
            fields.version(0)
            if fields.number(1) & 1:
                fields.skip(2)
            heap_address, index = fields.address(), fields.address()
            if heap_address is not None:
                heap = FractalHeap(image, heap_address)
                for record in read_records(image, index, (8,)):
                    data, offset = heap.get(record[:8])
                    found.append(parse_attribute(image, data, offset))
    return {attribute.name: attribute for attribute in found}


def _dataset(image: Image, path: str, messages: list[Message]) -> Dataset:
    """A dataset from its messages."""
    by_kind = {message.kind: message for message in messages}
    try:
        if EXTERNAL in by_kind:
            raise UnsafeInput("values are in external files, which are never opened")
        for kind, what in ((SPACE, "dataspace"), (TYPE, "datatype")):
            if kind not in by_kind:
                raise MalformedInput(f"HDF5 dataset without a {what}")
            if by_kind[kind].shared:
                raise UnsupportedError(f"HDF5 dataset with a named {what} is not read")
        space, type_message = by_kind[SPACE], by_kind[TYPE]
        shape = parse_space(image.cursor(space.data, space.offset, "HDF5 dataspace"))
        type = parse_type(image.cursor(type_message.data, type_message.offset, "HDF5 datatype"))
        layout = parse_layout(image, by_kind[LAYOUT], type)
        filters = parse_filters(image, by_kind[FILTERS]) if FILTERS in by_kind else ()
        if layout.kind == "chunked" and len(layout.chunk) != len(shape or ()):
            raise MalformedInput("chunks of another rank than the dataset", found=layout.chunk)
        fill = parse_fill(image, by_kind[FILL]) if FILL in by_kind else b""
        if fill and len(fill) != type.size:
            raise MalformedInput("fill value of another size than the elements", found=len(fill))
        return Dataset(path, shape, type, layout, filters, _attributes(image, messages), fill)
    except WtoolError as error:
        raise error.locate(tensor=path) from error.__cause__
