"""How q, k and v lie in a file, and which square matrix is transposed, from the balance of the channel norms.

Every reading of a block is scored by one likelihood: each part has its own scale, the norms of q and k rise together,
those of v and the columns of out do, and both sums are shared within a head. The order of q and k is out of reach:
they are symmetric, unless a k bias that stayed at zero gives it away (adding a constant to all keys changes nothing, so
its gradient is zero).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from anyvit.evidence import HELD, MARGIN, SMALLEST, Attention, Verdict, heads, held, nothing
from anyvit.evidence_norms import Norms, closely, column_squares, groups, ordered, row_squares, scores, together

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
_NAMED: Key = ("3 h d", 2, ())
_PLAIN = ("3 h d", 0)


def _spread(x: np.ndarray) -> float:
    """Log likelihood of a part with its own mean and scale."""
    return -len(x) / 2 * math.log(max(float(x.var()), 1e-6))


def _divided(x: np.ndarray, sizes: Sequence[int]) -> dict[int, float]:
    return {0: 0.0} | groups(scores(x), [size for size in sizes if size])


def _arrange(rows: np.ndarray, axes: str, size: int) -> np.ndarray:
    """The three parts, (3, n), each in the order of its channels."""
    if axes == "3 h d":
        return rows.reshape(3, -1)
    if axes == "h d 3":
        return rows.reshape(-1, 3).T
    return rows.reshape(-1, 3, size).transpose(1, 0, 2).reshape(3, -1)


def _read_all(rows: np.ndarray, outs: Mapping[str, np.ndarray], sizes: Sequence[int]) -> Scored:
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
        parts = _arrange(rows, axes, arranged)
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
    if not all(map(_usable, (rows, *outs.values()))):
        return None
    return scores(np.log(rows)), {k: np.log(x) for k, x in outs.items()}


def _sizes(width: int, num_heads: int | None) -> list[int]:
    if num_heads:
        return [0, width // num_heads]
    return [0] + [size for size in range(SMALLEST, width) if width % size == 0]


def _by_reading(scored: Scored) -> dict[Key, tuple[float, int]]:
    """The best head size of each reading; for "h 3 d" the size is part of the reading and stays the best one too."""
    best: dict[Key, tuple[float, int]] = {}
    for (axes, size, v, turned), nats in scored.items():
        if nats > best.get((axes, v, turned), (-math.inf, 0))[0]:
            best[axes, v, turned] = nats, size
    return best


_K = TypeVar("_K")


def _pool(blocks: Sequence[Mapping[_K, float]]) -> dict[_K, float]:
    """Sums over blocks, where no block counts against a reading by more than LIMIT."""
    tops = [max(b.values()) for b in blocks]
    return {key: sum(max(b[key] - top, -LIMIT) for b, top in zip(blocks, tops, strict=True)) for key in blocks[0]}


def _lead(blocks: Sequence[Mapping[_K, float]], first: _K, second: _K) -> tuple[float, bool]:
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
    norms = [n for b in blocks if (n := _separate(b, both=True))]
    return _fused(norms, (), None)


Laid = tuple["np.ndarray", dict[str, "np.ndarray"]]
"""Normal scores of all rows of q, k and v, and log norms of out upright ("") and transposed ("out")."""


def _fused(norms: Sequence[Laid], biases: Sequence[np.ndarray], num_heads: int | None) -> Verdict:
    if not norms or len({(len(rows), len(found)) for rows, found in norms}) > 1:
        return nothing("no block has finite fused weights of one width without rows of zeros")
    width = len(norms[0][0]) // 3
    blocks = [_read_all(rows, found, _sizes(width, num_heads)) for rows, found in norms]
    best = _by_reading(_pool(blocks))
    order = sorted(best, key=lambda key: -best[key][0])
    top = order[0]
    first, second = ((axes, best[axes, v, turned][1], v, turned) for axes, v, turned in order[:2])
    lead, lasting = _lead(blocks, first, second)
    lasting = lasting or top == _NAMED
    own = [_by_reading(b) for b in blocks]
    votes = sum(max(b, key=lambda key: b[key][0]) == top for b in own)
    ranking = {str(Reading(*key)): round(best[key][0] - best[top][0], 1) for key in order[:6]}
    if lead < MARGIN or not lasting or 2 * votes < len(blocks) or not _follows(norms, top, best[top][1]):
        return nothing("no layout of q, k and v stands out", lead, len(blocks), ranking)
    size = best[top][1]
    k = _quiet_part(biases, top, size) if biases else None
    reading = Reading(*top, heads=width // size if size else None, k=k)
    if not num_heads and top[0] != "h 3 d":
        reading = Reading(*top, k=k)
    text = f"{reading}: {votes} of {len(blocks)} blocks, {lead:.0f} nats over {Reading(*order[1])}"
    return Verdict(reading, lead, votes, len(blocks), text, ranking)


def _follows(norms: Sequence[Laid], top: Key, size: int, qk_norm: bool = False) -> bool:
    """Whether v and out are balanced under a reading, more than under the plain one, and no channel order shows."""
    own, plain, pairs = 0.0, 0.0, []
    for rows, outs in norms:
        parts = [scores(part) for part in _arrange(rows, top[0], size)]
        v, out = parts[top[1]], scores(outs["".join(top[2])])
        own += min(LIMIT, together(v, out))
        plain += min(LIMIT, together(scores(_arrange(rows, *_PLAIN)[2]), scores(outs[""])))
        a, b = (parts[i] for i in range(3) if i != top[1])
        pairs.append(((v, out), (a, b)))
    vectors = [v + out for (v, out), _ in pairs]
    if ordered(vectors, size or len(vectors[0])):
        return False
    if top == _NAMED:
        return own >= MARGIN
    return own >= MARGIN and own - plain >= MARGIN / 2 and _belongs(pairs, size, qk_norm)


Pair = tuple["np.ndarray", "np.ndarray"]


def _belongs(pairs: Sequence[tuple[Pair, Pair]], size: int, qk_norm: bool) -> bool:
    """Whether v and out, and q and k, belong together channel by channel, or at least share sharp heads.

    Damage makes norms agree at the scale of heads, in drifts and in steps; a reading that contradicts the names must
    show more. Most trained models balance channel by channel. Some distilled ones do so by heads alone, and then both
    pairs must show the same heads, with borders that hold.
    """
    for at in (0,) if qk_norm else (0, 1):
        close = sum(min(LIMIT, closely(*pair[at])) for pair in pairs)
        rise = sum(min(LIMIT, together(*pair[at])) for pair in pairs)
        sharp = size and held([a + b for a, b in (pair[at] for pair in pairs)], size) >= 1.5 * HELD
        if close < GLANCE * max(1.0, len(pairs) / 3) and not (sharp and 2 * rise >= LIMIT * len(pairs)):
            return False
    return True


def _quiet_part(biases: Sequence[np.ndarray], top: Key, size: int) -> int | None:
    """Place of the one part beside v whose bias is zero in every block."""
    import numpy as np

    axes, v, _ = top
    sums = np.array([np.square(_arrange(np.asarray(b, np.float64), axes, size)).sum(1) for b in biases])
    a, b = (i for i in range(3) if i != v)
    for one, other in ((a, b), (b, a)):
        if (sums[:, one] <= QUIET**2 * sums[:, other]).all() and (sums[:, other] > 0).all():
            return one
    return None


@dataclass(frozen=True)
class Deviation:
    """One block (or all) that is not what its names say: `what` is a sentence, `nats` how sure it is."""

    name: str
    what: str
    nats: float
    reading: Reading

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def order(blocks: Sequence[Attention], *, num_heads: int | None = None) -> Verdict:
    """Whether q, k and v of each block are what their names say.

    Arguments:
        blocks: attentions as named by the file, of one width.
        num_heads: where it is known; sharpens the search for interleaving.

    Returns:
        a Verdict whose value is a tuple of `Deviation` (empty: all as named), or None for no evidence.
    """
    verdict = _judge(blocks, lambda block: _orders(block, num_heads), _in_order, _say_order)
    if verdict.value is None:
        return verdict
    swapped, told = _swapped(blocks)
    known = {d.name for d in verdict.value}
    found = (*verdict.value, *(d for d in swapped if d.name not in known))
    text = verdict.text if told else verdict.text + " (q and k cannot be told apart)"
    return replace(verdict, value=found, text="; ".join([*map(str, swapped[:3]), text]))


def transposed(blocks: Sequence[Attention]) -> Verdict:
    """Which of the square matrices q, k, v and out are stored transposed.

    That all four are can only be seen where the heads can: v and out both border on the residual stream, whose channels
    are balanced as well in some models.

    Arguments:
        blocks: attentions as named by the file, of one width, with square matrices.

    Returns:
        a Verdict whose value is a tuple of `Deviation` (empty: none differs from the others), or None for no evidence.
    """
    square = [b for b in blocks if len({n for w in (b.q, b.k, b.v, b.out) for n in w.shape}) == 1]
    upright = heads(square) if square else None
    if square and not upright:
        turned = heads([Attention(b.q.T, b.k.T, b.v.T, b.out.T) for b in square])
        if turned:
            reading = Reading("3 h d", 2, ("q", "k", "v", "out"))
            found = Deviation(f"all {len(square)} blocks", _say_turned(reading, 0), turned.nats, reading)
            return Verdict((found,), turned.nats, turned.votes, turned.of, f"{found}, {turned.text} if turned")
    verdict = _judge(blocks, _turns, _lies, _say_turned)
    if verdict.value == () and not upright:
        return replace(verdict, text=verdict.text + " (that all four matrices are transposed cannot be excluded)")
    return verdict


def _swapped(blocks: Sequence[Attention]) -> tuple[list[Deviation], bool]:
    """Blocks whose q bias, not k bias, never left zero; and whether the biases tell at all (three blocks or more)."""
    import numpy as np

    quiet: dict[int, bool] = {}
    for index, b in enumerate(blocks):
        if b.q_bias is not None and b.k_bias is not None:
            q, k = (float(np.linalg.norm(np.asarray(x, np.float64))) for x in (b.q_bias, b.k_bias))
            if min(q, k) > QUIET * max(q, k) or max(q, k) == 0:
                return [], False
            quiet[index] = q < k
    if len(quiet) < max(3, len(blocks) / 2):
        return [], False
    what = "order of q, k, v: q stands where k is expected (its bias never left zero)"
    reading = Reading("3 h d", 2, k=0)
    if all(quiet.values()):
        return [Deviation(f"all {len(quiet)} blocks", what, math.inf, reading)], True
    unlike = f", unlike in the other {len(blocks) - 1} blocks"
    wrong = [i for i, swapped in quiet.items() if swapped]
    if 3 * len(wrong) > len(quiet):
        return [], False
    return [Deviation(blocks[i].name or f"blocks.{i}", what + unlike, math.inf, reading) for i in wrong], True


def _separate(block: Attention, both: bool = False) -> Laid | None:
    import numpy as np

    if len({len(w) for w in (block.q, block.k, block.v)} | {block.out.shape[1]}) > 1:
        return None
    parts, outs = [row_squares(w) for w in (block.q, block.k, block.v)], {"": column_squares(block.out)}
    if both and block.out.shape[0] == block.out.shape[1]:
        outs["out"] = row_squares(block.out)
    if not all(map(_usable, (*parts, *outs.values()))):
        return None
    return scores(np.log(np.concatenate(parts))), {name: np.log(x) for name, x in outs.items()}


def _orders(block: Attention, num_heads: int | None) -> dict[Key, tuple[float, int]]:
    norms = _separate(block)
    return _by_reading(_read_all(*norms, _sizes(len(norms[0]) // 3, num_heads))) if norms else {}


def _in_order(blocks: Sequence[Attention], top: Key, size: int) -> bool:
    return _follows([n for b in blocks if (n := _separate(b))], top, size)


TURNS = ((), ("q",), ("k",), ("v",), ("out",), ("q", "k", "v"))
"""Sets of matrices that are stored transposed together; all four are judged by heads alone, see `transposed`."""


def _turns(block: Attention) -> dict[Key, tuple[float, int]]:
    """Log likelihood ratio of every set of transposed matrices over "nothing belongs together"."""
    squares = {name: getattr(block, name) for name in ("q", "k", "v", "out")}
    if len({n for w in squares.values() for n in w.shape}) > 1:
        return {}
    upright = {n: (column_squares if n == "out" else row_squares)(w) for n, w in squares.items()}
    turned = {n: (row_squares if n == "out" else column_squares)(w) for n, w in squares.items()}
    if not all(_usable(x) for x in (*upright.values(), *turned.values())):
        return {}
    up, down = ({n: scores(x) for n, x in side.items()} for side in (upright, turned))
    sizes = _sizes(len(block.q), None)[1:]
    found = {}
    for turn in TURNS:
        use = {n: down[n] if n in turn else up[n] for n in squares}
        nats = 0.0
        for a, b in (("q", "k"), ("v", "out")):
            same = together(use[a], use[b])
            if a in turn and b in turn:  # both border on the residual stream too, so agreement alone is no sign
                same = min(same, together(up[a], up[b]))
            nats += same + max(0.0, *groups(scores(use[a] + use[b]), sizes).values())
        found["3 h d", 2, turn] = nats, 0
    return found


def _lies(blocks: Sequence[Attention], top: Key, size: int) -> bool:
    """Whether v and out are balanced as they are read, and no heads show along what would be the residual stream."""
    against = own = 0.0
    pairs = []
    for block in blocks:
        sides = {n: [row_squares(getattr(block, n)), column_squares(getattr(block, n))] for n in ("q", "k", "v", "out")}
        channels = {n: scores(x[(n == "out") != (n in top[2])]) for n, x in sides.items()}
        pairs.append(((channels["v"], channels["out"]), (channels["q"], channels["k"])))
        own += min(LIMIT, together(*pairs[-1][0]))
        for name in top[2]:
            stream = scores(sides[name][(name == "out") == (name in top[2])])
            best = [max(groups(x, _sizes(len(x), None)[1:]).values(), default=0.0) for x in (channels[name], stream)]
            against += max(-LIMIT, min(LIMIT, max(0.0, best[1]) - max(0.0, best[0])))
    if own < MARGIN / 2 or against >= MARGIN / 2 or not top[2]:
        return own >= MARGIN / 2 and not top[2]
    turned = [p if {"v", "out"} & set(top[2]) else (p[1], p[0]) for p in pairs]
    both = len(top[2]) > 1
    sums = [a + b for pair in turned for a, b in pair[: 1 + both]]
    common = heads_size(sums)
    return _belongs(turned, common, qk_norm=not both)


def heads_size(vectors: Sequence[np.ndarray]) -> int:
    """Channels of the heads that vectors of norms show together; 0 where none stand out."""
    sizes = _sizes(len(vectors[0]), None)[1:]
    total = {size: sum(min(LIMIT, groups(x, [size])[size]) for x in vectors) for size in sizes}
    best = max(total, key=lambda size: total[size], default=0)
    return best if best and total[best] >= MARGIN else 0


def _usable(squares: np.ndarray) -> bool:
    import numpy as np

    return bool(np.isfinite(squares).all() and squares.min() > 0 and scores(squares).any())


def _judge(
    blocks: Sequence[Attention],
    score: Callable[[Attention], dict[Key, tuple[float, int]]],
    sound: Callable[[Sequence[Attention], Key, int], bool],
    say: Callable[[Reading, int], str],
) -> Verdict:
    """The reading of the file as a whole, then each block that clearly differs from it."""
    scored = [score(block) for block in blocks]
    known = [{key: nats for key, (nats, _) in s.items()} for s in scored if s]
    if not known or len({len(s) for s in known}) > 1:
        return nothing("no block has finite attention weights of one width without rows of zeros")
    pooled = _pool(known)
    ranking = sorted(pooled, key=lambda key: -pooled[key])
    common = ranking[0]
    lead, lasting = _lead(known, common, ranking[1])
    lasting = lasting or common == _NAMED  # that a file is not what it says takes more than one block
    votes = sum(max(s, key=lambda key: s[key]) == common for s in known)
    shown = {str(Reading(*key)): round(pooled[key] - pooled[common], 1) for key in ranking[:6]}
    size = max(s[common] for s in scored if s)[1]
    width = len(blocks[0].q)
    if lead < MARGIN or not lasting or 2 * votes < len(known) or not sound(blocks, common, size):
        return nothing("no reading of q, k, v and out stands out", lead, len(known), shown)
    found = []
    if common != _NAMED:
        reading = _sized(common, size, width)
        found.append(Deviation(f"all {len(known)} blocks", say(reading, 0), lead, reading))
    for index, (block, own) in enumerate(zip(blocks, scored, strict=True)):
        best = max(own, key=lambda key: own[key][0], default=common)
        if best == common or len(known) < 2:
            continue
        over = own[best][0] - max(nats for key, (nats, _) in own.items() if key != best)
        if over >= MARGIN and sound([block], best, own[best][1]):
            name, reading = block.name or f"blocks.{index}", _sized(best, own[best][1], width)
            found.append(Deviation(name, say(reading, len(known) - 1), over, reading))
    rest = "" if votes == len(known) else ", the others cannot be told"
    text = "; ".join(map(str, found[:3])) or f"as named in {votes} of {len(known)} blocks{rest}"
    return Verdict(tuple(found), lead, votes, len(known), f"{text}, {lead:.0f} nats", shown)


def _sized(key: Key, size: int, width: int) -> Reading:
    """The reading with the head count that it needs."""
    return Reading(*key, heads=width // size if key[0] == "h 3 d" and size else None)


def _say_order(reading: Reading, others: int) -> str:
    unlike = f", unlike in the other {others} blocks" if others else ""
    if reading.axes != "3 h d":
        how = "per head" if reading.axes == "h 3 d" else "per channel"
        return f"q, k and v are interleaved {how} ({reading.axes}){unlike}"
    if reading.v == 2:
        return f"order of q, k, v: v stands in its place{unlike}"
    return f"order of q, k, v: v stands where {'qk'[reading.v]} is expected{unlike}"


def _say_turned(reading: Reading, others: int) -> str:
    unlike = f", unlike in the other {others} blocks" if others else ""
    if not reading.turned:
        return f"all four matrices lie the same way{unlike}"
    *first, last = reading.turned
    names = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    return f"{names} stored transposed{unlike}"


def reread(block: Attention, reading: Reading) -> Attention:
    """A block as a reading of the whole file has it, as far as the norms of channels go.

    Arguments:
        block: as the file names it; q, k and v have as many rows each.
        reading: of `order`, `transposed` or `joint_layout`.

    Returns:
        the block of `Norms`; where q and k cannot be told apart, either is called q. Columns of q, k and v are those
        of the parts as named.
    """
    import numpy as np

    whole = {n: getattr(block, n) for n in ("q", "k", "v", "out")}
    whole |= {n: w.T for n, w in whole.items() if n in reading.turned}
    if reading.axes != "3 h d" or reading.v != 2 or reading.k == 0:
        rows = np.concatenate([row_squares(whole[n]) for n in "qkv"])
        parts = _arrange(rows, reading.axes, len(rows) // 3 // (reading.heads or 1))
        k = reading.k if reading.k is not None else max(i for i in range(3) if i != reading.v)
        places = (3 - k - reading.v, k, reading.v)
        whole |= {n: Norms(parts[i], column_squares(whole[n])) for n, i in zip("qkv", places, strict=True)}
    return replace(block, **whole)


GLANCE = 10.0
"""Nats by which one block must be as named for a glance to suffice."""


def glance(blocks: Sequence[Attention], qk_norm: bool = False) -> bool:
    """Whether it is worth the time to ask for order and transposes: not clearly as named, and not without all balance.

    Plain correlations of log norms, a hundredth of the cost of `order` and `transposed`.

    Arguments:
        blocks: attentions as named by the file.
        qk_norm: whether queries and keys are normed, so that their norms owe each other nothing.
    """
    if _swapped(blocks)[0]:
        return True
    best, plain = 0.0, True
    for block in blocks:
        named = _separate(block, both=True)
        if named is None:
            continue
        rows, outs = named
        upright = _arrange(rows, *_PLAIN)
        table = {n: [_rise(part, out) for part in upright] for n, out in outs.items()}
        own, rivals = table[""][2], [*table[""][:2], *(table.get("out", ()))]
        pair = math.inf if qk_norm else _rise(upright[0], upright[1])
        if own - max(rivals) >= GLANCE and pair >= GLANCE:
            best = math.inf
            continue
        plain = False
        other = [("h d 3", 0), *(("h 3 d", size) for size in _sizes(len(rows) // 3, None)[1:])]
        arranged = [upright, *(_arrange(rows, *way) for way in other)]
        best += max(_rise(part, out) for parts in arranged for part in parts for out in outs.values())
    return not plain and best >= MARGIN


def _rise(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return together(a, b)
