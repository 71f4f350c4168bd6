"""One-dimensional resizing as weight matrices: every rule that the recipes of `resample` are made of.

A picture, a position table or a patch kernel is resized along its rows and along its columns, so a `(new, old)` matrix
an axis says all of it, and its pseudo-inverse is the pseudo-inverse of the whole.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anyvit.errors import BadArgument

if TYPE_CHECKING:
    import numpy as np

Array = TypeVar("Array")
"""A numpy array or a torch tensor; what comes in goes out."""

MODES = ("bicubic", "bilinear")


def matrix(
    old: int,
    new: int,
    mode: str = "bicubic",
    *,
    antialias: bool = False,
    align_corners: bool = False,
    factor: float | None = None,
) -> np.ndarray:
    """The weights with which torch (and jax, with antialiasing) resizes one axis.

    Arguments:
        old: elements before.
        new: elements after.
        mode: "bicubic" or "bilinear".
        antialias: widen the filter when the axis shrinks. It also selects another cubic: a = -0.5 instead of a = -0.75,
            so that the two differ when the axis grows, too.
        align_corners: the first and the last element keep their places.
        factor: new over old as the coordinates see it; None means `new / old`. DINO's differs from it.

    Returns:
        (new, old) float64; every row adds up to 1.

    Example:
        >>> matrix(4, 2, "bilinear").tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]

    Source: https://github.com/pytorch/pytorch/blob/v2.6.0/aten/src/ATen/native/UpSample.h (coordinates, a = -0.75) and
    aten/src/ATen/native/cpu/UpSampleKernel.cpp (antialias, a = -0.5).
    """
    import numpy as np

    if mode not in MODES:
        raise BadArgument(f"no interpolation is called {mode!r}", expected=", ".join(MODES))
    if old == new and (antialias or mode == "bilinear"):
        # torch copies such an axis whatever the factor says; its plain bicubic does not
        return np.eye(old)
    # coordinates are float32 in torch; in float64 the weights would be off from torch's by 6e-6
    if align_corners:
        step, shift = (old - 1) / (new - 1) if new > 1 else 0.0, 0.0
    else:
        step, shift = old / new if factor is None else 1 / factor, 0.5
    step = float(np.float32(step))
    centre = (np.arange(new) + shift) * step
    if antialias:
        return _filtered(centre.astype(np.float32).astype(np.float64) - shift, old, mode, max(step, 1.0))
    place = (centre - shift).astype(np.float32).astype(np.float64)
    if mode == "bilinear":
        return _linear(place, old)
    return _cubic(place, old)


def zoom_matrix(old: int, new: int) -> np.ndarray:
    """The weights of `scipy.ndimage.zoom(…, order=1)`: linear, corners aligned, and zeros where rounding overshoots.

    The last coordinate is `(new-1) · ((old-1)/(new-1))`. Where that rounds to more than `old-1` (24 → 22, 28 → 14,
    16 → 30 and others) scipy takes it for a point outside and writes 0, and so the tables that it resizes have zeros.

    Arguments:
        old: elements before.
        new: elements after.

    Returns:
        (new, old) float64.

    Example:
        >>> zoom_matrix(3, 5)[:, 0].tolist()
        [1.0, 0.5, 0.0, 0.0, 0.0]
        >>> zoom_matrix(28, 14).sum(axis=1)[-1].item()
        0.0

    Source: https://github.com/scipy/scipy/blob/v1.17.1/scipy/ndimage/_interpolation.py zoom and src/ni_interpolation.c
    NI_ZoomShift, mode "constant".
    """
    import numpy as np

    place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 1.0)
    weights = _linear(place, old)
    weights[place > old - 1] = 0.0
    return weights


def piecewise_matrix(points: Sequence[float], places: Sequence[float]) -> np.ndarray:
    """The weights of linear interpolation between unevenly spaced points, constant beyond them.

    Arguments:
        points: where the known values lie, ascending.
        places: where values are wanted.

    Returns:
        (places, points) float64.

    Example:
        >>> piecewise_matrix([0.0, 1.0, 3.0], [2.0, 9.0]).tolist()
        [[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    import numpy as np

    return np.stack([np.interp(places, points, basis) for basis in np.eye(len(points))], axis=1)


def spline_matrix(points: Sequence[float], places: Sequence[float]) -> np.ndarray:
    """The weights of the cubic spline through unevenly spaced points, constant beyond them.

    The spline is FITPACK's interpolating one (no knot at the second and the last but one point), as in scipy's
    `RectBivariateSpline` and its former `interp2d(kind="cubic")`.

    Arguments:
        points: where the known values lie, ascending, at least four.
        places: where values are wanted.

    Returns:
        (places, points) float64.

    Raises:
        BadArgument: fewer than four points.

    Example:
        >>> spline_matrix([0.0, 1.0, 2.0, 4.0], [3.0]) @ [0.0, 1.0, 8.0, 64.0]
        array([27.])

    Source: C. de Boor, A Practical Guide to Splines (1978), chapter IV: not-a-knot end conditions.
    """
    import numpy as np

    x = np.asarray(points, np.float64)
    if len(x) < 4:
        raise BadArgument("a cubic spline needs four points or more", found=len(x), usual="a window of 1 or 2 patches")
    bend = _second_derivatives(x)
    at = np.clip(np.asarray(places, np.float64), x[0], x[-1])
    left = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    width = x[left + 1] - x[left]
    a, b = (x[left + 1] - at) / width, (at - x[left]) / width
    basis = np.eye(len(x))
    curve = (a**3 - a)[:, None] * bend[left] + (b**3 - b)[:, None] * bend[left + 1]
    return a[:, None] * basis[left] + b[:, None] * basis[left + 1] + curve * (width**2 / 6)[:, None]


def separable(array: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """The first two axes through their matrices; computed in float64, returned in the type given.

    Arguments:
        array: (h, w, d), numpy or torch.
        rows: (h', h).
        columns: (w', w).

    Returns:
        (h', w', d) of the same kind and element type.

    Example:
        >>> import numpy as np
        >>> separable(np.ones((4, 4, 2), "float32"), matrix(4, 2), matrix(4, 3)).shape
        (2, 3, 2)
    """
    import numpy as np

    given: Any = array
    h, w, d = given.shape
    if is_tensor(array):
        import torch

        # Apple's GPUs have no float64
        wide = torch.float32 if given.device.type == "mps" else torch.float64
        left, right = (torch.as_tensor(m, dtype=wide, device=given.device) for m in (rows, columns))
        result = right @ (left @ given.to(wide).reshape(h, w * d)).reshape(-1, w, d)
        return result if given.dtype == wide else result.float().to(given.dtype)
    result = columns @ (rows @ given.astype(np.float64).reshape(h, w * d)).reshape(-1, w, d)
    # torch rounds to 16 bits by way of float32
    return result if given.dtype == np.float64 else result.astype(np.float32).astype(given.dtype)


def contiguous(array: Array) -> Array:
    """The same array in C order."""
    import numpy as np

    plain: Any = array
    result: Any = plain.contiguous() if is_tensor(array) else np.ascontiguousarray(plain)
    return result


def is_tensor(array: object) -> bool:
    """Whether an object is a torch tensor, without importing torch.

    Example:
        >>> is_tensor([1.0])
        False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def check_array(array: Any, axes: str, expected_rows: int | None = None) -> None:
    """Raises BadArgument where an argument is no real-valued array of the given axes.

    Arguments:
        array: what the caller handed over.
        axes: the axes in words, e.g. "rows dim".
        expected_rows: the length of the first axis; None when any will do.
    """
    import numpy as np

    if not (is_tensor(array) or isinstance(array, np.ndarray)):
        raise BadArgument("a numpy array or torch tensor is needed", found=type(array).__name__, expected=axes)
    name = str(array.dtype).removeprefix("torch.")
    if not name.startswith(("float", "bfloat")):
        raise BadArgument("only real numbers can be resized", found=name, usual="a quantised table; widen it first")
    shape = tuple(array.shape)
    wanted = len(axes.split())
    if len(shape) != wanted or (expected_rows is not None and shape[0] != expected_rows):
        rows = "" if expected_rows is None else f" with {expected_rows} of the first"
        raise BadArgument("an array of another shape is needed", found=shape, expected=f"({axes}){rows}")


def _linear(place: np.ndarray, old: int) -> np.ndarray:
    import numpy as np

    left = np.clip(np.floor(place), 0, old - 1).astype(int)
    part = np.clip(place - left, 0.0, 1.0)
    weights, row = np.zeros((len(place), old)), np.arange(len(place))
    np.add.at(weights, (row, left), 1.0 - part)
    np.add.at(weights, (row, np.minimum(left + 1, old - 1)), part)
    return weights


def _cubic(place: np.ndarray, old: int) -> np.ndarray:
    import numpy as np

    base = np.floor(place).astype(int)
    weights, row = np.zeros((len(place), old)), np.arange(len(place))
    for tap in range(-1, 3):
        # a tap beyond the border sees the border element again
        where = np.clip(base + tap, 0, old - 1)
        np.add.at(weights, (row, where), _keys(place - base - tap, -0.75))
    return weights


def _filtered(place: np.ndarray, old: int, mode: str, width: float) -> np.ndarray:
    import numpy as np

    distance = (place[:, None] - np.arange(old)) / width
    weights = _keys(distance, -0.5) if mode == "bicubic" else np.maximum(0.0, 1.0 - np.abs(distance))
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel. Source: R. Keys, IEEE Trans. ASSP 29 (1981) 1153, equation 15 with free a."""
    import numpy as np

    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _second_derivatives(x: np.ndarray) -> np.ndarray:
    """(n, n): the spline's second derivatives at the points, linear in the values there."""
    import numpy as np

    n, h = len(x), np.diff(x)
    left, right = np.zeros((n, n)), np.zeros((n, n))
    for i in range(1, n - 1):
        left[i, i - 1 : i + 2] = h[i - 1], 2 * (h[i - 1] + h[i]), h[i]
        right[i, i - 1 : i + 2] = 6 / h[i - 1], -6 / h[i - 1] - 6 / h[i], 6 / h[i]
    for row, (i, j) in ((0, (0, 1)), (n - 1, (n - 3, n - 2))):
        left[row, i : i + 3] = -1 / h[i], 1 / h[i] + 1 / h[j], -1 / h[j]
    return np.linalg.solve(left, right)


def floor_size(old: int, factor: float) -> int:
    """The length that torch gives an axis when it is told a scale factor.

    Example:
        >>> floor_size(14, 16 / 14), floor_size(14, 16.1 / 14)
        (16, 16)

    Source: https://github.com/pytorch/pytorch/blob/v2.6.0/aten/src/ATen/native/UpSample.cpp compute_output_size.
    """
    return math.floor(old * factor)
