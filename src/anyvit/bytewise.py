"""What the bytes of floating-point numbers show: a narrower type they came from, a wrong order, a wrong place."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LEAST, MOST = 1e-10, 1e4
"""Sizes between which weights lie; numbers that are put together of wrong bytes have any exponent."""
FEW = 64
"""Numbers of fewer bytes than these many values say nothing of their order."""
CLEAR = 1.02
"""How many times wider the sizes of the next best reading must spread for the best one to be named."""
WILD, TAME = 0.1, 0.01
"""Share of values out of these sizes from which a tensor is suspect, and up to which another reading of it is sound."""


def narrower(bits: np.ndarray) -> str | None:
    """The type whose numbers all these float32 are, as a conversion to it and back leaves them.

    Arguments:
        bits: the values as uint32.

    Returns:
        "bfloat16", "float16"; "" where they are of full precision; None where they are too few or too alike to tell.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal(100).astype("float32")
        >>> narrower(x.view("uint32")), narrower(x.astype("float16").astype("float32").view("uint32"))
        ('', 'float16')
    """
    import numpy as np

    if _alike(bits):
        return None
    low = int(np.bitwise_or.reduce(bits))
    if not low & 0xFFFF:
        return "bfloat16"
    if low & 0x1FFF:
        return ""
    top = np.abs(bits.view("float32")).max()
    return "float16" if top < 65520 else ""


@lru_cache(maxsize=8)
def tame(dtype: np.dtype) -> tuple[int, int]:
    """The bits of the least and the largest magnitude of a weight, as whole numbers; where all of a tensor's lie between,
    `misplaced` has nothing to say."""
    import numpy as np

    least, most = np.array([LEAST, MOST]).astype(dtype).view(f"u{dtype.itemsize}").tolist()
    return least + 1, most - 1


def misplaced(bits: np.ndarray, dtype: np.dtype, values: np.ndarray) -> str:
    """What is wrong with the bytes of numbers that have no one size; empty where they have, or no other reading has.

    Arguments:
        bits: the numbers as unsigned integers.
        dtype: their type.
        values: the numbers, as numpy computes with them.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal(100).astype("float32")
        >>> misplaced(x.view("uint32"), x.dtype, x.astype("float64"))
        ''
        >>> y = x.byteswap()
        >>> misplaced(y.view("uint32"), y.dtype, y.astype("float64"))
        'its bytes are those of numbers of the other byte order'
    """
    import numpy as np

    if _alike(bits) or _wild(values) < WILD:
        return ""
    raw, width = bits.tobytes(), bits.itemsize
    readings = {"its bytes are those of numbers of the other byte order": bits.byteswap()}
    for shift in range(1, width):
        whole = (len(raw) - shift) // width * width
        text = f"its numbers begin {shift} bytes later than they should"
        readings[text] = np.frombuffer(raw[shift : shift + whole], bits.dtype)
    found = {text: other.view(dtype).astype("float64") for text, other in readings.items()}
    ranked = sorted((_spread(other), text) for text, other in found.items() if _wild(other) <= TAME)
    if len(ranked) > 1 and ranked[1][0] < CLEAR * ranked[0][0]:
        return "its bytes stand in another order or place"
    return ranked[0][1] if ranked else ""


def _spread(values: np.ndarray) -> float:
    """How many powers of two the sizes of numbers spread over; bits of others among their exponents spread them wider."""
    import numpy as np

    size = np.abs(values[values != 0])
    return float(np.log2(size).std()) if size.size else 0.0


def _alike(bits: np.ndarray) -> bool:
    """Whether numbers are too few, or too many of them the same."""
    return bits.size < FEW or len(set(bits[: 4 * FEW].tolist())) < FEW // 2


def _wild(values: np.ndarray) -> float:
    """The share of numbers that are no weights by their size."""
    import numpy as np

    size = np.abs(values)
    return float(np.mean(~((size == 0) | ((size > LEAST) & (size < MOST)))))
