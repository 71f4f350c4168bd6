"""What two arrays that should be equal have to do with each other: transposed, scaled, permuted, rounded, unrelated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

NOISE = 2.0**-21
"""Largest difference, as a fraction of the largest value, that counts as rounding in float32."""


class Kind(NamedTuple):
    """How the second array differs from the first.

    Arguments:
        word: a short word: rounded, scaled, transposed, …
        text: what b's tensor is, seen from a's.
        usual: the usual cause.
    """

    word: str
    text: str
    usual: str


ROUNDED = "the weights were stored in {} once; keep float32, or compare with that in mind"
UNRELATED = "another checkpoint, another weight set of the same file (teacher, student, ema), or values never filled"
NEAR = "another training state: fine-tuned, another epoch, or the average (ema) of the same run"


def same(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal up to one rounding in float32."""
    import numpy as np

    return bool(np.array_equal(x, y)) or float(np.abs(x - y).max()) <= NOISE * float(np.abs(x).max())


def compare(name: str, x: np.ndarray, y: np.ndarray, grid: tuple[int, int] | None = None) -> Kind | None:
    """What y is, seen from x; None where they are the same.

    Arguments:
        name: the canonical name of both.
        x, y: float32 arrays.
        grid: rows and columns, for a position table.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
        >>> compare("blocks.0.attn.out.weight", x, x.T).word
        'transposed'
    """
    import numpy as np

    if x.shape != y.shape:
        return _shapes(x, y)
    if same(x, y):
        return None
    for label, array in (("a", x), ("b", y)):
        if not np.isfinite(array).all():
            return Kind("not finite", f"{label}'s holds NaN or infinity", "a damaged file or a diverged training")
    constant = _constant(x, y)
    if constant is not None:
        return constant
    for found in (_rounded(x, y), _scaled(x, y), *_moved(name, x, y, grid)):
        if found is not None:
            return found
    return _partly(x, y) or _alike(x, y)


def _shapes(x: np.ndarray, y: np.ndarray) -> Kind:
    import numpy as np

    if x.ndim == 2 and x.shape == y.shape[::-1] and same(x, np.ascontiguousarray(y.T)):
        return Kind("transposed", "b's is the transpose of a's", "JAX, TensorFlow and Conv1D store (in, out)")
    return Kind("shape", f"a's has shape {x.shape}, b's {y.shape}", "the models were built with different sizes")


def _constant(x: np.ndarray, y: np.ndarray) -> Kind | None:
    flat = {"b": not y.std() and bool(x.std()), "a": not x.std() and bool(y.std())}
    for label, array in (("b", y), ("a", x)):
        if flat[label] and array.size > 1:
            text = f"{label}'s is {float(array.flat[0]):g} everywhere"
            return Kind("constant", text, "never filled: it has its initial value, because its name did not match")
    return None


def _rounded(x: np.ndarray, y: np.ndarray) -> Kind | None:
    import ml_dtypes
    import numpy as np

    for name, kind in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        with np.errstate(over="ignore"):
            near, far = x.astype(kind).astype("float32"), y.astype(kind).astype("float32")
        if np.array_equal(near, far) and (np.array_equal(near, y) or np.array_equal(far, x)):
            who, other = ("b", "a") if np.array_equal(near, y) else ("a", "b")
            return Kind("rounded", f"{who}'s is {other}'s rounded to {name}", ROUNDED.format(name))
    return None


def _scaled(x: np.ndarray, y: np.ndarray) -> Kind | None:
    import numpy as np

    power = float(np.vdot(x, x))
    factor = float(np.vdot(x, y)) / power if power else 0.0
    if factor and np.abs(y - factor * x).max() <= 8 * NOISE * np.abs(y).max():
        usual = "the scale of attention (1/√head_dim), LayerScale, or pixel normalisation folded into the weights"
        return Kind("scaled", f"b's is a's times {factor:.6g}", usual)
    step = float((y - x).mean())
    if step and x.size > 1 and np.abs(y - x - step).max() <= 8 * NOISE * max(np.abs(x).max(), np.abs(y).max()):
        usual = "norm gains stored as an offset from 1 (RMSNorm with 1 + weight)"
        return Kind("shifted", f"b's is a's plus {step:.6g}", usual)
    return None


def _moved(name: str, x: np.ndarray, y: np.ndarray, grid: tuple[int, int] | None) -> Iterator[Kind | None]:
    if x.ndim == 2 and x.shape[0] == x.shape[1] and same(x, y.T):
        yield Kind("transposed", "b's is the transpose of a's", "JAX, TensorFlow and Conv1D store (in, out)")
    if name == "embed.patch.weight" and x.ndim == 4:
        yield from _kernels(x, y)
    if name == "embed.pos" and grid and grid[0] * grid[1] == len(x):
        yield from _tables(x.reshape(*grid, -1), y.reshape(*grid, -1))
    if x.ndim == 2:
        yield _permuted(x, y, "rows")
        yield _permuted(x.T, y.T, "columns")


def _kernels(x: np.ndarray, y: np.ndarray) -> Iterator[Kind]:
    if same(x, y[:, ::-1]):
        yield Kind("channels", "b's has the colour channels in reverse order", "BGR against RGB pictures")
    if x.shape[2] == x.shape[3] and same(x, y.swapaxes(2, 3)):
        yield Kind("kernel", "b's has height and width swapped", "a kernel (w, h, in, out) was read as (h, w, in, out)")
    for axis, word in ((2, "upside down"), (3, "left to right")):
        if same(x, y[(slice(None),) * axis + (slice(None, None, -1),)]):
            yield Kind("kernel", f"b's is mirrored {word}", "a flipped convolution kernel")


def _tables(x: np.ndarray, y: np.ndarray) -> Iterator[Kind]:
    if same(x, y[::-1]):
        yield Kind("flipped", "b's position table is flipped upside down", "rows counted from the bottom")
    if same(x, y[:, ::-1]):
        yield Kind("flipped", "b's position table is flipped left to right", "columns counted from the right")
    if x.shape[0] == x.shape[1] and same(x, y.swapaxes(0, 1)):
        usual = "the table was flattened column by column, or sin-cos made with x and y exchanged"
        yield Kind("flipped", "b's position table has rows and columns exchanged", usual)
    flat, other = x.reshape(-1, x.shape[2]), y.reshape(-1, x.shape[2])
    for step in (1, -1):
        low, high = (slice(0, -1), slice(1, None)) if step > 0 else (slice(1, None), slice(0, -1))
        if same(flat[low], other[high]):
            usual = "the cls row was cut off the wrong end, or not at all"
            yield Kind("shifted", f"b's position table is shifted by {step:+d} row", usual)


def order_of(x: np.ndarray, y: np.ndarray) -> list[int] | None:
    """For each row of y its place in x; None unless y holds exactly the rows of x, which all differ."""
    places = {row.tobytes(): i for i, row in enumerate(x)}
    found = [places.get(row.tobytes(), -1) for row in y]
    return found if len(places) == len(x) and sorted(found) == list(range(len(x))) else None


def _permuted(x: np.ndarray, y: np.ndarray, what: str) -> Kind | None:
    import numpy as np

    order = order_of(np.ascontiguousarray(x), np.ascontiguousarray(y))
    if order is None:
        return None
    moved = sum(i != j for i, j in enumerate(order))
    text = f"b's has the {what} of a's in another order ({moved} of {len(order)} moved)"
    return Kind("permuted", text, "another order of heads, of rotary channels, or of classes")


def _partly(x: np.ndarray, y: np.ndarray) -> Kind | None:
    import numpy as np

    if x.ndim < 2:
        return None
    other = np.flatnonzero((x != y).reshape(len(x), -1).any(1))
    if 2 * len(other) > len(x):
        return None
    shown = ", ".join(map(str, other[:5])) + (" …" if len(other) > 5 else "")
    return Kind("rows", f"{len(other)} of {len(x)} rows differ: {shown}", "rows that were trained, replaced or damaged")


def _alike(x: np.ndarray, y: np.ndarray) -> Kind:
    import numpy as np

    cosine = float(np.vdot(x, y)) / (float(np.linalg.norm(x) * np.linalg.norm(y)) or 1.0)
    if cosine > 0.7:
        return Kind("near", f"b's resembles a's (cosine {cosine:.4f})", NEAR)
    return Kind("unrelated", f"b's has nothing to do with a's (cosine {cosine:.2f})", UNRELATED)


def fused_order(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], heads: Sequence[int], likely: int
) -> Kind | None:
    """How the rows of q, k and v together differ in order; None where b's are not a's rows in another order.

    Arguments:
        a, b: "q", "k", "v" → (D, D).
        heads: head counts to think of.
        likely: the one to try first.
    """
    import numpy as np

    x, y = (np.concatenate([side[part] for part in "qkv"]) for side in (a, b))
    order = order_of(x, y) if x.shape == y.shape else None
    if order is None:
        return None
    width = len(a["q"])
    for count in (likely, *(h for h in heads if h != likely)):
        for text, places in _interleavings(width, count):
            for who, candidate in (("b", places), ("a", np.argsort(places))):
                if np.array_equal(order, candidate):
                    usual = "one fused tensor read as [q; k; v] that is stored another way (Megatron, some JAX ports)"
                    return Kind("interleaved", f"{who}'s q, k and v are interleaved {text}", usual)
        kind = _rotary(np.array(order), width, count)
        if kind is not None:
            return kind
    moved = sum(i != j for i, j in enumerate(order))
    return Kind(
        "permuted", f"b's rows of q, k and v are a's in another order ({moved} moved)", "another order of heads"
    )


def _interleavings(width: int, heads: int) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    rows = np.arange(3 * width).reshape(3, heads, width // heads)
    yield f"per head (h 3 d with {heads} heads)", rows.transpose(1, 0, 2).reshape(-1)
    yield f"per channel (h d 3 with {heads} heads)", rows.transpose(1, 2, 0).reshape(-1)


def _rotary(order: np.ndarray, width: int, heads: int) -> Kind | None:
    import numpy as np

    size = width // heads
    for groups in (1, 2):
        if size % (2 * groups):
            continue
        rows = np.arange(width).reshape(heads, groups, -1, 2).transpose(0, 1, 3, 2).reshape(-1)
        for who, part in (("b", rows), ("a", np.argsort(rows))):
            if np.array_equal(order, np.concatenate([part, part + width, np.arange(2 * width, 3 * width)])):
                other = "a" if who == "b" else "b"
                text = f"{who}'s q and k have their channels ordered for half rotation, {other}'s for interleaved pairs"
                return Kind("rotary", text, "rows permuted for another rotary layout, as LLaMA's conversion does")
    return None
