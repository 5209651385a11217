"""Reads of every layout, compared with NumPy's own indexing of the same bytes."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput, TruncatedInput, UnsupportedError
from wtool.extents import Absent, Decoded, Strided, Tiled, boxes
from wtool.sources import BytesSource


def strided(array: np.ndarray, dtype: str, **kwargs) -> Strided:
    data = array.tobytes()
    shape = kwargs.pop("shape", array.shape)
    return Strided(BytesSource(data, "memory"), 0, len(data), DTYPES[dtype], shape, **kwargs)


@st.composite
def views(draw):
    """A random view of arange(n): permuted, sliced, expanded, reversed."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=4)))
    base = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    view = base.transpose(draw(st.permutations(range(len(shape)))))
    cuts = tuple(
        slice(draw(st.integers(0, 2)), None, draw(st.sampled_from([1, 2, -1]))) for _ in view.shape
    )
    view = view[cuts] if view.ndim else view
    if draw(st.booleans()) and view.ndim:
        view = np.broadcast_to(view[:, None], (view.shape[0], 3, *view.shape[1:]))
    return base, view


@given(views(), st.data())
@settings(deadline=None, max_examples=300)
def test_any_view_reads_as_numpy_reads_it(pair, data):
    base, view = pair
    first = 0
    if view.size:
        first = (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // 4
    extent = strided(
        base.reshape(-1),
        "float32",
        shape=view.shape,
        first=first,
        strides=tuple(s // 4 for s in view.strides),
    )
    start = data.draw(st.integers(0, view.size))
    stop = data.draw(st.integers(start, view.size))
    np.testing.assert_array_equal(extent.read(start, stop), view.reshape(-1)[start:stop])
    blocks = [block.copy() for block in extent.blocks(data.draw(st.integers(1, 64)))]
    joined = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    np.testing.assert_array_equal(joined, view.reshape(-1))


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.bits >= 8], ids=str)
def test_a_transposed_tensor_of_every_type_reads_as_numpy_reads_it(dtype):
    codes = np.arange(6 * dtype.itemsize, dtype=np.uint8) % 2
    plain = strided(codes, dtype.name, shape=(2, 3))
    turned = strided(codes, dtype.name, shape=(3, 2), strides=(1, 3))
    expected = plain.read(0, 6).reshape(2, 3).T.reshape(-1)
    assert turned.read(0, 6).tobytes() == expected.tobytes()


def test_a_large_transposed_tensor_is_read_in_bounded_pieces():
    base = np.arange(3000 * 2000, dtype=np.float32).reshape(3000, 2000)
    extent = strided(base, "float32", shape=(2000, 3000), strides=(1, 2000))
    got = np.concatenate([block.copy() for block in extent.blocks(1 << 18)])
    np.testing.assert_array_equal(got.reshape(2000, 3000), base.T)


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("float32", np.array([1.5, -2.25], np.float32)),
        ("float64", np.array([1.5, -2.25])),
        ("int16", np.array([1, -2], np.int16)),
        ("complex64", np.array([1 + 2j, -3j], np.complex64)),
        ("complex128", np.array([1 + 2j, -3j])),
        ("bfloat16", np.array([1.5, -2], ml_dtypes.bfloat16)),
        ("uint8", np.array([1, 2], np.uint8)),
    ],
)
def test_big_endian_elements_are_swapped_per_component(dtype, array):
    parts = array.view(np.float32) if dtype == "complex64" else array
    parts = array.view(np.float64) if dtype == "complex128" else parts
    parts = parts.view(f"u{parts.dtype.itemsize}").byteswap()
    extent = strided(parts, dtype, shape=array.shape, big_endian=True)
    np.testing.assert_array_equal(extent.read(0, 2), array)


def test_complex32_pairs_of_halves_are_carried_as_complex64():
    halves = np.array([1, 2, -3, 0.5], np.float16)
    np.testing.assert_array_equal(
        strided(halves, "complex32", shape=(2,)).read(0, 2), [1 + 2j, -3 + 0.5j]
    )


def test_conjugate_and_negative_views_are_applied():
    array = np.array([1 + 2j, -3j], np.complex64)
    np.testing.assert_array_equal(strided(array, "complex64", conj=True).read(0, 2), array.conj())
    np.testing.assert_array_equal(strided(array, "complex64", neg=True).read(0, 2), -array)


def test_booleans_are_normalised_from_any_byte():
    got = strided(np.array([0, 1, 7, 255], np.uint8), "bool").read(0, 4)
    assert got.tolist() == [False, True, True, True]
    assert got.view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "dtype", ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "int4", "uint4", "int2", "uint2"]
)
def test_every_code_below_a_byte_unpacks_from_the_lowest_bits_up(dtype):
    bits = DTYPES[dtype].bits
    codes = np.arange(1 << bits, dtype=np.uint8)
    number = sum(int(c) << (i * bits) for i, c in enumerate(codes))
    packed = np.frombuffer(number.to_bytes(len(codes) * bits // 8, "little"), np.uint8)
    got = strided(packed, dtype, shape=(len(codes),)).read(1, len(codes))
    carrier = DTYPES[dtype].carrier
    mask = (1 << bits) - 1
    assert (got.astype(carrier).view(np.uint8) & mask).tolist() == codes[1:].tolist()
    if dtype == "int4":
        assert got.astype(int).tolist() == [1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1]
    if dtype == "float4_e2m1fn":
        assert got.astype(float).tolist()[:7] == [0.5, 1, 1.5, 2, 3, 4, 6]


def test_int4_stored_one_per_byte():
    got = strided(np.array([0, 7, 8, 15, 0xF8], np.uint8), "int4", bits=8).read(0, 5)
    assert got.astype(int).tolist() == [0, 7, -8, -1, -8]


def test_stride_zero_may_claim_any_count_but_is_not_loaded_whole():
    extent = strided(np.ones(1, np.float32), "float32", shape=(1 << 40,), strides=(0,))
    assert extent.read((1 << 40) - 3, 1 << 40).tolist() == [1, 1, 1]
    from wtool.checkpoint import Tensor

    with pytest.raises(UnsupportedError, match="repeats a few stored bytes"):
        Tensor("a", "a", extent).load()


@pytest.mark.parametrize(
    ("shape", "kwargs", "error"),
    [
        ((3,), {}, MalformedInput),
        ((2,), {"first": 1}, MalformedInput),
        ((2,), {"strides": (2,)}, MalformedInput),
        ((2,), {"strides": (-1,)}, MalformedInput),
        ((2,), {"strides": (1, 1)}, MalformedInput),
        ((-1,), {}, MalformedInput),
        ((1 << 62, 4), {}, MalformedInput),
        ((1,) * 65, {}, MalformedInput),
    ],
)
def test_a_view_outside_its_storage_is_refused(shape, kwargs, error):
    with pytest.raises(error):
        strided(np.zeros(2, np.float32), "float32", shape=shape, **kwargs)


def test_a_storage_outside_its_file_is_refused():
    with pytest.raises(TruncatedInput, match="expected 8 bytes, found 4"):
        Strided(BytesSource(b"1234", "m"), 0, 8, DTYPES["float32"], (2,))


def test_an_empty_view_may_lie_anywhere():
    assert strided(np.zeros(2, np.float32), "float32", shape=(0, 3), first=99).read(0, 0).shape == (
        0,
    )


def test_tiles_paste_to_one_tensor_and_must_cover_it():
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    cuts = [((0, 0), (2, 6)), ((2, 0), (2, 2)), ((2, 2), (2, 4))]
    pieces = [
        (
            at,
            strided(
                np.ascontiguousarray(whole[at[0] : at[0] + n[0], at[1] : at[1] + n[1]]), "float32"
            ),
        )
        for at, n in cuts
    ]
    tiled = Tiled(DTYPES["float32"], (4, 6), pieces)
    for start in range(25):
        np.testing.assert_array_equal(tiled.read(start, 24), whole.reshape(-1)[start:])
    with pytest.raises(MalformedInput, match="cover"):
        Tiled(DTYPES["float32"], (4, 6), pieces[:2])
    with pytest.raises(MalformedInput, match="outside"):
        Tiled(DTYPES["float32"], (3, 6), pieces)
    doubled = [pieces[0], pieces[1], ((0, 2), pieces[2][1])]
    with pytest.raises(MalformedInput, match="overlap"):
        Tiled(DTYPES["float32"], (4, 6), doubled)


def test_decoded_values_are_checked_against_the_announced_shape():
    good = Decoded(DTYPES["int32"], (3,), lambda: np.arange(3, dtype=np.int32))
    assert good.read(1, 3).tolist() == [1, 2]
    assert [b.tolist() for b in good.blocks(8)] == [[0, 1], [2]]
    with pytest.raises(MalformedInput, match="another shape"):
        Decoded(DTYPES["int32"], (4,), lambda: np.arange(3, dtype=np.int32)).read(0, 1)


def test_absent_values_say_why():
    with pytest.raises(UnsupportedError, match="meta device"):
        Absent(DTYPES["float32"], (2,), "saved on the meta device").read(0, 1)


@given(st.lists(st.integers(1, 4), min_size=0, max_size=4), st.data())
def test_boxes_cover_a_range_once_in_order(shape, data):
    total = int(np.prod(shape))
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    flat = np.arange(total).reshape(shape)
    got = [
        flat[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))].reshape(-1)
        for lo, hi, _, _ in boxes(shape, start, stop)
    ]
    joined = np.concatenate(got) if got else np.empty(0, int)
    assert joined.tolist() == list(range(start, stop))


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_accepted_exactly_where_each_element_is_covered_once(seed):
    generator = np.random.default_rng(seed)
    accepted = 0
    for _ in range(100):
        shape = tuple(int(n) for n in generator.integers(1, 5, generator.integers(1, 4)))
        cuts = [sorted({0, n, int(generator.integers(0, n + 1))}) for n in shape]
        boxes = [list(itertools.pairwise(edges)) for edges in cuts]
        pieces = [tuple(zip(*box, strict=True)) for box in itertools.product(*boxes)]
        if generator.random() < 0.7:
            place = int(generator.integers(len(pieces)))
            sizes = [b - a for a, b in zip(*pieces[place], strict=True)]
            room = [n - m + 1 for n, m in zip(shape, sizes, strict=True)]
            starts = [int(generator.integers(0, n)) for n in room]
            stops = tuple(a + m for a, m in zip(starts, sizes, strict=True))
            pieces[place] = (tuple(starts), stops)
        covered = np.zeros(shape, int)
        for starts, stops in pieces:
            covered[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))] += 1
        placed = [
            (
                starts,
                Absent(
                    DTYPES["float32"], tuple(b - a for a, b in zip(starts, stops, strict=True)), ""
                ),
            )
            for starts, stops in pieces
        ]
        if (covered == 1).all():
            Tiled(DTYPES["float32"], shape, placed)
            accepted += 1
        else:
            with pytest.raises(MalformedInput, match="slices overlap"):
                Tiled(DTYPES["float32"], shape, placed)
    assert 10 < accepted < 100


def test_a_hundred_thousand_pieces_that_all_meet_are_checked_in_time():
    n = 33_000
    rows = [((i, 0), Absent(DTYPES["float32"], (1, n), "")) for i in range(2 * n)]
    columns = [((0, n + i), Absent(DTYPES["float32"], (2 * n, 1), "")) for i in range(n)]
    assert Tiled(DTYPES["float32"], (2 * n, 2 * n), rows + columns).count == 4 * n * n
