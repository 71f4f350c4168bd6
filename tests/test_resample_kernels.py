from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import resample_kernels as rk
from anyvit.errors import BadArgument

SIDES = st.integers(1, 40)
WAYS = [(mode, *flags) for mode in rk.MODES for flags in ((False, False), (True, False), (False, True))]


def torch_matrix(old: int, new: int, mode: str, **options: object) -> np.ndarray:
    """torch's weights, read off its answers to the unit vectors; four columns, so that no layout is ambiguous."""
    unit = torch.eye(old)[None].unsqueeze(-1).expand(1, old, old, 4)
    to = {"scale_factor": (options.pop("factor"), 1.0)} if "factor" in options else {"size": (new, 4)}
    return torch.nn.functional.interpolate(unit, mode=mode, **to, **options)[0, :, :, 0].T.numpy()


@pytest.mark.parametrize(("mode", "antialias", "align_corners"), WAYS)
@settings(max_examples=60, deadline=None)
@given(old=SIDES, new=SIDES)
def test_matrix_is_torchs(mode: str, antialias: bool, align_corners: bool, old: int, new: int) -> None:
    ours = rk.matrix(old, new, mode, antialias=antialias, align_corners=align_corners)
    theirs = torch_matrix(old, new, mode, antialias=antialias, align_corners=align_corners)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("mode", "antialias"), [(mode, flag) for mode in rk.MODES for flag in (False, True)])
@settings(max_examples=60, deadline=None)
@given(old=SIDES, new=SIDES)
def test_matrix_with_factor_is_torchs(mode: str, antialias: bool, old: int, new: int) -> None:
    factor = (new + 0.1) / old
    ours = rk.matrix(old, new, mode, antialias=antialias, factor=factor)
    theirs = torch_matrix(old, new, mode, antialias=antialias, factor=factor)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("mode", "antialias", "align_corners"), WAYS)
def test_matrix_keeps_a_constant(mode: str, antialias: bool, align_corners: bool) -> None:
    for old, new in ((7, 3), (3, 7), (14, 16), (1, 5), (5, 1)):
        sums = rk.matrix(old, new, mode, antialias=antialias, align_corners=align_corners).sum(axis=1)
        np.testing.assert_allclose(sums, 1, atol=1e-12)


def test_the_two_cubics_differ_even_when_growing() -> None:
    assert np.abs(rk.matrix(14, 28) - rk.matrix(14, 28, antialias=True)).max() > 0.01


def test_zoom_matrix_is_scipys_at_every_size() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    with_zeros = 0
    for old in range(1, 33):
        for new in range(1, 49):
            theirs = ndimage.zoom(np.eye(old), (new / old, 1), order=1)
            ours = rk.zoom_matrix(old, new)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=f"{old} → {new}")
            with_zeros += not ours[-1].any()
    assert with_zeros > 10, "the overshoot of scipy's coordinates is part of what is reproduced"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(4, 15))
def test_spline_matrix_is_fitpacks(seed: int, count: int) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    random = np.random.default_rng(seed)
    points = np.cumsum(random.uniform(0.3, 2.0, count)) - count / 2
    places = np.linspace(points[0] - 1, points[-1] + 1, 23)
    values = random.standard_normal((count, count))
    weights = rk.spline_matrix(points, places)
    theirs = interpolate.RectBivariateSpline(points, points, values)(places, places)
    np.testing.assert_allclose(weights @ values @ weights.T, theirs, rtol=0, atol=1e-9 * max(1, np.abs(theirs).max()))


def test_spline_reproduces_a_cubic_and_needs_four_points() -> None:
    points, places = [0.0, 0.5, 2.0, 3.5, 4.0], np.linspace(0, 4, 9)
    np.testing.assert_allclose(rk.spline_matrix(points, places) @ np.power(points, 3), places**3, atol=1e-12)
    with pytest.raises(BadArgument, match="four points"):
        rk.spline_matrix([0.0, 1.0, 2.0], [0.5])


def test_piecewise_is_exact_at_its_points_and_constant_outside() -> None:
    points = [-3.0, -1.0, 0.0, 1.0, 3.0]
    np.testing.assert_array_equal(rk.piecewise_matrix(points, points), np.eye(5))
    np.testing.assert_array_equal(rk.piecewise_matrix(points, [-9.0, 9.0]), np.eye(5)[[0, -1]])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_separable_keeps_kind_and_type(dtype: str) -> None:
    from anyvit.dtypes import np_dtype

    rows, columns = rk.matrix(5, 3), rk.matrix(4, 6)
    array = np.random.default_rng(0).standard_normal((5, 4, 2)).astype(np_dtype(dtype))
    tensor = torch.from_numpy(array.astype(np.float64)).to(getattr(torch, dtype))
    ours, theirs = rk.separable(array, rows, columns), rk.separable(tensor, rows, columns)
    assert isinstance(ours, np.ndarray) and ours.dtype == array.dtype and ours.shape == (3, 6, 2)
    assert theirs.dtype == tensor.dtype and tuple(theirs.shape) == (3, 6, 2)
    np.testing.assert_allclose(ours.astype(np.float64), theirs.double().numpy(), rtol=0, atol=1e-15)


def test_separable_has_gradients() -> None:
    tensor = torch.randn(4, 4, 1, requires_grad=True, generator=torch.Generator().manual_seed(0))
    rk.separable(tensor, rk.matrix(4, 2), rk.matrix(4, 2)).sum().backward()
    assert tensor.grad is not None and float(tensor.grad.sum()) == pytest.approx(4)


def test_arguments_are_checked() -> None:
    with pytest.raises(BadArgument, match="no interpolation is called 'nearest'"):
        rk.matrix(4, 2, "nearest")
    with pytest.raises(BadArgument, match="only real numbers"):
        rk.check_array(np.zeros((4, 2), np.int8), "rows dim")
    with pytest.raises(BadArgument, match="a numpy array or torch tensor"):
        rk.check_array([[1.0]], "rows dim")
    with pytest.raises(BadArgument, match="another shape"):
        rk.check_array(np.zeros((4, 2)), "rows dim", 5)
