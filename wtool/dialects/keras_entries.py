"""HDF5 datasets as tensors: element types, and what Keras says of them in attributes."""

from __future__ import annotations

from wtool.checkpoint import FACTS, Tensor
from wtool.dialects.hdf5_extents import make_extent
from wtool.dtypes import DTYPES
from wtool.encodings.hdf5_file import Dataset, Hdf5File
from wtool.errors import UnsupportedError, WtoolError, counted


def make_tensor(file: Hdf5File, dataset: Dataset, name: str, path: str) -> Tensor:
    """The tensor of one dataset; path: of the file on disk, for telling storages apart.

    UnsupportedError for element types that are no numbers.
    """
    try:
        dtype = element_type(file, dataset)
        layout = dataset.layout
        # Two links to one dataset are one storage; datasets without data share none.
        place = dataset.path if layout.address is None else layout.address
        storage = (path, layout.kind, place)
        extent = make_extent(file.image.source, dataset, storage, dtype)
    except WtoolError as error:
        raise error.locate(tensor=dataset.path) from error.__cause__
    return Tensor(name, dataset.path, extent, path=tuple(dataset.path.split("/")))


def element_type(file: Hdf5File, dataset: Dataset) -> str:
    """wtool's name of the element type; Keras marks bfloat16, which it stores as bare bytes."""
    found = dataset.type
    if found.name is None or found.name == "string":
        raise UnsupportedError(
            "dataset is not a tensor of numbers", found=found.what, hint="wtool reads numbers only"
        )
    marker = dataset.attributes.get("dtype")
    if found.name in ("bits8", "bits16") and marker is not None and marker.type.name == "string":
        stated = DTYPES.get(file.text(marker))
        if stated is not None and stated.bits == 8 * found.size:
            return stated.name
    return found.name


def facts_of(file: Hdf5File) -> dict[str, str]:
    """The texts that wtool wrote itself, attributes of the root, by name."""
    found = file.root.attributes
    return {name: file.text(found[name]) for name in sorted(found) if name.startswith(FACTS)}


def opaque_notes(tensors: list[Tensor]) -> tuple[str, ...]:
    """A note where values are bare bytes, as Keras's legacy HDF5 stores bfloat16 without a mark."""
    names = [tensor.name for tensor in tensors if tensor.dtype.kind == "opaque"]
    if not names:
        return ()
    are_bare = counted(len(names), "tensor is", "tensors are")
    return (
        f"{are_bare} stored as bare bytes, perhaps bfloat16, first '{names[0]}': "
        "the file does not record the type",
    )
