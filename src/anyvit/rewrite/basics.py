"""The tensors that identities are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy, computed

if TYPE_CHECKING:
    import numpy as np


Tensors = Mapping[str, Lazy]


def block_numbers(tensors: Tensors) -> Sequence[int]:
    """The block numbers that are present."""
    from anyvit.conform import depth_of

    return depth_of(tensors)


def zeros(shape: Sequence[int], dtype: str) -> Lazy:
    """A tensor of zeros, made of no source.

    Example:
        >>> zeros((2,), "float32").read().tolist()
        [0.0, 0.0]
    """

    def make() -> np.ndarray:
        import numpy as np

        return np.zeros(tuple(shape), "float32")

    return computed(shape, dtype, make)


def ones(shape: Sequence[int], dtype: str) -> Lazy:
    """A tensor of ones, made of no source.

    Example:
        >>> ones((2,), "float32").read().tolist()
        [1.0, 1.0]
    """

    def make() -> np.ndarray:
        import numpy as np

        return np.ones(tuple(shape), "float32")

    return computed(shape, dtype, make)


SMALL = 1 << 20
"""Most elements of a tensor that is read to prove something of it."""


def is_zero(tensor: Lazy) -> bool:
    """Whether a small tensor was read and holds nothing but zeros; False where it cannot be read.

    Example:
        >>> is_zero(zeros((3,), "float32")), is_zero(ones((3,), "float32"))
        (True, False)
    """
    try:
        return bool(prod(tensor.shape) <= SMALL and not tensor.read().astype("float32").any())
    except AnyvitError:
        return False
