"""Grids of numbers that tensors lie on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from anyvit.evidence_values import Tally, grid

X = np.random.default_rng(0).normal(0, 0.02, (96, 128)).astype("f4")


def rounded(name: str) -> np.ndarray:
    if name.startswith("int"):
        top = {"int8": 127, "int4": 7}[name.partition(" ")[0]]
        step = (np.abs(X).max() if "one" in name else np.abs(X).max(1, keepdims=True)) / top
        return (np.round(X / step) * step).astype("f4")
    return X.astype(getattr(ml_dtypes, name, name)).astype("f4")


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "int8", "int4", "int8 one step"]
)
def test_what_was_rounded_once_is_seen(name: str) -> None:
    assert grid(rounded(name)) == name.partition(" ")[0]
    one = rounded(name).copy()
    one[50, 70] = np.float32(0.0123456789)
    assert grid(one) is None, "one value off the grid is enough"


def test_full_precision_and_constants_say_nothing() -> None:
    assert grid(X) is None and grid(X.astype("f8")) is None
    assert grid(np.ones((64, 64), "f4")) is None and grid(np.zeros(8, "f4")) is None
    assert grid(np.sign(X)) is None, "two values are no format"
    assert grid(np.full((64, 64), np.nan, "f4")) is None


def test_a_tally_tells_only_of_formats_coarser_than_the_stored_one() -> None:
    tally = Tally()
    tally.add("a", rounded("bfloat16"), "float32")
    tally.add("b", rounded("bfloat16"), "float32")
    tally.add("c", X, "float32")
    tally.add("d", rounded("float16"), "float16")
    tally.add("e", np.ones((64, 64), "f4"), "float32")
    best, words, names = tally.said()
    assert best == "bfloat16" and words.startswith("2 of 4") and names[None] == ["c", "d"]
    plain = Tally()
    plain.add("d", rounded("float16"), "float16")
    assert plain.said() is None
