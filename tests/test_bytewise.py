"""What bytes show of where numbers came from: every reading that can be told, and none where nothing can."""

from __future__ import annotations

import numpy as np
import pytest

from anyvit.bytewise import misplaced, narrower

VALUES = np.random.default_rng(0).standard_normal(4_000) * 0.02


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"uint{8 * values.itemsize}")


def said(values: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        return misplaced(bits(values), values.dtype, values.astype("float64"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_order_and_place(dtype: str) -> None:
    values = VALUES.astype(dtype)
    assert said(values) == ""
    assert "other byte order" in said(values.byteswap()) or dtype == "float16"  # two bytes: swapped or late by one
    assert said(values.byteswap()) != ""
    for shift in range(1, values.itemsize):
        raw = values.tobytes()
        late = np.frombuffer(raw[-shift:] + raw[:-shift], dtype)
        found = said(late)
        # Late by half or more of a double, the top bytes are another number's, which is as good.
        assert found and (f"begin {shift} bytes later" in found or "another order or place" in found), (shift, found)


def test_what_has_no_better_reading_is_not_named() -> None:
    draw = np.random.default_rng(1)
    noise = draw.integers(0, 256, 16_000, "uint8").view("float32")
    assert said(noise) == ""  # no weights in any order
    assert said(np.full(4_000, np.nan, "float32")) == ""
    assert said(np.zeros(4_000, "float32")) == said(np.ones(4_000, "float32").byteswap()) == ""
    assert said(VALUES.astype("float32")[:40].byteswap()) == ""  # too few
    assert said((VALUES * 1e-30).astype("float32")) == ""  # small, and small in every order


def test_narrower_types() -> None:
    import ml_dtypes

    full = VALUES.astype("float32")
    assert narrower(bits(full)) == ""
    assert narrower(bits(full.astype("float16").astype("float32"))) == "float16"
    assert narrower(bits(full.astype(ml_dtypes.bfloat16).astype("float32"))) == "bfloat16"
    assert narrower(bits(np.where(np.arange(4_000) == 3_000, full, full.astype("float16")).astype("float32"))) == ""
    assert narrower(bits(np.zeros(4_000, "float32"))) is None and narrower(bits(full[:40])) is None
    large = (full * 1e8).astype(ml_dtypes.bfloat16).astype("float32")
    assert narrower(bits(large)) == "bfloat16"
