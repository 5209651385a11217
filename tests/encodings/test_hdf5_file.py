"""Our HDF5 reader against h5py: trees, attributes and values; what it refuses; and broken files."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bounded import bounded

from wtool.dialects.hdf5_extents import make_extent
from wtool.encodings.hdf5_file import Dataset, Group, Hdf5File, read_file
from wtool.errors import (
    InputError,
    MalformedInput,
    TruncatedInput,
    UnsafeInput,
    UnsupportedError,
    WtoolError,
)
from wtool.sources import BytesSource, FileSource

NUMBERS = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "c8", "c16", "?"]


def objects(file: Hdf5File) -> dict[str, Group | Dataset]:
    found: dict[str, Group | Dataset] = {}
    pending = [file.root]
    while pending:
        group = pending.pop()
        found[group.path] = group
        found.update({dataset.path: dataset for dataset in group.datasets.values()})
        pending.extend(group.groups.values())
    return found


def load(file: Hdf5File, dataset: Dataset) -> np.ndarray:
    assert dataset.type.name is not None
    extent = make_extent(file.image.source, dataset, dataset.path, dataset.type.name)
    return extent.read(0, extent.count).reshape(extent.shape)


def assert_equal_to_h5py(path: Path) -> None:
    """Every object, attribute name, text and value is what h5py reads."""
    file = read_file(FileSource(path))
    ours = objects(file)
    with h5py.File(path) as reference:
        theirs: dict[str, Any] = {"": reference}
        reference.visititems(lambda name, item: theirs.__setitem__(name, item))
        assert set(ours) == set(theirs)
        for name, item in theirs.items():
            found = ours[name]
            assert set(found.attributes) == set(item.attrs)
            for key, value in item.attrs.items():
                attribute = found.attributes[key]
                if attribute.type.name == "string":
                    texts = [
                        t.decode() if isinstance(t, bytes) else str(t)
                        for t in np.atleast_1d(value).ravel()
                    ]
                    assert file.texts(attribute) == texts
            if isinstance(item, h5py.Dataset):
                assert isinstance(found, Dataset)
                if item.shape is None:
                    assert found.shape is None
                    continue
                expected = item[()]
                loaded = load(file, found)
                assert loaded.shape == item.shape
                assert loaded.tobytes() == expected.astype(item.dtype.newbyteorder("=")).tobytes()


def write(path: Path, fill: Callable[[h5py.File], None], **options: Any) -> Path:
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("track_order", [False, True])
def test_trees_attributes_and_types_read_as_h5py_reads_them(
    libver: str, track_order: bool, tmp_path: Path
) -> None:
    def fill(file: h5py.File) -> None:
        for order in "<>":
            for dtype in NUMBERS:
                values = (np.arange(24).reshape(2, 3, 4) - 5).astype(dtype).astype(order + dtype)
                file[f"types/{'le' if order == '<' else 'be'}/{dtype}"] = values
        file["scalar"] = np.float32(2.5)
        file["empty"] = np.zeros((0, 3))
        file["null"] = h5py.Empty("f4")
        file["名前/ü"] = np.arange(3)
        wide = file.create_group("wide", track_order=track_order)
        for index in range(1500):
            wide[f"layer with a rather long name {index}"] = np.int16(index)
        many = file.create_group("many", track_order=track_order)
        for index in range(40):
            many.attrs[f"attribute {index}"] = f"text {index}" * index
        file.attrs["texts"] = ["a", "ü", ""]
        file.attrs["bytes"] = np.array([b"ab", b"c"])
        file.attrs["long"] = "x" * 200_000
        file.attrs["number"] = 7
        file.attrs["none"] = []

    assert_equal_to_h5py(write(tmp_path / "x.h5", fill, libver=libver, track_order=track_order))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"shuffle": True},
        {"fletcher32": True},
    ],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">c8", "u1", "?", "<f8"])
def test_chunked_and_compressed_values_read_as_h5py_reads_them(
    options: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    def fill(file: h5py.File) -> None:
        values = np.random.default_rng(1).normal(size=(37, 11, 5)).astype(dtype)
        file.create_dataset("a", data=values, chunks=(8, 4, 5), **options)
        file.create_dataset(
            "b", data=values.ravel()[:101], chunks=(7,), maxshape=(None,), **options
        )
        holes = file.create_dataset("holes", (50, 50), dtype, chunks=(10, 10), **options)
        holes[15:25, 15:25] = values.ravel()[:100].reshape(10, 10)
        filled = file.create_dataset(
            "filled", (9, 9), dtype, chunks=(4, 4), fillvalue=values.ravel()[7], **options
        )
        filled[2:5, 2:5] = 1

    path = write(tmp_path / "x.h5", fill)
    assert_equal_to_h5py(path)
    file = read_file(FileSource(path))
    dataset = file.root.datasets["a"]
    extent = make_extent(file.image.source, dataset, "a", dataset.type.name or "")
    whole = extent.read(0, extent.count)
    assert extent.read(100, 1234).tobytes() == whole[100:1234].tobytes()
    blocks = [block.copy() for block in extent.blocks(1000)]
    assert np.concatenate(blocks).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fletcher32": True}, "checksum of a chunk is wrong"),
        ({"compression": "gzip"}, "chunk is no deflate data|chunk inflates to another size"),
    ],
)
def test_a_damaged_chunk_is_noticed(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, 1000, "u1")
    path = write(
        tmp_path / "x.h5",
        lambda file: file.create_dataset("x", data=values, chunks=(1000,), **options) and None,
    )
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(0)
    for offset in range(place.byte_offset, place.byte_offset + place.size, 53):
        changed = bytearray(content)
        changed[offset] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(MalformedInput, match=message):
            load_all(path)


def test_a_compact_dataset_reads_as_h5py_reads_it(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        raw = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, plist)
        raw.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype="f4"))

    assert_equal_to_h5py(write(tmp_path / "x.h5", fill))


def test_a_second_hard_link_to_a_dataset_is_the_same_storage(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["a"] = np.arange(4)
        file["b"] = file["a"]

    file = read_file(FileSource(write(tmp_path / "x.h5", fill)))
    assert file.root.datasets["a"].layout == file.root.datasets["b"].layout


def fill_external(file: h5py.File) -> None:
    file.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def fill_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("x", layout)


def fill_loop(file: h5py.File) -> None:
    below = file.create_group("a/b")
    below["again"] = file["a"]


def fill_deep(file: h5py.File) -> None:
    file.create_group("/".join("a" * 150))


def fill_bomb(file: h5py.File) -> None:
    file.create_dataset("x", (1 << 30,), "f8", chunks=(1 << 20,), compression="gzip")


def fill_many_chunks(file: h5py.File) -> None:
    file.create_dataset("x", (2_000_000,), "u1", chunks=(1,))


def fill_huge_chunk(file: h5py.File) -> None:
    file.create_dataset("x", (1 << 30,), "u1", chunks=(1 << 29,), compression="gzip")


REFUSED: dict[str, tuple[Callable[[h5py.File], None], type[WtoolError], str]] = {
    "external storage": (fill_external, UnsafeInput, "tensor 'x': values are in external files"),
    "virtual dataset": (fill_virtual, UnsafeInput, "tensor 'x': virtual dataset"),
    "soft link": (
        lambda file: file.__setitem__("x", h5py.SoftLink("/etc")),
        UnsafeInput,
        "soft link 'x': links are never followed",
    ),
    "external link": (
        lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
        UnsafeInput,
        "external link 'x'",
    ),
    "cycle": (fill_loop, UnsafeInput, "HDF5 group 'a/b/again' is reached twice"),
    "depth": (fill_deep, UnsafeInput, "at most 200000 objects, 100 deep"),
    "bomb": (fill_bomb, UnsafeInput, "claims far more than its file can hold"),
    "many chunks": (fill_many_chunks, UnsafeInput, "too many chunks"),
    "huge chunk": (fill_huge_chunk, UnsafeInput, "chunk too large"),
    "lzf": (
        lambda file: file.create_dataset("x", data=np.zeros(99), compression="lzf"),
        UnsupportedError,
        "compressed with lzf",
    ),
}


@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_what_leads_out_of_the_file_or_has_no_bounds_is_refused(
    case: str, track_order: bool, tmp_path: Path
) -> None:
    fill, kind, message = REFUSED[case]
    path = write(tmp_path / "x.h5", fill, track_order=track_order)
    with pytest.raises(kind, match=message):
        load_all(path)


# Reads each file as far as wtool does, under limits of memory and processor time.
LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_hdf5_file import load_all
from wtool.errors import WtoolError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for path in sys.argv[3:]:
    try:
        load_all(Path(path))
        print("opened")
    except WtoolError as error:
        print(error)
"""


def test_what_is_refused_takes_little_time_and_memory(tmp_path: Path) -> None:
    paths = []
    for case, (fill, _, _) in REFUSED.items():
        path = tmp_path / f"{case}.h5"
        paths.append(str(write(path, fill, track_order=False)))
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), str(folder.parent), *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for line, (_, _, message) in zip(lines, REFUSED.values(), strict=True):
        assert message.removeprefix("tensor 'x': ") in line


def load_all(path: Path) -> None:
    """Read the tree, every text and every number, as far as wtool does."""
    file = read_file(FileSource(path))
    for item in objects(file).values():
        for attribute in item.attributes.values():
            if attribute.type.name == "string":
                file.texts(attribute)
        if isinstance(item, Dataset) and item.type.name not in (None, "string"):
            extent = make_extent(file.image.source, item, item.path, item.type.name or "")
            if extent.count < 1 << 20:
                extent.read(0, extent.count)


def test_a_user_block_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", lambda file: None, userblock_size=512)
    with pytest.raises(MalformedInput, match="not an HDF5 file"):
        read_file(FileSource(path))


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (h5py.string_dtype(), "text of any length"),
        (h5py.vlen_dtype("i4"), "sequences of any length"),
        (h5py.ref_dtype, "references"),
        (np.dtype([("a", "f4"), ("b", "i4")]), "records of 2 fields"),
        (np.dtype(("f4", (3,))), "arrays"),
        (np.dtype("V5"), "opaque records of 5 bytes"),
    ],
)
def test_types_that_are_no_numbers_are_told_apart(dtype: Any, what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", lambda file: file.create_dataset("x", (2,), dtype) and None)
    found = read_file(FileSource(path)).root.datasets["x"].type
    assert found.what == what
    assert found.name in (None, "string")


def small_file(path: Path) -> bytes:
    def fill(file: h5py.File) -> None:
        file["layers/dense/vars/0"] = np.ones((2, 2), "f4")
        file["layers/dense/vars"].attrs["name"] = "d1"
        file.create_dataset("z", data=np.arange(50), chunks=(9,), compression="gzip", shuffle=True)
        new = file.create_group("new", track_order=True)
        for index in range(12):
            new[f"x{index}"] = np.int8(index)

    return write(path, fill).read_bytes()


def test_a_cut_file_says_how_long_it_should_be(tmp_path: Path) -> None:
    content = small_file(tmp_path / "x.h5")
    for size in [*range(200), *range(200, len(content), 97)]:
        with pytest.raises(InputError):
            read_file(BytesSource(content[:size], "cut"))
    with pytest.raises(TruncatedInput) as caught:
        read_file(BytesSource(content[:-10], "cut"))
    assert str(caught.value) == (
        f"cut: at byte {len(content) - 10}: the file is shorter than its superblock says: expected "
        f"{len(content)} bytes, found {len(content) - 10} "
        "(the download or copy was cut short: fetch it again)"
    )


def test_mutated_files_are_read_or_refused_and_never_hang(tmp_path: Path) -> None:
    """2,500 seeded mutations near the structures of the file; each takes well under a second."""
    content = small_file(tmp_path / "x.h5")
    signatures = (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"GCOL")
    spots = [0] + [
        at for s in signatures for at in range(len(content)) if content.startswith(s, at)
    ]
    random = np.random.default_rng(11)
    path = tmp_path / "m.h5"
    for _ in range(2_500):
        changed = bytearray(content)
        for _ in range(random.integers(1, 4)):
            place = min(len(changed) - 1, random.choice(spots) + random.integers(0, 300))
            match random.integers(0, 3):
                case 0:
                    changed[place] = random.choice([0, 1, 127, 128, 255])
                case 1:
                    changed[place] ^= 1 << random.integers(0, 8)
                case _:
                    value = int(random.choice([0, 1 << 62, len(changed) - 8, random.choice(spots)]))
                    changed[place : place + 8] = value.to_bytes(8, "little")
        path.write_bytes(changed)
        with bounded(), contextlib.suppress(WtoolError):
            load_all(path)
