"""In which order the inputs of a patch kernel lie: its colour planes resemble each other, other thirds of it do not.

Pictures are nearly grey, so a trained kernel sees almost the same pattern in red, green and blue. Read with its channels at
the wrong place, thirds of the kernel are parts of the picture and have nothing in common.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from anyvit.evidence import Verdict, nothing

if TYPE_CHECKING:
    import numpy as np

ORDERS = {"c y x": (0, 1, 2, 3), "y x c": (0, 3, 1, 2)}
"""Order of the inputs of one output → axes that bring (o, *order) to (o, c, y, x)."""

PLANES = 0.08
"""Least correlation of any two planes that shows colours; trained kernels have 0.10 to 0.66, thirds that are none at most
0.01."""

FACTOR = 0.5
"""Share of it that any other order may reach where the order is as named, half of that where it is not; smooth kernels read as
`y x c` reach 0.46, for then neighbours stand for colours."""

CERTAIN = 8.0
"""Standard errors by which the planes must resemble each other."""


ROUGH = 1.05
"""Times that a kernel may be rougher in another order than as named; otherwise neighbouring pixels passed for colours."""


def roughness(kernel: np.ndarray) -> float:
    """Mean squared step between neighbouring pixels of each plane; comparable between orders of one kernel."""
    import numpy as np

    return float(sum(np.square(np.diff(kernel, axis=axis)).mean() for axis in (2, 3)))


def resemblance(kernel: np.ndarray, order: str) -> float:
    """The least correlation of two colour planes where the inputs lie in an order.

    Arguments:
        kernel: (o, c, h, w) as read by the names, which is `c y x`.
        order: one of `ORDERS`: how the inputs lie in truth.
    """
    import numpy as np

    planes = reordered(kernel, order).swapaxes(0, 1).reshape(kernel.shape[1], -1).astype(np.float64)
    gram = planes @ planes.T
    scale = np.sqrt(np.diag(gram))
    if not np.isfinite(gram).all() or scale.min() <= 0:
        return 0.0
    return float((gram / np.outer(scale, scale))[np.triu_indices(len(gram), 1)].min())


def reordered(kernel: np.ndarray, order: str) -> np.ndarray:
    """The kernel (o, c, h, w) if the inputs that were read as `c y x` lie in another order."""
    out, c, h, w = kernel.shape
    sides = {"c": c, "y": h, "x": w}
    return kernel.reshape(out, *(sides[s] for s in order.split())).transpose(ORDERS[order])


def input_order(kernel: np.ndarray) -> Verdict:
    """The order of a patch kernel's inputs.

    Which of the axes is y and which is x cannot be told, nor red from blue.

    Arguments:
        kernel: (o, 3, h, w), patches of at least 4 × 4.

    Returns:
        a Verdict whose value is "c y x" where it is as named, another of `ORDERS`, or None.
    """
    if kernel.ndim != 4 or kernel.shape[1] != 3 or min(kernel.shape[2:]) < 4 or kernel.shape[0] < 16:
        return nothing("not a kernel of three colours and patches of 4 × 4 or more")
    found = {order: resemblance(kernel, order) for order in ORDERS}
    best = max(found, key=lambda o: found[o])
    error = 1 / math.sqrt(kernel[:, 0].size)
    second = max(r for o, r in found.items() if o != best)
    shown = {o: round(r, 3) for o, r in found.items()}
    text = f"colour planes correlate by {found[best]:.2f} at least as {best}, by {second:.2f} otherwise"
    allowed = FACTOR if best == "c y x" else FACTOR / 2
    if found[best] < max(PLANES, CERTAIN * error) or second > allowed * found[best]:
        return nothing(text, 0.0, 1, shown)
    if best != "c y x" and roughness(reordered(kernel, best)) > ROUGH * roughness(kernel):
        return nothing(text + ", but as named it is smoother", 0.0, 1, shown)
    nats = -kernel[:, 0].size / 2 * math.log1p(-(min(found[best], 0.9999) ** 2))
    return Verdict(best, nats, 1, 1, text, shown)
