"""How q, k and v lie in a file, and which square matrix is transposed, from the balance of the channel norms.

Every reading of a block is scored by one likelihood: each part has its own scale, the norms of q and k rise together,
those of v and the columns of out do, and both sums are shared within a head. The order of q and k is out of reach:
they are symmetric, unless a k bias that stayed at zero gives it away (adding a constant to all keys changes nothing, so
its gradient is zero).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from anyvit.evidence import MARGIN, SMALLEST, Attention, Verdict, nothing
from anyvit.evidence_norms import (
    alike,
    by_groups,
    closely,
    column_squares,
    groups,
    ordered,
    row_squares,
    scores,
    stays,
    together,
    waves,
)

if TYPE_CHECKING:
    import numpy as np

LIMIT = 60.0
"""Nats by which one block can at most speak against a reading of the whole file."""

QUIET = 0.02
"""A bias whose norm is below this fraction of the other's counts as never moved from zero."""


@dataclass(frozen=True)
class Reading:
    """One way to read the rows of a fused tensor and its output projection.

    Arguments:
        axes: "3 h d" (q, k, v one after the other), "h 3 d" (interleaved per head) or "h d 3" (per channel).
        v: place of v among the three parts, 0 … 2.
        turned: the matrices that are stored transposed, of "q", "k", "v", "out".
        heads: number of heads, None where it cannot be told (and the axes do not need it).
        k: place of k, None where q and k cannot be told apart.
    """

    axes: str
    v: int
    turned: tuple[str, ...] = ()
    heads: int | None = None
    k: int | None = None

    def __str__(self) -> str:
        names = ["q/k"] * 3
        if self.k is not None:
            names = ["q"] * 3
            names[self.k] = "k"
        names[self.v] = "v"
        turned = "".join(f", {name} transposed" for name in self.turned)
        return f"{self.axes} in the order {' '.join(names)}{turned}"


Key = tuple[str, int, tuple[str, ...]]
"""Axes, place of v and transposed matrices: the first three fields of a `Reading`."""

Scored = dict[tuple[str, int, int, tuple[str, ...]], float]
NAMED: Key = ("3 h d", 2, ())
PLAIN = ("3 h d", 0)


def _spread(x: np.ndarray) -> float:
    """Log likelihood of a part with its own mean and scale."""
    return -len(x) / 2 * math.log(max(float(x.var()), 1e-6))


def _divided(x: np.ndarray, sizes: Sequence[int]) -> dict[int, float]:
    return {0: 0.0} | groups(scores(x), [size for size in sizes if size])


def arrange(rows: np.ndarray, axes: str, size: int) -> np.ndarray:
    """The three parts, (3, n), each in the order of its channels."""
    if axes == "3 h d":
        return rows.reshape(3, -1)
    if axes == "h d 3":
        return rows.reshape(-1, 3).T
    return rows.reshape(-1, 3, size).transpose(1, 0, 2).reshape(3, -1)


def read_all(rows: np.ndarray, outs: Mapping[str, np.ndarray], sizes: Sequence[int]) -> Scored:
    """Log likelihood of every reading of one block.

    Arguments:
        rows: (3·n,) normal scores of the log norms of all rows.
        outs: "" → column norms of out (n,), "out" → its row norms.
        sizes: channels of a head to try; 0 stands for no division.
    """
    found: Scored = {}
    named = {name: scores(out) for name, out in outs.items()}
    whole = [("3 h d", 0), ("h d 3", 0)]
    for axes, arranged in whole + [("h 3 d", size) for size in sizes if size]:
        parts = arrange(rows, axes, arranged)
        spread, inner = sum(map(_spread, parts)), (arranged,) if arranged else sizes
        ranks = [scores(part) for part in parts]
        for v in range(3):
            a, b = (ranks[i] for i in range(3) if i != v)
            pair, x = spread + together(a, b), _divided(a + b, inner)
            for name, out in named.items():
                both, y = pair + together(ranks[v], out), _divided(ranks[v] + out, inner)
                for size in inner:
                    found[axes, size, v, (name,) if name else ()] = both + x[size] + y[size]
    return found


def _norms(weight: np.ndarray, out: np.ndarray) -> Laid | None:
    import numpy as np

    rows, outs = row_squares(weight), {"": column_squares(out), "out": row_squares(out)}
    if len(rows) != 3 * len(outs[""]):
        return None
    if len(outs["out"]) != len(outs[""]):
        del outs["out"]
    if not all(map(usable, (rows, *outs.values()))):
        return None
    return scores(np.log(rows)), {k: np.log(x) for k, x in outs.items()}


def sizes_of(width: int, num_heads: int | None) -> list[int]:
    if num_heads:
        return [0, width // num_heads]
    return [0] + [size for size in range(SMALLEST, width) if width % size == 0]


def by_reading(scored: Scored) -> dict[Key, tuple[float, int]]:
    """The best head size of each reading; for "h 3 d" the size is part of the reading and stays the best one too."""
    best: dict[Key, tuple[float, int]] = {}
    for (axes, size, v, turned), nats in scored.items():
        if nats > best.get((axes, v, turned), (-math.inf, 0))[0]:
            best[axes, v, turned] = nats, size
    return best


_K = TypeVar("_K")


def pool(blocks: Sequence[Mapping[_K, float]]) -> dict[_K, float]:
    """Sums over blocks, where no block counts against a reading by more than LIMIT."""
    tops = [max(b.values()) for b in blocks]
    return {key: sum(max(b[key] - top, -LIMIT) for b, top in zip(blocks, tops, strict=True)) for key in blocks[0]}


def lead_of(blocks: Sequence[Mapping[_K, float]], first: _K, second: _K) -> tuple[float, bool]:
    """Nats of one reading over another, and whether half of them remain without the block that says most."""
    each = []
    for b in blocks:
        top = max(b.values())
        each.append(max(b[first] - top, -LIMIT) - max(b[second] - top, -LIMIT))
    total = sum(each)
    return total, len(each) < 2 or total - max(each) >= MARGIN / 2


def fused_layout(
    weights: Sequence[np.ndarray],
    outs: Sequence[np.ndarray],
    biases: Sequence[np.ndarray] = (),
    *,
    num_heads: int | None = None,
) -> Verdict:
    """How the rows of fused q/k/v tensors of unknown layout are to be read.

    Arguments:
        weights: for each block (3·D, D).
        outs: for each block the output projection (D, D).
        biases: for each block (3·D,), where present; a part that is zero everywhere is k.
        num_heads: where it is known.

    Returns:
        a Verdict whose value is a `Reading`, or None.
    """
    norms = [n for w, o in zip(weights, outs, strict=True) if (n := _norms(w, o))]
    return _fused(norms, biases, num_heads)


def joint_layout(blocks: Sequence[Attention]) -> Verdict:
    """`fused_layout` of q, k and v as a file names them: finds a wrong order and a transposed out together.

    Arguments:
        blocks: attentions of one width whose q, k and v have as many rows each.
    """
    norms = [n for b in blocks if (n := separate(b, both=True))]
    return _fused(norms, (), None, named=True)


Laid = tuple["np.ndarray", dict[str, "np.ndarray"]]
"""Normal scores of all rows of q, k and v, and log norms of out upright ("") and transposed ("out")."""


def _fused(norms: Sequence[Laid], biases: Sequence[np.ndarray], num_heads: int | None, named: bool = False) -> Verdict:
    if not norms or len({(len(rows), len(found)) for rows, found in norms}) > 1:
        return nothing("no block has finite fused weights of one width without rows of zeros")
    width = len(norms[0][0]) // 3
    blocks = [read_all(rows, found, sizes_of(width, num_heads)) for rows, found in norms]
    best = by_reading(pool(blocks))
    order = sorted(best, key=lambda key: -best[key][0])
    top = order[0]
    first, second = ((axes, best[axes, v, turned][1], v, turned) for axes, v, turned in order[:2])
    lead, lasting = lead_of(blocks, first, second)
    lasting = lasting or top == NAMED
    own = [by_reading(b) for b in blocks]
    votes = sum(max(b, key=lambda key: b[key][0]) == top for b in own)
    ranking = {str(Reading(*key)): round(best[key][0] - best[top][0], 1) for key in order[:6]}
    if lead < MARGIN or not lasting or 2 * votes < len(blocks) or not follows(norms, top, best[top][1], all_of=named):
        return nothing("no layout of q, k and v stands out", lead, len(blocks), ranking)
    size = best[top][1]
    k = _quiet_part(biases, top, size) if biases else None
    reading = Reading(*top, heads=width // size if size else None, k=k)
    if not num_heads and top[0] != "h 3 d":
        reading = Reading(*top, k=k)
    text = f"{reading}: {votes} of {len(blocks)} blocks, {lead:.0f} nats over {Reading(*order[1])}"
    return Verdict(reading, lead, votes, len(blocks), text, ranking)


def follows(norms: Sequence[Laid], top: Key, size: int, **how: bool) -> bool:
    """Whether v and out are balanced under a reading, more than under the plain one, and no channel order shows.

    Arguments:
        norms: of each block.
        top: the reading.
        size: channels of its heads, 0 where it has none.
        how: as `belongs` takes it.
    """
    own, plain, pairs, named = 0.0, 0.0, [], []
    for rows, outs in norms:
        parts = [scores(part) for part in arrange(rows, top[0], size)]
        v, out = parts[top[1]], scores(outs["".join(top[2])])
        v_named, out_named = scores(arrange(rows, *PLAIN)[2]), scores(outs[""])
        own += min(LIMIT, together(v, out))
        plain += min(LIMIT, together(v_named, out_named))
        kept = size if top[0] == "h 3 d" else 0  # the last head lies in its place either way
        named.append((v_named[: len(v) - kept], out_named[: len(v) - kept]))
        a, b = (parts[i] for i in range(3) if i != top[1])
        pairs.append(((v, out), (a, b)))
    vectors = [v + out for (v, out), _ in pairs]
    if ordered(vectors, size or len(vectors[0])):
        return False
    if top == NAMED:
        return own >= MARGIN
    return own >= MARGIN and own - plain >= MARGIN / 2 and belongs(pairs, named, **how)


Pair = tuple["np.ndarray", "np.ndarray"]

LEFT = 4.0
"""Nats that channels may still agree where the names say they should, and one for each further block; pairs that do not
belong together reach 3.9 and have 0.3 on average."""

FIELDS = (0.15, 0.5)
"""Mean correlation of the channels of different blocks from which they share a field: of v and out, where real weights
stay below 0.04, and of q and k, where those of rotary models reach 0.16."""

AGREE = 3.0
"""Nats a block by which the heads of two matrices must agree where channels do not; MiniLM has 3 to 9, false pairs 0."""

SHARP = 40.0
"""Nats that one vector of norms can at most lose when the borders of its heads are moved."""


def belongs(
    pairs: Sequence[tuple[Pair, Pair]],
    named: Sequence[Pair],
    *,
    qk_norm: bool = False,
    vo: int = 0,
    all_of: bool = False,
    by_heads: bool = True,
) -> bool:
    """Whether a reading that contradicts the names has more than norms that agree at the scale of heads.

    Damage that two matrices share (a drift, a field, a step) makes them agree too. Most trained models balance channel by
    channel: then both pairs must, and what the names say must not. Some distilled models balance by heads alone: then each
    matrix must show the heads by itself, with borders that hold, and they must agree from head to head. In either case
    neighbouring channels are independent, and the channels of different blocks know nothing of each other.

    Arguments:
        pairs: for each block the normal scores of v and out, and of q and k, as read; the pair in doubt comes first.
        named: for each block the scores of the first pair as the names have it.
        qk_norm: whether the second pair owes each other nothing.
        vo: which of the two is v and out.
        all_of: whether these are all blocks of a file: fewer than three must pass both ways.
        by_heads: whether heads alone may tell easily; where the other blocks balance channel by channel, they must be twice
            as sharp.
    """
    blocks = max(1.0, len(pairs) / 3)
    for at in (0,) if qk_norm else (0, 1):
        found = [pair[at] for pair in pairs]
        fine, sharp = _closeness(found) >= GLANCE * blocks, _sharp(found, 1 if by_heads else 2)
        if not (fine or sharp) or (all_of and len(pairs) < 3 and not (fine and sharp)):
            return False
        sums = [a + b for a, b in found]
        if alike(sums) > FIELDS[at != vo] or (at == vo and waves(sums)):
            return False
    return _closeness(named) <= LEFT + len(named) - 1


def _closeness(pairs: Sequence[Pair]) -> float:
    return sum(min(LIMIT, closely(*pair)) for pair in pairs)


def _sharp(pairs: Sequence[Pair], times: float) -> bool:
    """Whether both vectors of each pair show heads by themselves, and the same ones; of at least five heads."""
    sizes = sizes_of(len(pairs[0][0]), None)[1:]
    total = {size: sum(groups(x, [size])[size] for pair in pairs for x in pair) for size in sizes}
    size = max(total, key=lambda s: total[s], default=0)
    if not size or len(pairs[0][0]) < 5 * size:
        return False
    alone = min(sum(min(times * SHARP, stays(x, size)) for x in side) for side in zip(*pairs, strict=True))
    agree = sum(by_groups(a, b, size) for a, b in pairs)
    return alone >= 0.75 * times * SHARP * len(pairs) and agree >= AGREE * len(pairs)


def _quiet_part(biases: Sequence[np.ndarray], top: Key, size: int) -> int | None:
    """Place of the one part beside v whose bias is zero in every block."""
    import numpy as np

    axes, v, _ = top
    sums = np.array([np.square(arrange(np.asarray(b, np.float64), axes, size)).sum(1) for b in biases])
    a, b = (i for i in range(3) if i != v)
    for one, other in ((a, b), (b, a)):
        if (sums[:, one] <= QUIET**2 * sums[:, other]).all() and (sums[:, other] > 0).all():
            return one
    return None


def separate(block: Attention, both: bool = False) -> Laid | None:
    import numpy as np

    if len({len(w) for w in (block.q, block.k, block.v)} | {block.out.shape[1]}) > 1:
        return None
    parts, outs = [row_squares(w) for w in (block.q, block.k, block.v)], {"": column_squares(block.out)}
    if both and block.out.shape[0] == block.out.shape[1]:
        outs["out"] = row_squares(block.out)
    if not all(map(usable, (*parts, *outs.values()))):
        return None
    return scores(np.log(np.concatenate(parts))), {name: np.log(x) for name, x in outs.items()}


def usable(squares: np.ndarray) -> bool:
    import numpy as np

    return bool(np.isfinite(squares).all() and squares.min() > 0 and scores(squares).any())


GLANCE = 10.0
"""Nats by which one block must be as named for a glance to suffice."""
