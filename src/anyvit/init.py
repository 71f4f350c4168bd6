"""How a new tensor gets its values: by a named scheme, from a seed, the same on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyvit.lazy import Lazy, computed

if TYPE_CHECKING:
    import numpy as np


def new(name: str, shape: Sequence[int], scheme: str = "zeros", *, seed: int = 0) -> Lazy:
    """A new tensor.

    Arguments:
        name: its canonical name; with the seed it decides the random numbers, so the order of making never matters.
        shape: its axes.
        scheme: "zeros", "ones", or "trunc_normal" (standard deviation 0.02, cut at two deviations).
        seed: a number.

    Example:
        >>> new("head.weight", (2, 3)).read().sum()
        np.float32(0.0)
    """
    shape = tuple(shape)

    def make() -> np.ndarray:
        import numpy as np

        if scheme in ("zeros", "ones"):
            return np.full(shape, float(scheme == "ones"), "float32")
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal
        values = draw(shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = draw(int(outside.sum()))
        return (0.02 * values).astype("float32")

    return computed(shape, "float32", make)
