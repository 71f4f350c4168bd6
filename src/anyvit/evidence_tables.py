"""What a position table and a gated MLP say by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from anyvit.evidence import MARGIN, Verdict, nothing
from anyvit.evidence_norms import column_squares, row_squares, scores, together

if TYPE_CHECKING:
    import numpy as np

SMOOTH = 0.7
"""Largest smoothness that counts as an image grid; independent rows give 2, DINOv2-S gives 0.11."""

SLOPE = 1.0
"""Largest smoothness of either axis alone: a line of text is smooth along its rows and jumps between them."""

CLEAR = 0.85
"""The best grid's smoothness must be below this fraction of the next one's."""

COMPONENTS = 12
"""Principal components of a table that are looked at: the smooth part of a learned table lies in the first ones."""

Grid = tuple[int, int, int]
"""Prefix rows, height and width in patches."""


def smoothness(table: np.ndarray, h: int, w: int) -> float:
    """Mean squared step between neighbours over the variance of a table that is read as h × w patches.

    Arguments:
        table: (h·w, D), prefix rows taken off, row by row.

    Returns:
        0 for a constant slope of many steps, 2 for independent rows; inf where the table does not vary.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:6, :8]
        >>> table = np.stack([y.ravel(), x.ravel()], 1).astype("float32")
        >>> smoothness(table, 6, 8) < 0.25 < smoothness(table, 8, 6)
        True
    """
    return _ratio(*_steps(table, h, w))


def _steps(table: np.ndarray, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared step and variance of each channel, (D,) each."""
    import numpy as np

    grid = np.asarray(table).reshape(h, w, -1)
    down, right = np.diff(grid, axis=0), np.diff(grid, axis=1)
    total = np.einsum("hwd,hwd->d", down, down) + np.einsum("hwd,hwd->d", right, right)
    return total / max(1, (h - 1) * w + h * (w - 1)), grid.reshape(h * w, -1).var(0)


def _roughest(table: np.ndarray, h: int, w: int) -> float:
    """The smoothness of the axis that is less smooth."""
    import numpy as np

    grid = np.asarray(table).reshape(h, w, -1)
    variance = grid.reshape(h * w, -1).var(0)
    steps = (np.square(np.diff(grid, axis=axis)).mean((0, 1)) for axis in (0, 1))
    return max(_ratio(s, variance) for s in steps)


def _components(table: np.ndarray) -> np.ndarray:
    """The first principal components, (N, COMPONENTS), of the 256 channels that vary most."""
    import numpy as np

    x = table[:, np.argsort(table.var(0))[-256:]].astype(np.float64)
    x = x - x.mean(0)
    return x @ np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :COMPONENTS]


def _ratio(steps: np.ndarray, variance: np.ndarray) -> float:
    total = float(variance.sum())
    return float(steps.sum()) / total if total > 1e-12 and math.isfinite(total) else math.inf


def grids(rows: int, most_prefix: int = 9, most_stretch: float = 8.0) -> tuple[Grid, ...]:
    """Every way to read a table's rows as prefix rows and a grid of at least 2 × 2.

    Arguments:
        rows: rows of the table.
        most_prefix: largest number of prefix rows (cls, distillation and register tokens).
        most_stretch: largest ratio of the sides.

    Example:
        >>> (1, 14, 14) in grids(197), (1, 13, 15) in grids(196), (0, 14, 14) in grids(196)
        (True, True, True)
    """
    return tuple(
        (k, h, (rows - k) // h)
        for k in range(min(most_prefix, rows) + 1)
        for h in range(2, (rows - k) // 2 + 1)
        if (rows - k) % h == 0 and max(h * h, rows - k) <= most_stretch * min(h * h, rows - k)
    )


def positions(table: np.ndarray, candidates: Iterable[Grid] | None = None) -> Verdict:
    """How many prefix rows a learned position table has and which grid follows them.

    A square grid cannot be told from its transpose, nor any grid from its mirror images.

    Arguments:
        table: (N, D).
        candidates: (prefix rows, height, width); None for every reading of `grids`. Readings that are not among
            them compete all the same, so that a wrong list gives no verdict.

    Returns:
        a Verdict whose value is a candidate, or None; `candidates` holds the smoothness of the ten
        best, nats count one degree of freedom a component.
    """
    import numpy as np

    table = np.asarray(table, np.float32)
    table = table.reshape(-1, table.shape[-1])
    allowed = None if candidates is None else {tuple(c) for c in candidates}
    tried = sorted({g for g in (*grids(len(table)), *(allowed or ())) if g[0] + g[1] * g[2] == len(table)})
    if not tried or not np.isfinite(table).all():
        return nothing("the table has no grid or is not finite")
    table = _components(table)
    measured = {g: _steps(table[g[0] :], g[1], g[2]) for g in tried}
    smooth = {g: _ratio(*m) for g, m in measured.items()}
    ranked = sorted(tried, key=lambda g: smooth[g])
    best, second = ranked[0], smooth[ranked[1]] if len(ranked) > 1 else 2.0
    shown = {g: round(smooth[g], 3) for g in ranked[:10]}
    each = np.stack([s / np.maximum(v, 1e-20) for s, v in (measured[g] for g in ranked)])
    votes, of = int((each.argmin(0) == 0).sum()), each.shape[1]
    lead = of / 2 * math.log(second / smooth[best]) if 0 < smooth[best] < math.inf else 0.0
    words = f"smoothness {smooth[best]:.3f} for {best[0]} + {best[1]} × {best[2]}, {second:.3f} for the next"
    if smooth[best] > SMOOTH or smooth[best] > CLEAR * second or 2 * votes < of:
        return nothing(words, lead, of, shown)
    if _roughest(table[best[0] :], best[1], best[2]) > SLOPE:
        return nothing(words + ", but one of its axes is rough, as in a line", lead, of, shown)
    if allowed is not None and best not in allowed:
        return nothing(words + ", which is none of the candidates", lead, of, shown)
    return Verdict(best, lead, votes, of, f"{words}; {votes} of {of} principal components agree", shown)


def gated(blocks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Verdict:
    """Which half of a gated MLP is the gate: only the other half is balanced with the way down.

    silu(gate) · up does not change when row i of up is scaled by a and column i of down by 1/a; the gate has no such
    freedom, but its norms follow from afar, so the halves are compared and not judged one by one.

    Arguments:
        blocks: for each block the first half (H, D), the second half (H, D) and down (D, H).

    Returns:
        a Verdict whose value is "gate first" or "up first", or None.
    """
    leads = []
    for first, second, down in blocks:
        norms = [row_squares(first), row_squares(second), column_squares(down)]
        if len({len(x) for x in norms}) == 1 and all(x.min() > 0 for x in norms):
            a, b, c = (scores(x) for x in norms)
            leads.append(max(-4 * MARGIN, min(4 * MARGIN, together(b, c) - together(a, c))))
    total = sum(leads)
    value = "gate first" if total > 0 else "up first"
    votes = sum(lead * total > 0 for lead in leads)
    ranking = {"gate first": round(total, 1), "up first": round(-total, 1)}
    if abs(total) < 2 * MARGIN or 3 * votes < 2 * len(leads):
        return nothing("neither half is clearly balanced with the way down", abs(total), len(leads), ranking)
    text = f"{value}: {votes} of {len(leads)} blocks, {abs(total):.0f} nats"
    return Verdict(value, abs(total), votes, len(leads), text, ranking)
