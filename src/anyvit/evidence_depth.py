"""In which order the blocks of a trained stack follow each other: neighbours on one residual stream resemble each other.

What a block reads from the stream and writes to it drifts with depth: gains of its norms, columns of the matrices that
read, rows of those that write. So the order of blocks shows, up to its direction, and so do blocks that were exchanged,
moved, sorted as words (0, 1, 10, 11, 2 …) or written twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from anyvit.evidence import Verdict, nothing
from anyvit.evidence_norms import column_squares, row_squares, scores

if TYPE_CHECKING:
    import numpy as np

READ = ("attn.q", "attn.k", "attn.v", "mlp.fc1", "mlp.gate", "mlp.up")
WRITTEN = ("attn.out", "mlp.fc2", "mlp.down")
VECTORS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.out.bias", "mlp.fc2.bias", "mlp.down.bias")

FEWEST = 4
"""Blocks below which an order has too few neighbours to be told."""

GAIN = 0.06
"""Sum of similarities by which another order must lead for each pair of neighbours that it breaks."""

ALIKE = 0.12
"""Mean similarity of neighbours below which a stack shows no order; real stacks of four blocks and more have 0.2 to 0.64."""

FIT = 0.3
"""Share of the usual similarity that a block whose neighbours change must have with both: a damaged one resembles nobody."""

AGREEING = 0.7
"""Share of the kinds of vectors that must prefer the other order."""


def stream_vector(name: str, values: np.ndarray) -> np.ndarray | None:
    """How one tensor of a block meets the residual stream: a unit vector (D,) of normal scores, None where it does not.

    Arguments:
        name: canonical name without `blocks.N.`.
        values: the tensor.
    """
    import numpy as np

    part = name.removesuffix(".weight")
    if name in VECTORS:
        x = np.asarray(values, np.float64)
    elif name.endswith(".weight") and values.ndim == 2 and part in READ:
        x = column_squares(values)
    elif name.endswith(".weight") and values.ndim == 2 and part in WRITTEN:
        x = row_squares(values)
    else:
        return None
    ranked = scores(x)
    return ranked / max(float(np.linalg.norm(ranked)), 1e-12)


def stream(block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`stream_vector` of every tensor of a block that meets the residual stream.

    Arguments:
        block: canonical names without `blocks.N.` → arrays; what is not there is left out.
    """
    return {n: x for n, values in block.items() if (x := stream_vector(n, values)) is not None}


def similarity(blocks: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Correlation of every two blocks for each kind of vector that all blocks have, (kinds, L, L)."""
    import numpy as np

    kinds = [n for n in blocks[0] if all(n in b and len(b[n]) == len(blocks[0][n]) for b in blocks)]
    return np.array([(x := np.stack([b[n] for b in blocks])) @ x.T for n in kinds]).reshape(
        -1, len(blocks), len(blocks)
    )


def _moves(order: list[int]) -> Iterator[list[int]]:
    """Every order that one exchange, one turned stretch or one moved stretch makes."""
    n = len(order)
    for i in range(n):
        for j in range(i + 1, n):
            swapped = list(order)
            swapped[i], swapped[j] = order[j], order[i]
            yield swapped
            yield order[:i] + order[i : j + 1][::-1] + order[j + 1 :]
            stretch, rest = order[i:j], order[:i] + order[j:]
            if len(stretch) <= 3 or n <= 16:
                yield from (rest[:k] + stretch + rest[k:] for k in range(len(rest) + 1) if k != i)


def _climb(order: list[int], near: np.ndarray) -> list[int]:
    best = along(order, near)
    while True:
        top = max(_moves(order), key=lambda o: along(o, near))
        if along(top, near) <= best + 1e-9:
            return order
        order, best = top, along(top, near)


def along(order: Sequence[int], near: np.ndarray) -> float:
    """Sum of the similarities of neighbours."""
    return float(near[list(order[:-1]), list(order[1:])].sum())


def _pairs(order: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in pairwise(order)}


def best_order(near: np.ndarray) -> list[int]:
    """The order whose neighbours resemble each other most, in the direction that is nearer to the given one."""
    n = len(near)
    starts = [list(range(n))]
    for first in range(n):
        path = [first]
        while len(path) < n:
            path.append(max((i for i in range(n) if i not in path), key=lambda i: near[path[-1], i]))
        starts.append(path)
    starts = starts[:1] + sorted(starts[1:], key=lambda o: -along(o, near))[:3]
    found = max((_climb(s, near) for s in starts), key=lambda o: along(o, near))
    return min(found, found[::-1], key=lambda o: sum(abs(at - i) for at, i in enumerate(o)))


def sequence(blocks: Sequence[Mapping[str, np.ndarray]]) -> Verdict:
    """Whether blocks follow each other as they are numbered.

    The direction cannot be told: a stack in reverse looks the same.

    Arguments:
        blocks: `stream` of each block, by number.

    Returns:
        a Verdict whose value is a tuple of pairs (i, i + 1) that do not follow each other, () where all do; or None. The
        text holds the whole order where no other one is nearly as good.
    """
    import numpy as np

    n = len(blocks)
    if n < FEWEST:
        return nothing(f"{n} blocks are too few")
    each = similarity(blocks)
    each = each[[bool(np.abs(s - np.diag(np.diag(s))).any()) for s in each]] if len(each) else each
    if len(each) < 5:
        return nothing("too few norms and matrices that all blocks have")
    near, plain = each.mean(0), list(range(n))
    order = best_order(near + GAIN * (np.eye(n, k=1) + np.eye(n, k=-1)))  # neighbours stay so unless others fit better
    usual = along(order, near) / (n - 1)
    if usual < ALIKE:
        return nothing(f"neighbouring blocks do not resemble each other ({usual:.2f})", of=len(each))
    said = f"neighbours resemble each other by {usual:.2f}"
    if order == plain or along(order, near) - along(plain, near) < 1e-6:
        unsure = sorted({i for o in _moves(plain) if near_by(o, plain, near) for i, j in enumerate(o) if i != j})
        told = f"; {', '.join(map(str, unsure))} could be exchanged with neighbours" if 0 < len(unsure) < n else ""
        return Verdict((), 0.0, len(each), len(each), f"as numbered: {said}, more than in any other order{told}")
    new, old = _pairs(order), _pairs(plain)
    moved = frozenset().union(*(new ^ old))
    lead = along(order, near) - along(plain, near)
    votes = sum(along(order, s) > along(plain, s) for s in each)
    weakest = min(near[tuple(p)] for p in new if p & moved)
    if lead < GAIN * len(new - old) or votes < AGREEING * len(each) or weakest < FIT * usual:
        return nothing(f"no order stands out ({said} in the best one)", of=len(each))
    close = [o for o in _moves(order) if near_by(o, order, near)]
    kept = new.union(*(_pairs(o) for o in close))
    broken = tuple((i, i + 1) for i in range(n - 1) if frozenset((i, i + 1)) not in kept)
    if not broken:
        return nothing(f"no order stands out ({said} in the best one)", of=len(each))
    fits = "" if close else f"; the order {' '.join(map(str, order))} fits"
    apart = ", ".join(f"{i} and {j}" for i, j in broken)
    text = f"blocks {apart} do not follow each other ({said} in the best order, {along(plain, near) / (n - 1):.2f} as numbered)"
    return Verdict(broken, lead, votes, len(each), f"{text}{fits}; {votes} of {len(each)} kinds of norms agree")


def near_by(other: Sequence[int], order: Sequence[int], near: np.ndarray) -> bool:
    """Whether another order than this one and its reverse is nearly as good."""
    pairs, own = _pairs(other), _pairs(order)
    return pairs != own and along(order, near) - along(other, near) < GAIN * len(pairs - own)
