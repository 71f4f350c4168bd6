"""What values say of damage: planted damage is found at its place, real weights are never accused."""

from __future__ import annotations

import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anyvit import scan as module
from anyvit.containers import open_checkpoint
from anyvit.lazy import Lazy, from_array
from anyvit.witness import look


def scan(lazy: Lazy) -> module.Seen:
    """What a look meets, without the checksum."""
    return replace(look(lazy, "crc32"), digest="")


KINDS = {
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def weights(dtype: str = "float32", shape: tuple[int, ...] = (64, 96)) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(shape) * 0.05).astype(KINDS[dtype])


@pytest.mark.parametrize("dtype", KINDS)
def test_sound_values_say_nothing(dtype: str) -> None:
    seen = scan(from_array(weights(dtype)))
    assert (seen.bad, seen.lone, seen.gaps, seen.constant, seen.tiny) == (None, [], None, None, 0)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(dtype: str, value: float) -> None:
    if dtype == "float8_e4m3fn" and not np.isnan(value):
        return
    array = weights(dtype)
    array[7, 3] = array[9, 0] = value
    found = scan(from_array(array)).bad
    assert found is not None and found[:2] == (2, 7 * 96 + 3)
    assert found[2] == value or (np.isnan(value) and np.isnan(found[2]))


def test_the_place_is_right_beyond_the_first_piece() -> None:
    array = weights(shape=(1000, 700))
    array[900, 5] = np.nan
    array[950, 5] = 1e30
    seen = scan(from_array(array))
    assert seen.bad is not None and seen.bad[:2] == (1, 900 * 700 + 5)
    assert seen.lone == [(950 * 700 + 5, pytest.approx(1e30))]


@pytest.mark.parametrize(("dtype", "bit", "share"), [("float32", 30, 1), ("bfloat16", 14, 1), ("float16", 14, 0.85)])
def test_a_flipped_top_bit_of_an_exponent(dtype: str, bit: int, share: float) -> None:
    array = weights(dtype, (128, 128))
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    draw, hits = np.random.default_rng(2), 0
    for at in draw.integers(bits.size, size=100):
        bits[at] ^= bits.dtype.type(1 << bit)
        seen = scan(from_array(array))
        hits += [i for i, _ in seen.lone] == [at] or (seen.bad is not None and seen.bad[1] == at)
        bits[at] ^= bits.dtype.type(1 << bit)
    assert hits >= 100 * share


def test_several_flipped_bits() -> None:
    array = weights(shape=(600, 600))
    bits = array.reshape(-1).view("u4")
    places = [5, 70_000, 350_000]
    bits[places] ^= np.uint32(1 << 30)
    assert sorted(at for at, _ in scan(from_array(array)).lone) == places


def test_what_is_only_large_is_not_lone() -> None:
    gains = 1 + weights(shape=(384,))
    gains[17] = 60.0
    table = weights(shape=(197, 384))
    table[0] *= 400
    tail = np.random.default_rng(0).standard_cauchy((256, 256)).astype("float32")
    for array in (gains, table, tail, np.array([1e6, 1, 1], "float32")):
        assert scan(from_array(array)).lone == []


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5])
def test_constants(value: float) -> None:
    assert scan(from_array(np.full((9, 7), value, "float32"))).constant == value
    signs = np.full((9, 7), 1.0, "float32")
    signs[0, 0] = -1
    assert scan(from_array(signs)).constant is None


def test_a_gap_of_zeros_is_found_wherever_it_begins() -> None:
    for start in (0, 1, 1023, 300_000):
        array = weights(shape=(1024, 400)).reshape(-1)
        array[start : start + 2048] = 0
        gaps = scan(from_array(array.reshape(1024, 400))).gaps
        assert gaps is not None and start <= gaps[1] < start + 1024 and gaps[0] in (1, 2)
    array = weights(shape=(1024, 400)).reshape(-1)
    array[5000:5900] = 0
    assert scan(from_array(array)).gaps is None


def test_values_below_the_smallest_normal_number() -> None:
    array = weights()
    array[0, :5] = 1e-40
    array[1, :5] = 0
    assert scan(from_array(array)).tiny == 5
    assert scan(from_array((array * 1e-3).astype("float16"))).tiny == 0


def test_of_other_types_there_is_nothing_to_say() -> None:
    assert scan(from_array(np.zeros((3, 3), "int64"))) == module.Seen()


def test_empty_and_scalar() -> None:
    assert scan(from_array(np.zeros((0, 3), "float32"))) == module.Seen()
    assert scan(from_array(np.array(2.5, "float32"))).constant == 2.5


@given(
    st.sampled_from(["float16", "float32", "float64"]).flatmap(
        lambda d: arrays.arrays(d, arrays.array_shapes(max_dims=2, max_side=40))
    )
)
@settings(max_examples=150, deadline=None)
def test_any_array_agrees_with_numpy(array: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = scan(from_array(array))
    bad = ~np.isfinite(array.reshape(-1))
    assert (seen.bad or (0, -1))[:2] == ((int(bad.sum()), int(bad.argmax())) if bad.any() else (0, -1))
    flat = array.reshape(-1)
    same = bool(((flat == flat[0]) & (np.signbit(flat) == np.signbit(flat[0]))).all()) or not flat.any()
    if not bad.any():
        assert (seen.constant is not None) == same
    if array.dtype != np.float16:
        tiny = (flat != 0) & (np.abs(flat) < np.finfo(array.dtype).smallest_normal)
        assert seen.tiny == tiny.sum()


@needs_shared
def test_no_real_or_true_weight_is_accused() -> None:
    import json

    paths = [SHARED / "real" / "dinov2-small-hf"]
    paths += [
        case.parent / json.loads(case.read_text())["path"]
        for case in sorted((SHARED / "cases").glob("*/case.json"))
        if case.parent.name != "onnx-p"
    ]
    looked = 0
    for path in paths:
        for name, tensor in open_checkpoint(path).tensors.items():
            seen = scan(tensor)
            assert (seen.bad, seen.lone, seen.gaps) == (None, [], None), (path, name, seen)
            looked += 1
    assert looked > 1000


def damaged(draw: np.random.Generator, kind: str, dtype: str) -> np.ndarray:
    """A matrix of more than one piece in which one thing is wrong, somewhere."""
    array = (draw.standard_normal((600, 1100)) * 10.0 ** draw.integers(-3, 2)).astype(dtype)
    flat, at = array.reshape(-1), int(draw.integers(0, array.size - 9000))
    match kind:
        case "nan":
            flat[at] = draw.choice([np.nan, np.inf, -np.inf])
        case "large":
            flat[at] = 1e3 * 10.0 ** draw.integers(1, 30)
        case "zeros":
            flat[at : at + int(draw.integers(1500, 9000))] = draw.choice([0.0, -0.0])
        case "tiny":
            flat[int(draw.integers(1, 60)) :: int(draw.integers(1, 300))] = 2e-310 if dtype == "float64" else 1e-41
        case "constant":
            flat[:] = draw.choice([0.0, 1.0, -2.5])
        case "nearly constant":
            flat[:] = 0.5
            flat[at] = -0.25
    return array


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["nothing", "nan", "large", "zeros", "tiny", "constant", "nearly constant"])
def test_a_glance_misses_nothing_that_a_close_look_finds(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for seed in range(6):
        array = damaged(np.random.default_rng(seed), kind, dtype)
        glanced = scan(from_array(array))
        with monkeypatch.context() as patch:
            patch.setattr(module, "GLANCED", ())
            close = scan(from_array(array))
        assert str(glanced) == str(close), seed  # NaN is not equal to itself
        seen.add(
            (glanced.bad, tuple(glanced.lone), glanced.gaps, glanced.tiny, glanced.constant)
            == (None, (), None, 0, None)
        )
    assert (False in seen) == (kind not in ("nothing", "nearly constant"))
