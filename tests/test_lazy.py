"""Tensors not yet read: what moves values moves them right."""

from __future__ import annotations

import numpy as np
import pytest

from anyvit.lazy import TILE, computed, contiguous, from_array

SHAPES = [(2 * TILE + 3, TILE + 1), (7, 600, 9), (1024, 3, 4, 4), (70, 70), (2, 3), (0, 5), (5,), ()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_any_order_of_axes_becomes_dense(shape: tuple[int, ...], dtype: str) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2000).reshape(shape).astype(dtype)  # all float16 holds
    for turn in range(len(shape) or 1):
        order = np.roll(np.arange(len(shape)), turn)
        for view in (array.transpose(order), array.transpose(order)[::-1] if shape else array):
            found = contiguous(view)
            assert found.flags.c_contiguous and found.shape == view.shape and found.dtype == view.dtype
            assert np.array_equal(found, view)


def test_a_repeated_value_becomes_dense() -> None:
    view = np.broadcast_to(np.arange(3.0)[:, None], (3, 5000)).T
    assert np.array_equal(contiguous(view), view) and contiguous(view).flags.c_contiguous


def test_what_is_computed_lies_in_order() -> None:
    matrix = from_array(np.arange(9000, dtype="float32").reshape(90, 100), "a")
    lazy = computed((100, 90), "float32", np.transpose, [matrix])
    assert lazy.read().flags.c_contiguous and lazy.origin == ("a",)
    assert np.array_equal(lazy.read(), matrix.read().T)
