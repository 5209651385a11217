"""Casts beside torch's, bit for bit, and the damage beside a plain computation of it."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch

from wtool.dtypes import DTYPES
from wtool.kernels import native
from wtool.kernels.cast import (
    BLOCK,
    LAYOUTS,
    TARGETS,
    Caster,
    CastLoops,
    Damage,
    is_exact,
    largest,
    merge,
)

NARROW = tuple(LAYOUTS)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The compiled loops, linked."""
    return native.Linked(
        {name: native.compile_loop(name) for name in ("narrow_to_16", "narrow_to_8")}
    )


@pytest.fixture(params=["numpy", "compiled"])
def engine(request, monkeypatch):
    """Both ways to cast in turn."""
    linked = request.getfixturevalue("compiled") if request.param == "compiled" else None
    monkeypatch.setattr("wtool.kernels.cast.load", lambda names, elements: linked)
    return request.param


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def by_torch(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """The bits that torch gives."""
    signed = torch.from_numpy(bits(array).view(f"i{array.itemsize}").copy())
    result = signed.view(getattr(torch, source)).to(getattr(torch, target))
    wide = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    return bits(result.view(wide).numpy())


def measure(array: np.ndarray, source: str, target: str, on_overflow: str = "inf"):
    """(result, damage) of all blocks."""
    loops = CastLoops(DTYPES[target], len(array))
    caster = Caster(DTYPES[source], DTYPES[target], on_overflow, loops)
    out, whole = np.empty(len(array), DTYPES[target].carrier), Damage()
    for start in range(0, len(array), BLOCK):
        part, damage = caster.measure(array[start : start + BLOCK])
        out[start : start + BLOCK] = part
        whole = merge(whole, damage)
    return out, whole


def torch_mode(target: str) -> str:
    """torch clamps float8_e4m3fn, whose overflow is infinite elsewhere."""
    return "clamp" if target == "float8_e4m3fn" else "inf"


def every_exponent() -> np.ndarray:
    """Seeded float32 at and around each place where a narrow type changes: ties, ends, NaN."""
    rng = np.random.default_rng(7)
    exponents = np.arange(256, dtype=np.uint32) << np.uint32(23)
    fractions = [rng.integers(0, 1 << 23, 400, dtype=np.uint32)]
    for kept in range(11):
        step = np.uint32(1 << (22 - kept))
        ties = (rng.integers(0, 1 << kept, 6, dtype=np.uint32) * np.uint32(2) + np.uint32(1)) * step
        fractions += [ties, ties - np.uint32(1), ties + np.uint32(1)]
    fractions.append(np.array([0, 1, (1 << 23) - 1, 1 << 22, 1], np.uint32))
    fraction = np.concatenate(fractions) & np.uint32((1 << 23) - 1)
    positive = (exponents[:, None] | fraction[None, :]).reshape(-1)
    edges = np.array([c.overflow for c in LAYOUTS.values()], np.float32).view(np.uint32)
    positive = np.concatenate([positive, edges, edges - np.uint32(1), edges + np.uint32(1)])
    return np.concatenate([positive, positive | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("target", TARGETS)
def test_every_exponent_of_float32_is_rounded_as_torch_rounds(engine, target):
    values = every_exponent()
    out, _ = measure(values, "float32", target, torch_mode(target))
    assert np.array_equal(bits(out), by_torch(values, "float32", target))
    # Without the blocks that overflow, which the compiled loop leaves to NumPy.
    small = values[np.abs(values) < (LAYOUTS[target].overflow if target in LAYOUTS else np.inf)]
    out, _ = measure(small, "float32", target, torch_mode(target))
    assert np.array_equal(bits(out), by_torch(small, "float32", target))


@pytest.mark.parametrize("target", TARGETS)
def test_float64_is_rounded_as_torch_rounds(target):
    rng = np.random.default_rng(8)
    with np.errstate(invalid="ignore"):
        near = every_exponent()[::7].astype(np.float64)
    values = np.concatenate([near, np.nextafter(near, np.inf), rng.standard_normal(5000) * 1e-3])
    values = np.concatenate([values, [1e300, -1e300, 5e-324, np.inf, np.nan]])
    # torch gives other NaN to what is left over after its last whole vector.
    values = np.concatenate([values, np.ones(-len(values) % 64)])
    out, _ = measure(values, "float64", target, torch_mode(target))
    assert np.array_equal(bits(out), by_torch(values, "float64", target))


@pytest.mark.parametrize(
    ("source", "target"), [(s, t) for s, t in product(NARROW, TARGETS) if s != t]
)
def test_every_code_of_a_narrow_type_is_cast_as_torch_casts(engine, source, target):
    width = DTYPES[source].bits
    codes = np.arange(1 << width, dtype=f"u{width // 8}").view(DTYPES[source].carrier)
    out, _ = measure(codes, source, target, torch_mode(target))
    assert np.array_equal(bits(out), by_torch(codes, source, target))


@pytest.mark.parametrize(
    ("source", "target"),
    [(s, t) for s, t in product((*TARGETS, "float4_e2m1fn"), TARGETS) if s != t],
)
def test_a_cast_is_called_exact_exactly_if_every_value_comes_back(source, target):
    if DTYPES[source].bits <= 16:
        width = DTYPES[source].itemsize
        count = 1 << DTYPES[source].bits
        values = np.arange(count, dtype=f"u{width}").view(DTYPES[source].carrier)
    else:
        finest = np.finfo(source)
        values = np.array([1 + finest.eps, finest.max, finest.smallest_subnormal], source)
    with np.errstate(all="ignore"):
        there = Caster(DTYPES[source], DTYPES[target]).cast(values)
        back = there.astype(np.float64) == values.astype(np.float64)
        same = bool((back | np.isnan(values.astype(np.float64))).all())
    assert is_exact(DTYPES[source], DTYPES[target]) == same


def plain_damage(values: np.ndarray, source: str, target: str) -> dict[str, float]:
    """The damage in float64, element by element, from the types' own limits."""
    old_info, new_info = (
        ml_dtypes.finfo(DTYPES[source].carrier),
        ml_dtypes.finfo(DTYPES[target].carrier),
    )
    out = by_torch(values, source, target).view(DTYPES[target].carrier).astype(np.float64)
    wide = values.astype(np.float64)
    over = np.isfinite(wide) & (
        # torch clamps float8_e4m3fn; 464 is half way to what would be its next value.
        ~np.isfinite(out) | ((target == "float8_e4m3fn") & (np.abs(wide) > 464))
    )
    usable = np.isfinite(wide) & np.isfinite(out) & (wide != 0)
    errors = np.abs(out[usable] - wide[usable]) / np.abs(wide[usable])
    small = (np.abs(out) < float(new_info.smallest_normal)) & (out != 0)
    return {
        "overflowed": int(over.sum()),
        "flushed": int(((wide != 0) & (out == 0)).sum()),
        "subnormal": int((small & (np.abs(wide) >= float(old_info.smallest_normal))).sum()),
        "max_rel": float(errors.max()),
        "mean_rel": float(errors.sum() / (np.isfinite(wide) & np.isfinite(out)).sum()),
    }


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
@pytest.mark.parametrize("source", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("reach", ["inside", "beyond"])
def test_damage_is_what_a_plain_computation_finds(engine, source, target, reach):
    if source == target:
        return
    rng = np.random.default_rng(9)
    size = np.exp2(rng.uniform(-30, 6 if reach == "inside" else 20, 300_000))
    values = (size * rng.choice([-1.0, 1.0], len(size))).astype(DTYPES[source].carrier)
    values[::1000] = 0
    out, damage = measure(values, source, target, torch_mode(target))
    expected = plain_damage(values, source, target)
    found = {name: getattr(damage, name) for name in expected}
    assert found == pytest.approx(expected, rel=1e-13)
    assert damage.count == len(values)
    assert damage.worst is not None
    assert (damage.old, damage.new) == (float(values[damage.worst]), float(out[damage.worst]))
    if damage.overflowed:
        assert abs(damage.old) == np.abs(values.astype(np.float64)).max()
    else:
        assert abs(damage.new - damage.old) / abs(damage.old) == pytest.approx(damage.max_rel)


@pytest.mark.parametrize("target", NARROW)
def test_compiled_loops_and_numpy_find_the_same_numbers(compiled, monkeypatch, target):
    rng = np.random.default_rng(10)
    values = np.exp2(rng.uniform(-20, 8, 2 * BLOCK + 77)).astype(np.float32)
    answers = []
    for linked in (None, compiled):
        monkeypatch.setattr("wtool.kernels.cast.load", lambda names, elements, x=linked: x)
        out, damage = measure(values, "float32", target)
        answers.append((bits(out).tolist(), damage))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("target", NARROW)
def test_what_overflows_is_clamped_or_infinite_as_asked(engine, target):
    beyond = LAYOUTS[target].overflow
    inside = np.nextafter(np.float32(beyond), np.float32(0))
    values = np.array([beyond, -beyond, inside, np.inf, np.nan, 1.0], np.float32)
    top = largest(DTYPES[target])
    out, damage = measure(values, "float32", target, "inf")
    wide = out.astype(np.float64)
    if target == "float8_e4m3fn":
        assert np.isnan(wide[[0, 1, 3]]).all()
        assert damage.overflowed == 3  # infinity is lost too
    else:
        assert wide[[0, 1, 3]].tolist() == [np.inf, -np.inf, np.inf]
        assert damage.overflowed == 2
    assert wide[2] == top
    out, damage = measure(values, "float32", target, "clamp")
    assert out.astype(np.float64)[:3].tolist() == [top, -top, top]
    assert damage.overflowed == (3 if target == "float8_e4m3fn" else 2)
    assert damage.max_rel < 0.1


def test_nothing_and_zeros_are_undamaged(engine):
    for values in (np.empty(0, np.float32), np.zeros(5, np.float32)):
        out, damage = measure(values, "float32", "float16")
        assert out.tolist() == values.tolist()
        assert damage == Damage(len(values), measured=len(values))
