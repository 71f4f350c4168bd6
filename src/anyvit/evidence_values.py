"""On which coarser grid of numbers a tensor lies: what was rounded to bfloat16, float16, float8 or int8 once stays so.

Exact, not statistical: every value of a tensor must be one that the coarser format has, or a whole multiple of one step a
row. Of float32 values drawn at random one in 65,536 is a bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16")
"""Formats by name, coarsest first."""

FEWEST = 64
"""Values of a tensor below which a grid may be chance."""

DISTINCT = 16
"""Distinct values below which a tensor (zeros, ones, one initial value) tells nothing of a format."""

LEVELS = {"int8": 127, "int4": 7}
"""Integer format → its largest value."""

WHOLE = 0.005
"""How far from a whole number a value over its step may be; float32 keeps 127 steps to 1e-5."""

SAMPLE = 1 << 12
"""Values that are looked at before all are."""


def grid(values: np.ndarray) -> str | None:
    """The coarsest format that holds every value, None where only the array's own does or too few values tell.

    Arguments:
        values: any shape, float32 or float64.

    Returns:
        one of `FORMATS`, or "int8" or "int4" where values are whole multiples of the largest one / 127 or / 7, of
        each row or of all.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
        >>> grid(x), grid(x.astype("float16").astype("float32")), grid(np.ones((64, 64), "float32"))
        (None, 'float16', None)
    """
    import numpy as np

    flat = np.asarray(values, np.float32).reshape(-1)
    first = flat[:SAMPLE] if flat.size <= SAMPLE else flat[:: flat.size // SAMPLE]
    if flat.size < FEWEST or not np.isfinite(first).all() or len(np.unique(first)) < DISTINCT:
        return None
    for name in FORMATS:
        if _holds(first, name) and _holds(flat, name):
            return name
    if values.ndim == 2 and values.shape[1] >= FEWEST:
        return next((name for name, top in LEVELS.items() if _whole(values, top)), None)
    return None


def _holds(x: np.ndarray, name: str) -> bool:
    import numpy as np

    if name == "bfloat16":
        return not (np.ascontiguousarray(x).view(np.uint32) & 0xFFFF).any()
    if name == "float16":
        with np.errstate(over="ignore"):
            return bool((x.astype(np.float16).astype(np.float32) == x).all())
    import ml_dtypes

    with np.errstate(over="ignore", invalid="ignore"):
        return bool((x.astype(getattr(ml_dtypes, name)).astype(np.float32) == x).all())


def _whole(x: np.ndarray, top: int) -> bool:
    """Whether each row is whole multiples of its own largest value over `top`, or all are of the whole tensor's."""
    import numpy as np

    x = np.asarray(x, np.float64)
    size = np.abs(x)
    for most in (size.max(1, keepdims=True), size.max()):
        steps = x * top / np.maximum(most, 1e-300)
        if np.isfinite(steps).all() and size.max() > 0 and (np.abs(steps - np.round(steps)) < WHOLE).all():
            return True
    return False


@dataclass
class Tally:
    """How many elements of a file lie on which grid; filled tensor by tensor, so that a model of any size fits.

    Arguments:
        elements: grid (None: full precision) → elements of tensors that tell.
        names: grid → the first few names.
    """

    elements: dict[str | None, int] = field(default_factory=dict)
    names: dict[str | None, list[str]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray, stored: str) -> None:
        """Counts one tensor; `stored` is the file's own type, and only coarser grids than it are news."""
        import numpy as np

        if stored not in WIDER or values.size < FEWEST:
            return
        found = grid(values)
        if found is None and len(np.unique(values.reshape(-1)[:SAMPLE])) < DISTINCT:
            return
        found = found if found in WIDER[stored] else None
        self.elements[found] = self.elements.get(found, 0) + values.size
        self.names.setdefault(found, []).append(name)

    def said(self) -> tuple[str, str, Mapping[str | None, list[str]]] | None:
        """The format most of the file was rounded to, the share of it in words, and the names by grid."""
        coarse = {g: n for g, n in self.elements.items() if g is not None}
        if not coarse:
            return None
        best = max(coarse, key=lambda g: coarse[g])
        count, of = len(self.names[best]), sum(map(len, self.names.values()))
        return best, f"{count} of {of} tensors hold only values of {best}", self.names


WIDER = {
    "float64": (*FORMATS, *LEVELS),
    "float32": (*FORMATS, *LEVELS),
    "float16": ("float8_e4m3fn", "float8_e5m2"),
    "bfloat16": ("float8_e4m3fn", "float8_e5m2"),
}
"""Stored type → grids that are coarser."""
