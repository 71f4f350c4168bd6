"""Which block is not what its names say: order, interleaving and transposes, judged block by block against the file.

A reading of `evidence_layout` is scored for every block; what most blocks agree on is the file's, and a block that clearly
differs deviates. One damaged block decides nothing for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anyvit.evidence import MARGIN, Attention, Verdict, heads, nothing
from anyvit.evidence_layout import (
    GLANCE,
    LIMIT,
    NAMED,
    PLAIN,
    QUIET,
    Key,
    Reading,
    arrange,
    belongs,
    by_reading,
    follows,
    lead_of,
    pool,
    read_all,
    separate,
    sizes_of,
    usable,
)
from anyvit.evidence_norms import Norms, closely, column_squares, groups, row_squares, scores, together, variation

if TYPE_CHECKING:
    import numpy as np


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
        turned = heads([Attention(b.q.T, b.k.T, b.v.T, b.out.T) for b in square], both=True)
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


def _orders(block: Attention, num_heads: int | None) -> dict[Key, tuple[float, int]]:
    norms = separate(block)
    return by_reading(read_all(*norms, sizes_of(len(norms[0]) // 3, num_heads))) if norms else {}


def _in_order(blocks: Sequence[Attention], top: Key, size: int, **how: bool) -> bool:
    return follows([n for b in blocks if (n := separate(b))], top, size, **how)


TURNS = ((), ("q",), ("k",), ("v",), ("out",), ("q", "k", "v"))
"""Sets of matrices that are stored transposed together; all four are judged by heads alone, see `transposed`."""


def _turns(block: Attention) -> dict[Key, tuple[float, int]]:
    """Log likelihood ratio of every set of transposed matrices over "nothing belongs together"."""
    squares = {name: getattr(block, name) for name in ("q", "k", "v", "out")}
    if len({n for w in squares.values() for n in w.shape}) > 1:
        return {}
    upright = {n: (column_squares if n == "out" else row_squares)(w) for n, w in squares.items()}
    turned = {n: (row_squares if n == "out" else column_squares)(w) for n, w in squares.items()}
    if not all(usable(x) for x in (*upright.values(), *turned.values())):
        return {}
    up, down = ({n: scores(x) for n, x in side.items()} for side in (upright, turned))
    sizes = sizes_of(len(block.q), None)[1:]
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


def _lies(blocks: Sequence[Attention], top: Key, size: int, **how: bool) -> bool:
    """Whether v and out are balanced as they are read, and no heads show along what would be the residual stream."""
    against = own = 0.0
    doubt, rest = (("v", "out"), ("q", "k")) if {"v", "out"} & set(top[2]) else (("q", "k"), ("v", "out"))
    pairs, named = [], []
    for block in blocks:
        sides = {n: [row_squares(getattr(block, n)), column_squares(getattr(block, n))] for n in ("q", "k", "v", "out")}
        channels = {n: scores(x[(n == "out") != (n in top[2])]) for n, x in sides.items()}
        pairs.append(tuple((channels[a], channels[b]) for a, b in (doubt, rest)))
        named.append(tuple(scores(sides[n][n == "out"]) for n in doubt))
        own += min(LIMIT, together(channels["v"], channels["out"]))
        for name in top[2]:
            stream = scores(sides[name][(name == "out") == (name in top[2])])
            best = [max(groups(x, sizes_of(len(x), None)[1:]).values(), default=0.0) for x in (channels[name], stream)]
            against += max(-LIMIT, min(LIMIT, max(0.0, best[1]) - max(0.0, best[0])))
    if own < MARGIN / 2 or against >= MARGIN / 2 or not top[2]:
        return own >= MARGIN / 2 and not top[2]
    both = len(top[2]) > 1
    return belongs(pairs, named, qk_norm=not both, vo=doubt[0] != "v", **how)


def _judge(
    blocks: Sequence[Attention],
    score: Callable[[Attention], dict[Key, tuple[float, int]]],
    sound: Callable[..., bool],
    say: Callable[[Reading, int], str],
) -> Verdict:
    """The reading of the file as a whole, then each block that clearly differs from it."""
    scored = [score(block) for block in blocks]
    known = [{key: nats for key, (nats, _) in s.items()} for s in scored if s]
    if not known or len({len(s) for s in known}) > 1:
        return nothing("no block has finite attention weights of one width without rows of zeros")
    pooled = pool(known)
    ranking = sorted(pooled, key=lambda key: -pooled[key])
    common = ranking[0]
    lead, lasting = lead_of(known, common, ranking[1])
    lasting = lasting or common == NAMED  # that a file is not what it says takes more than one block
    votes = sum(max(s, key=lambda key: s[key]) == common for s in known)
    shown = {str(Reading(*key)): round(pooled[key] - pooled[common], 1) for key in ranking[:6]}
    size = max(s[common] for s in scored if s)[1]
    width = len(blocks[0].q)
    if lead < MARGIN or not lasting or 2 * votes < len(known) or not sound(blocks, common, size, all_of=True):
        return nothing("no reading of q, k, v and out stands out", lead, len(known), shown)
    found = []
    if common != NAMED:
        reading = _sized(common, size, width)
        found.append(Deviation(f"all {len(known)} blocks", say(reading, 0), lead, reading))
    for index, (block, own) in enumerate(zip(blocks, scored, strict=True)):
        best = max(own, key=lambda key: own[key][0], default=common)
        if best == common or len(known) < 3 or 4 * votes < 3 * (len(known) - 1):  # odd among blocks that are clear
            continue
        over = own[best][0] - max(nats for key, (nats, _) in own.items() if key != best)
        reading, others = _sized(best, own[best][1], width), [b for b in blocks if b is not block]
        plausible = over >= MARGIN and sound([block], best, own[best][1], by_heads=_by_heads(others))
        if plausible and not _multiplied(block, reading, others):
            name = block.name or f"blocks.{index}"
            found.append(Deviation(name, say(reading, len(known) - 1), over, reading))
    rest = "" if votes == len(known) else ", the others cannot be told"
    text = "; ".join(map(str, found[:3])) or f"as named in {votes} of {len(known)} blocks{rest}"
    return Verdict(tuple(found), lead, votes, len(known), f"{text}, {lead:.0f} nats", shown)


def _by_heads(blocks: Sequence[Attention]) -> bool:
    """Whether v and out of most blocks agree by heads alone and not channel by channel."""
    fine = sorted(closely(scores(row_squares(b.v)), scores(column_squares(b.out))) for b in blocks)
    return fine[len(fine) // 2] < GLANCE


LOUD = 1.5
"""Times by which the channels that v and out share may vary more than any channels of the other blocks; real ones reach 1.1."""


def _multiplied(block: Attention, reading: Reading, others: Sequence[Attention]) -> bool:
    """Whether v and out, as they would be read, vary from channel to channel as nothing else in the file does.

    So they do where one field was multiplied onto the rows of both.
    """
    straight = reread(block, reading)
    most = max(variation(f(getattr(b, n))) for b in others for n in ("q", "k", "v", "out") for f in SIDES)
    return min(variation(row_squares(straight.v)), variation(column_squares(straight.out))) > LOUD * most


SIDES = (row_squares, column_squares)


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
        parts = arrange(rows, reading.axes, len(rows) // 3 // (reading.heads or 1))
        k = reading.k if reading.k is not None else max(i for i in range(3) if i != reading.v)
        places = (3 - k - reading.v, k, reading.v)
        whole |= {n: Norms(parts[i], column_squares(whole[n])) for n, i in zip("qkv", places, strict=True)}
    return replace(block, **whole)


def glance(blocks: Sequence[Attention], qk_norm: bool = False) -> bool:
    """Whether it is worth the time to ask for order and transposes: not clearly as named, and not without all balance.

    Plain correlations of log norms, a hundredth of the cost of `order` and `transposed`.

    Arguments:
        blocks: attentions as named by the file.
        qk_norm: whether queries and keys are normed, so that their norms owe each other nothing.
    """
    import numpy as np

    if _swapped(blocks)[0]:
        return True
    best, plain = 0.0, True
    for block in blocks:
        named = separate(block, both=True)
        if named is None:
            continue
        rows, outs = named
        upright, those = arrange(rows, *PLAIN), np.stack([outs[""], *(outs[n] for n in outs if n)])
        nats = _rises(upright, those)
        own, rivals = nats[2, 0], [*nats[:2, 0], *nats[:, 1:].flat]
        pair = math.inf if qk_norm else _rises(upright[:1], upright[1:2])[0, 0]
        if own - max(rivals) >= GLANCE and pair >= GLANCE:
            best = math.inf
            continue
        plain = False
        other = [("h d 3", 0), *(("h 3 d", size) for size in sizes_of(len(rows) // 3, None)[1:])]
        best += float(_rises(np.concatenate([upright, *(arrange(rows, *way) for way in other)]), those).max())
    return not plain and best >= MARGIN


def _rises(parts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`together` of each of (k, n) vectors and each of (m, n), whatever their means: (k, m)."""
    import numpy as np

    a, b = parts - parts.mean(1, keepdims=True), others - others.mean(1, keepdims=True)
    both = np.sqrt(np.outer(np.square(a).sum(1), np.square(b).sum(1)))
    r = np.divide(a @ b.T, both, out=np.zeros_like(both), where=both > 0).clip(0, 0.9999)
    return -parts.shape[1] / 2 * np.log1p(-r * r)
