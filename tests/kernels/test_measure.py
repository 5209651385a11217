"""Every statistic of every type, compared with exact fractions and NumPy's quantiles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import QUANTILES, reference, same, smallest_normal, tensor

from wtool.dtypes import DTYPES
from wtool.kernels import measure as measuring
from wtool.kernels import native
from wtool.kernels.blocks import BLOCK, CHUNK
from wtool.kernels.measure import Measured, can_measure, measure
from wtool.kernels.moments import summary
from wtool.kernels.quantiles import quantiles_of

NUMBERS = [name for name, dtype in DTYPES.items() if can_measure(dtype)]
NARROW = [name for name in NUMBERS if DTYPES[name].bits <= 16]
RANDOM = np.random.default_rng(20_24)


@pytest.fixture(params=["numpy", "compiled"])
def engine(request, monkeypatch, tmp_path_factory):
    """Both engines, whatever the size of the work."""
    if request.param == "numpy":
        monkeypatch.setattr(measuring, "load", lambda names, elements: None)
    else:
        monkeypatch.setattr(measuring, "load", lambda names, elements: compiled_loops())
    return request.param


_LOOPS: list[native.Linked] = []


def compiled_loops() -> native.Linked:
    """All loops, compiled once for this process."""
    if not _LOOPS:
        _LOOPS.append(native.Linked({name: native.compile_loop(name) for name in native.LOOPS}))
    return _LOOPS[0]


def measure_one(one, **options) -> Measured:
    [(index, measured)] = list(measure([one], **options))
    assert index == 0
    return measured


def check(values: np.ndarray, dtype: str, rel: float = 1e-12) -> None:
    """All statistics of `values` stored as `dtype` equal the reference's."""
    measured = measure_one(tensor(values, dtype))
    expected = reference(values, smallest_normal(dtype))
    found = summary(measured.moments)
    if DTYPES[dtype].kind == "bool":
        expected = {k: int(v) if k in ("min", "max", "abs_max") else v for k, v in expected.items()}
    same(found, expected, rel)
    if not measured.moments.finite:
        return
    assert measured.values is not None
    assert measured.values.total == measured.moments.finite
    answers = quantiles_of(measured.values, found["min"], found["max"], QUANTILES)
    if DTYPES[dtype].bits <= 16:
        np.testing.assert_array_equal(answers, expected["quantiles"])
    else:
        # Beyond the range of float32 nothing is promised but the extremes.
        lower, upper = (np.clip(v, -(2.0**128), 2.0**128) for v in expected["neighbours"])
        answers = np.clip(answers, -(2.0**128), 2.0**128)
        slack = (np.abs(lower) + np.abs(upper)) * 2.0**-8 * (1 + 2.0**-15) + 2.0**-126
        assert np.all(answers >= lower - slack)
        assert np.all(answers <= upper + slack)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_codes_of_a_narrow_type_give_the_reference(name, engine):
    dtype = DTYPES[name]
    width = dtype.carrier.itemsize
    codes = np.arange(1 << (dtype.bits if dtype.bits >= 8 else 8), dtype=f"u{width}")
    if dtype.kind == "bool":
        check(np.array([True, False, False, True, True]), name)
        return
    if dtype.bits < 8:
        packed = codes.astype(np.uint8)
        one = tensor(packed, name, shape=(8 * len(packed) // dtype.bits,))
        values = one.load()
        found = summary(measure_one(one).moments)
        same(found, reference(values, smallest_normal(name)))
        return
    check(codes.view(dtype.carrier), name)
    repeated = np.repeat(codes, RANDOM.integers(0, 3, len(codes)))
    check(repeated.view(dtype.carrier), name)


def random_values(n: int, dtype: str) -> np.ndarray:
    """Values of a wide type over its usual range, with zeros."""
    carrier = DTYPES[dtype].carrier
    if carrier.kind in "iu":
        limits = np.iinfo(carrier)
        return RANDOM.integers(limits.min, limits.max, n, carrier, endpoint=True)
    values = RANDOM.standard_normal(2 * n if carrier.kind == "c" else n) * 0.02 + 0.001
    values[RANDOM.integers(0, n, n // 10)] = 0
    if carrier.kind == "c":
        return (values[::2] + 1j * values[1::2]).astype(carrier)
    return values.astype(carrier)


WIDE = [name for name in NUMBERS if DTYPES[name].bits > 16 and name != "complex32"]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("n", [1, 7, 1023, 1025, 9001])
def test_random_values_of_a_wide_type_give_the_reference(name, n, engine):
    check(random_values(n, name), name)


@pytest.mark.parametrize("name", ["float32", "float64", "int32", "bfloat16"])
def test_more_than_one_block_gives_the_reference(name, engine):
    n = BLOCK + 12_345
    values = random_values(n, name) if name != "bfloat16" else RANDOM.standard_normal(n)
    check(values.astype(DTYPES[name].carrier), name)


@pytest.mark.parametrize("places", [[0], [200_000], [524_287, 524_288], [130_000, 900_000]])
def test_values_that_are_not_finite_in_a_long_tensor_are_left_out(places, engine):
    """Pieces of a block are measured and counted as they are read; what follows is read anew."""
    values = random_values(1_100_003, "float32")
    for place in places:
        values[place : place + 3] = [np.nan, np.inf, -np.inf]
    seen = []
    check(values, "float32")
    one = tensor(values, "float32")
    list(measure([one], watch=lambda index, start, block: seen.append((start, block.copy()))))
    found = np.concatenate([block for _, block in sorted(seen, key=lambda item: item[0])])
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_nan_infinities_subnormals_and_negative_zeros_are_told_apart(name, engine):
    carrier = DTYPES[name].carrier
    tiny = float(np.finfo(carrier).smallest_subnormal)
    normal = float(np.finfo(carrier).smallest_normal)
    odd = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, normal, -normal, normal - tiny]
    for values in (odd, [-0.0], [-0.0, 0.0, 1.0], [np.nan], [np.inf, -np.inf], [-tiny], odd * 999):
        check(np.array(values, carrier), name)
    assert str(measure_one(tensor(np.array([-0.0], carrier), name)).moments.minimum) == "0.0"


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_spread_far_below_the_mean_keeps_its_digits(name, engine):
    step = 2.0**-10 if name == "float32" else 2.0**-30
    values = (1e4 + RANDOM.integers(-3, 4, 300_000) * step).astype(DTYPES[name].carrier)
    check(values, name)


def test_a_first_chunk_far_from_the_rest_costs_no_digits(engine):
    for rest in (1e-3, 0.0, 1.0):
        values = (RANDOM.standard_normal(CHUNK + 300_000) * 1e-3 + rest).astype(np.float32)
        values[:CHUNK] = 1e4
        check(values, "float32")


def test_float64_at_both_ends_of_its_range_neither_overflows_nor_vanishes(engine):
    for scale in (1e308, 1e-308, 2.0**-1074, 1e160, 1e-160, 1.0):
        values = RANDOM.uniform(-1, 1, 5000) * scale
        check(values, "float64")
        check(np.abs(values), "float64")
    check(np.array([1e308, -1e308, 1e-308, 1.5, 1e308]), "float64")


def test_float32_at_both_ends_of_its_range_keeps_its_sums(engine):
    for scale in (3e38, 1e-38, 1e-45, 1.0):
        check((RANDOM.uniform(-1, 1, 5000) * scale).astype(np.float32), "float32")


def test_float64_sums_that_cancel_keep_twelve_digits(engine):
    values = RANDOM.standard_normal(200_000) * 1e3
    values -= values.mean()
    values += 1e-9
    check(values, "float64", 1e-9)
    expected = reference(values)["mean"]
    found = summary(measure_one(tensor(values, "float64")).moments)["mean"]
    assert abs(found - expected) <= 1e-12 * abs(expected)


@pytest.mark.parametrize("name", ["int64", "uint64", "int32", "uint32"])
def test_integers_at_the_ends_of_their_range_are_exact(name, engine):
    limits = np.iinfo(name)
    values = np.array([limits.min, limits.max, limits.max, 0, 1, 2, limits.max - 1], name)
    check(values, name)
    check(np.full(1000, limits.max, name), name)
    check(np.full(1000, limits.max - 3, name) - np.arange(1000, dtype=name) % 3, name)
    measured = measure_one(tensor(values, name)).moments
    assert measured.powers[0][0] << measured.powers[0][1] == sum(int(v) for v in values)


def test_half_precision_complex_numbers_count_as_two_values_each(engine):
    halves = RANDOM.standard_normal(20_000).astype(np.float16)
    measured = measure_one(tensor(halves, "complex32", shape=(10_000,)))
    same(summary(measured.moments), reference(halves.astype(np.float32)))


def test_an_empty_tensor_has_no_statistics(engine):
    for name in ("float32", "bfloat16", "int64", "bool", "float4_e2m1fn", "complex64"):
        measured = measure_one(tensor(np.empty(0, DTYPES[name].carrier), name))
        found = summary(measured.moments)
        assert found["mean"] is None
        assert found["zeros"] == 0
        assert measured.values is not None
        assert measured.values.total == 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_bit_patterns_give_the_reference(data):
    name = data.draw(st.sampled_from(["float32", "float64", "int64", "uint32", "float16"]))
    carrier = DTYPES[name].carrier
    raw = data.draw(st.binary(max_size=400))
    values = np.frombuffer(raw[: len(raw) // 8 * 8], carrier)
    check(values, name)


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "float8_e5m2", "complex64"])
def test_both_engines_give_the_same_bits(name, monkeypatch):
    n = 3 * BLOCK + 5_003
    values = (RANDOM.standard_normal(n) * 0.02).astype(DTYPES[name].carrier)
    values[::1000] = 0
    special = values.copy()
    special[77::5001] = np.nan
    for one in (tensor(values, name), tensor(special, name), tensor(values[:1000], name)):
        monkeypatch.setattr(measuring, "load", lambda names, elements: None)
        plain = measure_one(one)
        monkeypatch.setattr(measuring, "load", lambda names, elements: compiled_loops())
        compiled = measure_one(one)
        assert summary(plain.moments) == summary(compiled.moments)
        assert plain.moments.powers == compiled.moments.powers
        assert plain.values is not None
        assert compiled.values is not None
        np.testing.assert_array_equal(plain.values.values, compiled.values.values)
        np.testing.assert_array_equal(plain.values.counts, compiled.values.counts)


@pytest.mark.parametrize("name", ["float32", "float16", "int64", "float64"])
def test_results_depend_neither_on_jobs_nor_on_their_size(name, engine, monkeypatch):
    n = 5 * BLOCK + 99
    values = (RANDOM.standard_normal(n) * 100).astype(DTYPES[name].carrier)
    many = [tensor(values, name), tensor(values[:100], name), tensor(values[: BLOCK + 1], name)]

    def everything(**options):
        found = dict(measure(many, **options))
        return [
            (
                m.moments.powers,
                summary(m.moments),
                m.values.values.tolist(),
                m.values.counts.tolist(),
            )
            for _, m in sorted(found.items())
        ]

    expected = everything(jobs=1)
    for job_bytes in (1, 1 << 20, 1 << 40):
        monkeypatch.setattr(measuring, "JOB_BYTES", job_bytes)
        for jobs in (1, 2, 7):
            assert everything(jobs=jobs) == expected
    with ThreadPoolExecutor(3) as executor:
        assert everything(executor=executor) == expected


@pytest.mark.parametrize("name", ["float32", "float16", "int32", "float64", "complex64"])
def test_every_layout_of_the_same_values_gives_the_same_numbers(name, engine):
    carrier = DTYPES[name].carrier
    values = random_values(6 * 5 * 700, name if name != "float16" else "float32").astype(carrier)
    cube = values.reshape(6, 5, 700)
    plain = measure_one(tensor(cube, name))
    swapped = cube.byteswap() if carrier.kind != "c" else cube.view("f4").byteswap()
    turned = np.ascontiguousarray(cube.transpose(2, 0, 1))
    padded = np.zeros((6, 5, 1400), carrier)
    padded[:, :, ::2] = cube
    layouts = [
        tensor(swapped, name, shape=cube.shape, big_endian=True),
        tensor(turned, name, shape=cube.shape, strides=(5, 1, 30)),
        tensor(padded, name, shape=cube.shape, strides=(7000, 1400, 2)),
    ]
    for other in layouts:
        measured = measure_one(other)
        assert measured.moments.powers == plain.moments.powers
        assert summary(measured.moments) == summary(plain.moments)
        np.testing.assert_array_equal(measured.values.values, plain.values.values)
        np.testing.assert_array_equal(measured.values.counts, plain.values.counts)


def test_a_repeated_value_counts_as_often_as_it_is_seen(engine):
    measured = measure_one(tensor(np.array([1.5], np.float32), "float32", shape=(9,), strides=(0,)))
    same(summary(measured.moments), reference(np.full(9, 1.5, np.float32)))


def test_without_quantiles_nothing_is_counted(engine):
    measured = measure_one(tensor(random_values(20_000, "float32"), "float32"), quantiles=False)
    assert measured.values is None
    assert measured.moments.finite == 20_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [100, 70_000, 600_000])
def test_the_mean_of_values_that_cancel_is_right_to_the_last_bit(dtype, count):
    """Large values that cancel leave small ones, which float64 forgets beside them."""
    random = np.random.default_rng(count)
    largest = np.finfo(dtype).max
    small = random.standard_normal(count - 4) * 1e-20
    values = np.concatenate([[largest, -largest / 2], small, [-largest / 2, np.inf]])
    values = values.astype(dtype)
    [(_, found)] = measure([tensor(values, dtype)])
    exact = sum(map(Fraction, values[:-1].astype(float).tolist()))
    assert summary(found.moments)["mean"] == float(exact / (count - 1))
    assert found.moments == next(iter(measure([tensor(values, dtype)], jobs=1)))[1].moments


@pytest.mark.parametrize("name", ["float32", "bfloat16", "complex64", "int4"])
def test_a_watch_sees_every_element_of_every_tensor_once(name, monkeypatch):
    monkeypatch.setattr(measuring, "JOB_BYTES", 1 << 20)
    values = random_values(2 * BLOCK + 98, "float32").astype(DTYPES[name].carrier)
    packed = values.view(np.uint8).reshape(-1, 2) if name == "int4" else None
    data = values if packed is None else (packed[:, 0] & 15) | (packed[:, 1] & 15) << 4
    backwards = values[:600].reshape(20, 30)
    tensors = [tensor(data, name, shape=values.shape), tensor(data[:0], name, shape=(0,))]
    if name != "int4":
        tensors.append(tensor(backwards, name, shape=(30, 20), strides=(1, 30)))
    seen = [np.full(one.count, 7, one.dtype.carrier) for one in tensors]
    counts = [np.zeros(one.count, int) for one in tensors]

    def watch(index, start, block):
        seen[index][start : start + len(block)] = block
        counts[index][start : start + len(block)] += 1

    for _ in measure(tensors, jobs=2, watch=watch):
        pass
    for one, values, count in zip(tensors, seen, counts, strict=True):
        assert (count == 1).all()
        assert values.tobytes() == one.load().tobytes()
