"""Element types by name, so that a header can be listed without numpy, ml_dtypes or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit.errors import BadArgument

if TYPE_CHECKING:
    import numpy as np

ITEMSIZE: dict[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes per element of every type that a checkpoint may hold, by the name that numpy and torch share."""

_ML = {name for name in ITEMSIZE if name.startswith(("bfloat", "float8"))}


def np_dtype(name: str) -> np.dtype:
    """The numpy type of a name; bfloat16 and float8 come from ml_dtypes.

    Example:
        >>> np_dtype("float16").itemsize
        2
    """
    import numpy as np

    if name in _ML:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    if name not in ITEMSIZE:
        raise BadArgument(f"no element type is called {name!r}", expected=", ".join(ITEMSIZE))
    return np.dtype(name)


def is_floating(name: str) -> bool:
    """Whether a type holds real numbers with a fraction."""
    return name.startswith(("float", "bfloat"))
