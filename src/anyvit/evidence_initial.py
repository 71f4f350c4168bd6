"""Which weights never left their initial values: a model, a block, a branch of one, a head, a modulation.

Initial matrices are independent draws, so their rows (and columns) have norms that vary as those of independent entries do;
training makes them vary many times more. Initial vectors are constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit.evidence import Verdict, nothing

if TYPE_CHECKING:
    import numpy as np

EVEN = 5.0
"""Standard errors by which norms may vary more than those of independent entries; trained matrices have 20 to thousands."""

SMALLEST = 16
"""Rows and columns below which a matrix is not judged."""

TRAINED = 20.0
"""Standard errors from which a matrix counts as trained, where one block is compared with the others."""


@dataclass(frozen=True)
class Trace:
    """What one tensor shows of its training, in a few numbers.

    Arguments:
        name: its name.
        axes: number of axes.
        constant: the one value that it holds everywhere, None where it varies.
        spread: for matrices of at least 16 × 16 that vary: standard errors by which norms of rows or columns vary more than
            those of independent entries do; None for others.
    """

    name: str
    axes: int
    constant: float | None
    spread: float | None

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> Trace:
        """The trace of an array; (out, …) is read as (out, rest)."""
        import numpy as np

        a = np.asarray(values, np.float32)
        constant = float(a.flat[0]) if a.size and bool((a == a.flat[0]).all()) else None
        if a.ndim < 2 or constant is not None or a.size == 0:
            return cls(name, a.ndim if a.size > 1 else 0, constant, None)
        matrix = a.reshape(len(a), -1)
        return cls(name, a.ndim, None, _dispersion(matrix) if min(matrix.shape) >= SMALLEST else None)


def untrained(tensors: Mapping[str, np.ndarray]) -> Verdict:
    """Whether a set of weights never left its initial distribution; `judge` of their traces.

    Arguments:
        tensors: name → array, of one model or one block.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> fresh = {f"fc{i}.weight": rng.normal(0, 0.02, (64, 64)) for i in range(4)} | {"fc0.bias": np.zeros(64)}
        >>> untrained(fresh).value
        True
    """
    return judge([Trace.of(name, values) for name, values in tensors.items()])


def judge(traces: Iterable[Trace], fewest: int = 2) -> Verdict:
    """Whether tensors never left their initial values.

    Vectors (norm gains, biases) must all be constant: 0, 1 or one initial LayerScale value; where there are norms and all
    are, biases of linears may be drawn. Matrices must have rows and columns whose norms vary no more than those of
    independent entries do.

    Arguments:
        traces: of one model, block or part.
        fewest: matrices that must be seen.

    Returns:
        a Verdict whose value is True, or None for no evidence (trained, too little to see, or initialised from
        another distribution).
    """
    found = list(traces)
    vectors = [t for t in found if t.axes == 1]
    matrices = [t for t in found if t.spread is not None]
    norms = [t for t in vectors if "norm" in t.name]
    if len(norms) >= 2 and all(t.constant is not None for t in norms):
        vectors = norms  # torch draws biases of linears from a uniform
    moved = [t for t in vectors if t.constant is None]
    # orthogonal starts vary less than independent entries; so do weights that training keeps normalised
    uneven = [t for t in matrices if not (_spread(t) < EVEN if vectors else abs(_spread(t)) < EVEN)]
    of, left = len(vectors) + len(matrices), len(moved) + len(uneven)
    shown = {t.name: round(_spread(t), 1) for t in sorted(matrices, key=lambda t: -abs(_spread(t)))[:10]}
    if left:
        text = f"{len(moved)} vectors and {len(uneven)} matrices of {of} left their initial values"
        return nothing(text, 0.0, of, shown)
    if len(matrices) < fewest:
        return nothing("too few matrices to tell", 0.0, of, shown)
    text = f"{_count(vectors, 'vector')} constant and {_count(matrices, 'matrix')} independent noise: never trained"
    return Verdict(True, math.inf, of, of, text, shown)


def _count(found: Sequence[Trace], what: str) -> str:
    many = "matrices" if what == "matrix" else what + "s"
    return f"{len(found)} {what} is" if len(found) == 1 else f"{len(found)} {many} are"


def _spread(trace: Trace) -> float:
    return trace.spread if trace.spread is not None else 0.0


def stragglers(parts: Mapping[str, Sequence[Trace]]) -> dict[str, Verdict]:
    """Parts that never left their initial values, among parts of the same kind that clearly did.

    Arguments:
        parts: name ("blocks.5") → traces of the same tensors in each, their names without the part's.

    Returns:
        name → its Verdict, empty where none, where most are so (that is a model that was not trained), or where the others
        are too little trained to tell.
    """
    if len(parts) < 3:
        return {}
    kinds = {t.name for traces in parts.values() for t in traces if t.spread is not None}
    spreads = {n: sorted(_spread(t) for traces in parts.values() for t in traces if t.name == n) for n in kinds}
    told = {n for n, all_of in spreads.items() if all_of and all_of[len(all_of) // 2] >= TRAINED}
    found = {}
    for part, traces in parts.items():
        seen = [t for t in traces if t.spread is None or t.name in told]
        verdict = judge(seen)
        if verdict.value and any(t.axes == 1 for t in seen):  # noise that is added makes matrices even too
            found[part] = verdict
    return found if 3 * len(found) <= len(parts) else {}


def frozen(traces: Iterable[Trace]) -> float | None:
    """The one value that all these tensors hold everywhere, None where any differs.

    Example:
        >>> import numpy as np
        >>> bool(frozen([Trace.of("ls1", np.full(8, 1e-5)), Trace.of("ls2", np.full(8, 1e-5))]) == np.float32(1e-5))
        True
    """
    values = {t.constant for t in traces}
    return next(iter(values)) if len(values) == 1 else None


def _dispersion(a: np.ndarray) -> float:
    """Standard errors by which the squared norms of rows or columns vary more than those of independent entries."""
    import numpy as np

    worst = 0.0
    for axis in (0, 1):
        square = np.square(a, dtype=np.float64)
        expected = square.var() * a.shape[axis]
        if not math.isfinite(expected) or expected <= 0:
            return math.inf
        count = a.shape[1 - axis]
        z = (float(square.sum(axis).var(ddof=1)) / expected - 1) / math.sqrt(2 / (count - 1))
        worst = z if abs(z) > abs(worst) else worst
    return worst
