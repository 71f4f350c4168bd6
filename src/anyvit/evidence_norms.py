"""Norms of channels and what is expected of them: balanced pairs, groups of one size, no order inside a group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

STRANGE = 4.0
"""Standard errors from which the channels of a head count as ordered; real weights stay below 2.5."""


DRIFT = 3.5
"""Standard errors from which norms count as rising or falling along the channels; heads have no such order."""

JUMP = 3.0
"""Standard errors that one jump between half heads counts at most; damage in one block cannot outweigh the others."""


STEPS = 0.6
"""Share of the borders at which neighbouring heads must differ by two standard errors; real weights reach 0.84."""


@dataclass(frozen=True, eq=False)
class Norms:
    """All that the laws look at in a matrix, so that a model of any size is held in a few kilobytes.

    Arguments:
        rows: squared norm of each row, (rows,).
        columns: squared norm of each column, (columns,).

    Example:
        >>> import numpy as np
        >>> n = Norms.of(np.ones((2, 3)))
        >>> n.shape, n.T.shape, n.rows.tolist(), n.columns.tolist()
        ((2, 3), (3, 2), [3.0, 3.0], [2.0, 2.0, 2.0])
    """

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> Norms:
        """The norms of a matrix, read in float32 whatever is stored."""
        return cls(row_squares(weight), column_squares(weight))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return len(self.rows), len(self.columns)

    @property
    def T(self) -> Norms:  # noqa: N802 (as numpy calls it)
        """The norms of the transposed matrix."""
        return Norms(self.columns, self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def row_squares(weight: np.ndarray | Norms) -> np.ndarray:
    """Squared norm of each row, (rows,); read in float32 whatever is stored."""
    if isinstance(weight, Norms):
        return weight.rows
    import numpy as np

    w = np.asarray(weight, np.float32)
    return np.einsum("ij,ij->i", w, w)


def column_squares(weight: np.ndarray | Norms) -> np.ndarray:
    """Squared norm of each column, (columns,)."""
    if isinstance(weight, Norms):
        return weight.columns
    import numpy as np

    w = np.asarray(weight, np.float32)
    return np.einsum("ij,ij->j", w, w)


@lru_cache(maxsize=32)
def _quantiles(n: int) -> np.ndarray:
    import numpy as np

    half = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n // 2)])
    return np.concatenate([half, np.zeros(n % 2), -half[::-1]])


def scores(x: np.ndarray) -> np.ndarray:
    """Normal scores: each value replaced by the normal quantile of its rank, so that no outlier rules.

    Arguments:
        x: (n,), any scale.

    Returns:
        (n,), mean 0; all zeros where x is not finite, or a tenth of it repeats, or it is sorted: no trained norms are.
    """
    import numpy as np

    rank = np.argsort(x)
    ordered, quantiles = x[rank], _quantiles(len(x))
    if not np.isfinite(x).all() or int((ordered[1:] == ordered[:-1]).sum()) > 0.1 * len(x):
        return np.zeros(len(x))
    out = np.empty(len(x))
    out[rank] = quantiles
    return np.zeros(len(x)) if abs(float(out @ quantiles)) > 0.97 * float(quantiles @ quantiles) else out


def balance(a_rows: np.ndarray, b_rows: np.ndarray) -> float:
    """Correlation of two vectors of channel norms, by normal scores.

    Arguments:
        a_rows, b_rows: (n,) norms, squared norms or their logarithms of the same channels.

    Returns:
        r in -1 … 1; 0 where either does not vary.

    Example:
        >>> import numpy as np
        >>> round(balance(np.array([4.0, 1.0, 2.0, 3.0]), np.array([9.0, 4.0, 3.0, 5.0])), 2)
        0.76
    """
    return correlation(scores(a_rows), scores(b_rows))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two vectors of mean 0, (n,) each; 0 where either is constant."""
    both = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / both if both else 0.0


def together(a: np.ndarray, b: np.ndarray) -> float:
    """Log likelihood ratio of "these normal scores rise together" over "independent"; 0 where they do not rise.

    Source: bivariate normal, -n/2·log(1 - r²).
    """
    r = max(0.0, min(correlation(a, b), 0.9999))
    return -len(a) / 2 * math.log1p(-r * r)


RUN = 8
"""Channels of a run whose mean and slope are taken off before balance is judged closely; no head is smaller."""


def closely(a: np.ndarray, b: np.ndarray) -> float:
    """`together` of what is left when the mean and slope of every run of 8 channels are taken off.

    Balance holds channel by channel. Vectors that merely share the scale of heads, a drift or a step rise together too,
    but not within a run.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> shared, a, b = rng.normal(size=8).repeat(16), rng.normal(size=128), rng.normal(size=128)
        >>> together(3 * shared + a, 3 * shared + b) > 50, closely(3 * shared + a, 3 * shared + b) < 5, closely(a, a + b) > 15
        (True, True, True)
    """
    count = len(a) // RUN
    r = max(0.0, min(correlation(_fine(a), _fine(b)), 0.9999)) if count else 0.0
    return -count * (RUN - 2) / 2 * math.log1p(-r * r)


def _fine(x: np.ndarray) -> np.ndarray:
    """What is left of normal scores when the mean and slope of every run of RUN channels are taken off."""
    import numpy as np

    slope = np.linspace(-1, 1, RUN) / math.sqrt(float(np.square(np.linspace(-1, 1, RUN)).sum()))
    runs = x[: len(x) // RUN * RUN].reshape(-1, RUN)
    runs = runs - runs.mean(1, keepdims=True)
    return (runs - (runs @ slope)[:, None] * slope).reshape(-1)


@lru_cache(maxsize=1)
def _expected_lag() -> float:
    """Correlation of neighbours that taking off mean and slope leaves in independent values."""
    import numpy as np

    design = np.stack([np.ones(RUN), np.arange(RUN) - (RUN - 1) / 2], 1)
    left = np.eye(RUN) - design @ np.linalg.inv(design.T @ design) @ design.T
    return float(np.diag(left, 1).sum() / np.trace(left))


def waves(vectors: Sequence[np.ndarray]) -> bool:
    """Whether neighbouring channels go together within runs of 8, in several vectors together or in a single one.

    Unlike `neighbours` this needs no head size. Fields, repeated channels and steps at any place show; channels of heads
    without rotary positions are exchangeable and do not.
    """
    limit, z = STRANGE + 1, []
    for x in vectors:
        runs = _fine(x).reshape(-1, RUN)
        total = float((runs * runs).sum())
        lag = float((runs[:, 1:] * runs[:, :-1]).sum()) / total - _expected_lag() if total > 1e-12 else 0.0
        z.append(max(-limit, min(limit, lag * math.sqrt(runs.size))))
    return abs(sum(z)) > STRANGE * math.sqrt(max(1, len(z)))


def variation(squares: np.ndarray) -> float:
    """Standard deviation of log norms within runs of 8 channels, mean and slope of each run taken off; 0 where not finite."""
    import numpy as np

    return float(_fine(np.log(np.maximum(squares, 1e-30))).std()) if np.isfinite(squares).all() else 0.0


def alike(vectors: Sequence[np.ndarray]) -> float:
    """Mean correlation of several blocks, channel by channel; 0 for fewer than two.

    Channel 5 of one block has nothing to do with channel 5 of the next, unless the channels are those of the residual
    stream or all blocks were multiplied by one field.

    Arguments:
        vectors: normal scores of the channels of each block, (n,) each.
    """
    import numpy as np

    fine = [f for x in vectors if (f := _fine(x)).any()]
    if len(fine) < 2:
        return 0.0
    unit = np.stack([f / np.linalg.norm(f) for f in fine])
    return float(np.square(unit.sum(0)).sum() - len(unit)) / (len(unit) * (len(unit) - 1))


def by_groups(a: np.ndarray, b: np.ndarray, size: int) -> float:
    """`together` of the means of groups, their slope taken off: few degrees of freedom, as few as there are groups."""
    import numpy as np

    count = len(a) // size
    at = np.arange(count) - (count - 1) / 2
    left = []
    for x in (a, b):
        means = x.reshape(count, size).mean(1)
        means = means - means.mean()
        left.append(means - at * float(at @ means) / max(float(at @ at), 1e-12))
    r = max(0.0, min(correlation(*left), 0.9999))
    return -max(0, count - 3) / 2 * math.log1p(-r * r)


def stays(x: np.ndarray, size: int) -> float:
    """Nats by which groups explain x better than groups of the same size that begin half a group later.

    Both leave out half a group at the ends, so that a drift, which jumps where the ends meet, gains nothing.
    """
    if len(x) // size < 3:
        return 0.0
    moved = groups(x[size // 2 : len(x) - size + size // 2], [size])[size]
    return (groups(x[:-size], [size])[size] + groups(x[size:], [size])[size]) / 2 - moved


def groups(x: np.ndarray, sizes: Iterable[int]) -> dict[int, float]:
    """How much better x is explained by consecutive groups of one size than as one group.

    One-way random effects by restricted likelihood: groups differ by a normal offset. Unlike one free mean for each
    group (BIC), many small groups are not punished for their number, so weak evidence does not lean to large groups.

    Arguments:
        x: (n,) one number for each channel; give `scores` of log norms.
        sizes: divisors of n.

    Returns:
        size → nats over one group, less the cost of the one parameter more.

    Source: https://en.wikipedia.org/wiki/Restricted_maximum_likelihood, balanced one-way layout.
    """
    n = len(x)
    total = float(x @ x) - n * float(x.mean()) ** 2
    found = {}
    for size in sizes:
        count = n // size
        if total <= 1e-12 or not 1 < count < n:
            found[size] = 0.0
            continue
        means = x.reshape(count, size).mean(1)
        between = size * float(((means - means.mean()) ** 2).sum())
        outer, inner = between / (count - 1), max(total - between, 1e-9 * total) / (n - count)
        gain = 0.0
        if outer > inner:
            gain = (n - 1) * math.log(total / (n - 1)) - (n - count) * math.log(inner) - (count - 1) * math.log(outer)
        found[size] = gain / 2 - 0.5 * math.log(count) - 1
    return found


def neighbours(x: np.ndarray, size: int) -> float:
    """Correlation of neighbouring channels within their head, in standard errors.

    Without rotary positions nothing orders the channels of a head, so this is noise around 0. It is large where the
    borders are wrong, where channels drift or repeat, and in q and k of rotary models.

    Arguments:
        x: (n,) normal scores.
        size: channels of a head.

    Source: https://en.wikipedia.org/wiki/Autocorrelation, mean removed in each head.
    """
    inner = x.reshape(-1, size)
    inner = inner - inner.mean(1, keepdims=True)
    total = float((inner * inner).sum())
    if total <= 1e-12:
        return 0.0
    lagged = float((inner[:, 1:] * inner[:, :-1]).sum()) / total
    return (lagged + (1 - 1 / size) / size) * math.sqrt(len(x))


def ordered(vectors: Sequence[np.ndarray], size: int) -> bool:
    """Whether the channels of a head are not exchangeable in several vectors together, or in a single one."""
    limit = STRANGE + 1
    z = [max(-limit, min(limit, neighbours(x, size))) for x in vectors]
    return abs(sum(z)) > STRANGE * math.sqrt(len(z))


def drifting(trends: Sequence[float], count: int) -> bool:
    """Whether the means of groups rise or fall along the channels, all the same way or each its own.

    Arguments:
        trends: for each vector the correlation of its groups' means with their places.
        count: number of groups.
    """
    n, free = len(trends), count - 1
    same = abs(sum(trends)) * math.sqrt(free / n)
    each = (free * sum(r * r for r in trends) - n) / math.sqrt(2 * n)
    return same > DRIFT or each > DRIFT


def bordered(vectors: Sequence[np.ndarray], size: int) -> bool:
    """Whether norms jump at most borders between heads, and nowhere inside a head as much.

    A drift, a damaged range, a file cut elsewhere or one step at any place also make groups differ; they fail here.

    Arguments:
        vectors: normal scores, (n,) each.
        size: channels of a head.
    """
    import numpy as np

    half, jumps, steps, trends = size // 2, [], [], []
    for x in vectors:
        if not x.any():
            continue
        rows = x.reshape(-1, size)
        error = math.sqrt(2 / size * max(float(rows.var(1, ddof=1).mean()), 1e-9))
        halves = np.stack([rows[:, :half].mean(1), rows[:, size - half :].mean(1)], 1).reshape(-1)
        # half heads side by side, in standard errors of their difference; alternately inside a head and at a border
        jumps.append(np.clip(np.diff(halves) / (error * math.sqrt(size / half)), -JUMP, JUMP))
        steps.append(np.abs(np.diff(rows.mean(1))) > 2 * error)
        trends.append(float(np.corrcoef(rows.mean(1), np.arange(len(rows)))[0, 1]))
    if 2 * len(jumps) <= len(vectors) or drifting(trends, len(vectors[0]) // size):
        return False
    signed, squared = np.array(jumps).sum(0), np.square(jumps).sum(0)
    inside, border = signed[::2] / math.sqrt(len(jumps)), np.sort(squared[1::2])
    if np.abs(inside).max() > STRANGE or abs(inside.sum()) / math.sqrt(len(inside)) > DRIFT or np.mean(steps) < STEPS:
        return False
    return bool(border[(len(border) - 1) // 2] > max(1.2 * squared[::2].max(), 2 * len(jumps)))
