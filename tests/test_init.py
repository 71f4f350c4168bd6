"""New tensors: named schemes, from a seed, the same whatever else is made."""

from __future__ import annotations

import numpy as np

from anyvit.init import new

KNOWN = [0.00738678453, 0.0014019066, 0.030791169, 0.0198967401]


def test_zeros_and_ones() -> None:
    assert not new("a", (2, 3)).read().any()
    assert (new("a", (2, 3), "ones").read() == 1).all()
    assert new("a", (2, 3)).origin == () and new("a", (2, 3)).dtype == "float32"


def test_random_numbers_hang_on_name_and_seed_alone() -> None:
    first, other = new("a", (40, 50), "trunc_normal"), new("b", (40, 50), "trunc_normal")
    other.read()
    np.testing.assert_array_equal(first.read(), new("a", (40, 50), "trunc_normal").read())
    assert not np.array_equal(first.read(), other.read())
    assert not np.array_equal(first.read(), new("a", (40, 50), "trunc_normal", seed=1).read())


def test_the_numbers_are_known() -> None:
    """The same on every machine and in every version: what was trained from them can be made again."""
    values = new("condition.fc1.weight", (2, 2), "trunc_normal", seed=3).read()
    np.testing.assert_allclose(values.ravel(), KNOWN, rtol=0, atol=1e-9)


def test_cut_at_two_deviations() -> None:
    values = new("x", (500, 100), "trunc_normal").read()
    assert np.abs(values).max() <= 0.04 and np.abs(values).max() > 0.039
    assert abs(values.mean()) < 3e-4 and abs(values.std() - 0.02 * 0.8796) < 2e-4
