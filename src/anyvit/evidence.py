"""What trained attention weights say by themselves about the number of heads.

Two laws carry it. *Balance*: attention is unchanged when row i of q is scaled by a and row i of k by 1/a, or row i of v
and column i of the output projection; gradient descent keeps the difference of their squared norms and weight decay
shrinks it, so after training the norms follow each other. *Heads differ*: the channels of one head share a scale that
other heads do not have. Weights that are random or hardly trained show neither, and the verdict then has no value.

Source: https://arxiv.org/abs/1806.00900 (balance), https://arxiv.org/abs/2012.04728 (symmetries and weight decay).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyvit.evidence_norms import (
    Norms,
    balance,
    bordered,
    by_groups,
    closely,
    column_squares,
    groups,
    ordered,
    row_squares,
    scores,
    stays,
    together,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Attention", "Verdict", "balance", "groups", "heads", "nothing", "sample", "sums"]

MARGIN = 20.0
"""Nats by which a verdict must lead the next candidate; measured in docs/evidence.md."""

HELD = 20.0
"""Nats that a vector of norms must lose on average when the borders of heads are moved by half a head; real weights lose
30 and more (counted up to CAP), random walks that pass as heads 11 to 18."""

SAME = 0.8
"""Mean correlation of the groups of different blocks from which they are one field; real stacks stay below 0.3."""

FEW = 4
"""Fewer heads than these need twice the margin: steps at thirds of the channels look much like three heads."""

CAP = 40.0
"""Nats that one vector of norms can at most hold against a candidate, so that one damaged tensor decides nothing."""

SMALLEST = 8
"""Channels of the smallest head that is believed; smaller groups compete, so that rotary pairs do not pass as heads.
Fewer than three heads are not believed either: one step in the norms looks like two."""


@dataclass(frozen=True)
class Attention:
    """The weights of one attention, as y = W·x; biases carry no evidence on heads and are left out of the norms.

    Arguments:
        q: (heads·k, D), the matrix or its `Norms`; rows are channels.
        k: (heads·k, D), or fewer rows where heads share keys and values.
        v: as k.
        out: (D, heads·k); columns are channels.
        name: what findings call it, e.g. "blocks.5".
        q_bias, k_bias: (heads·k,) where present; only `order` looks at them.
    """

    q: np.ndarray | Norms
    k: np.ndarray | Norms
    v: np.ndarray | Norms
    out: np.ndarray | Norms
    name: str = ""
    q_bias: np.ndarray | None = None
    k_bias: np.ndarray | None = None


@dataclass(frozen=True)
class Verdict:
    """What the weights say; `value` is None where they do not say enough.

    Arguments:
        value: the answer, or None for no evidence.
        nats: lead over the next candidate (natural logarithm of the likelihood ratio).
        votes: how many of `of` separate measurements prefer the answer on their own.
        of: the number of separate measurements.
        text: the verdict in words, for a report.
        candidates: nats of each candidate over "no structure", or another figure where `text` says so.
    """

    value: Any
    nats: float
    votes: int
    of: int
    text: str
    candidates: Mapping[Any, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.value is not None


def nothing(text: str, nats: float = 0.0, of: int = 0, candidates: Mapping[Any, float] | None = None) -> Verdict:
    """The verdict without a value: no evidence, and why."""
    return Verdict(None, nats, 0, of, "no evidence: " + text, candidates or {})


def _squares(block: Attention) -> tuple[np.ndarray, ...] | None:
    """Squared norms of q, k, v (rows) and out (columns), or None where shapes or values do not allow a reading."""
    import numpy as np

    q, k, v = (row_squares(w) for w in (block.q, block.k, block.v))
    found = q, k, v, column_squares(block.out)
    fits = len(q) == len(found[3]) and len(k) == len(v) and len(q) % len(k) == 0
    return found if fits and all(np.isfinite(x).all() and x.min() > 0 for x in found) else None


def _shared(squares: tuple[np.ndarray, ...] | None, size: int) -> tuple[np.ndarray, ...] | None:
    """Norms by channel of k and v: the squares of query heads that share a key head add up, as balance wants it."""
    if squares is None:
        return None
    q, k, v, out = squares
    if len(q) == len(k):
        return squares
    if len(k) % size:
        return None
    q, out = (x.reshape(len(k) // size, -1, size).sum(1).reshape(-1) for x in (q, out))
    return q, k, v, out


def sums(squares: tuple[np.ndarray, ...] | None, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Normal scores of log‖q‖+log‖k‖ and of log‖v‖+log‖out‖ by channel, from squared norms."""
    import numpy as np

    parts = _shared(squares, size)
    if parts is None:
        return None
    q, k, v, out = (np.log(x) for x in parts)
    return scores(q + k), scores(v + out)


def sample(depth: int, width: int, elements: int = 1 << 24) -> tuple[int, ...]:
    """Which blocks to read: as many as fit in a number of elements, evenly spread, at least three where there are.

    Arguments:
        depth: number of blocks.
        width: channels.
        elements: weights to read in all (four matrices a block).

    Example:
        >>> sample(24, 1024), sample(12, 384)
        ((0, 8, 15, 23), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
    """
    count = min(depth, max(3, elements // (4 * width * width)))
    if count < 2:
        return tuple(range(count))
    return tuple(dict.fromkeys(round(i * (depth - 1) / (count - 1)) for i in range(count)))


def heads(blocks: Sequence[Attention], candidates: Iterable[int] | None = None, *, both: bool = False) -> Verdict:
    """The number of heads that the channel norms show.

    Arguments:
        blocks: one or more attentions of one width; `sample` says which suffice.
        candidates: the numbers of (query) heads that may be named; None for all with at least 8 channels a head.
        both: whether q and k must show them as well as v and out.

    Returns:
        a Verdict whose value is the number of heads, or None; one or two cannot be told from no evidence.

    Example:
        >>> import numpy as np
        >>> w = np.random.default_rng(0).normal(size=(4, 64, 64))
        >>> print(heads([Attention(*w)]).text)
        no evidence: the norms of v and out do not follow each other, as they do after training
    """
    squares = [s for s in map(_squares, blocks) if s is not None]
    if not squares or len({(len(s[0]), len(s[1])) for s in squares}) > 1:
        return nothing("no attention weights of one width that are finite and free of zero rows")
    rows, shared = len(squares[0][0]), len(squares[0][1])
    sizes = [size for size in range(2, shared) if shared % size == 0]
    trouble = _misread(squares, sizes) if sizes else "the width has no divisor"
    if trouble:
        return nothing(trouble, of=2 * len(squares))
    votes = [_votes(s, sizes) for s in squares]
    tally: dict[int, float] = {}
    for parts, label in (((0, 1), ""), ((1,), " (v and out alone)")):
        tally = _tally([vote[part] for vote in votes for part in parts])
        size = max(sizes, key=lambda s: tally[s])
        if label and (both or _otherwise(size, [vote[0] for vote in votes])):
            break
        if _convincing(size, tally, squares, votes, parts):
            return _say(size, tally, votes, parts, label, rows, candidates)
    return nothing("no division into heads stands out", of=2 * len(votes), candidates=_by_heads(tally, rows))


def _otherwise(size: int, votes: Sequence[dict[int, float]]) -> bool:
    """Whether q and k clearly show heads of another size than v and out; rotary pairs are no heads."""
    tally = _tally(votes)
    best = max(tally, key=lambda s: tally[s])
    return best >= SMALLEST and tally[best] - max(0.0, tally[size]) >= MARGIN


def _votes(squares: tuple[np.ndarray, ...], sizes: Sequence[int]) -> tuple[dict[int, float], dict[int, float]]:
    plain = sums(squares, sizes[0]) if len(squares[0]) == len(squares[1]) else None
    if plain is not None:
        return groups(plain[0], sizes), groups(plain[1], sizes)
    both: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for size in sizes:
        pair = sums(squares, size)
        for vote, x in zip(both, pair or (), strict=True):
            vote.update(groups(x, [size]))
    return both


def _tally(votes: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Sums of the votes over "one group", where no single vote counts against a candidate by more than CAP."""
    sizes = votes[0]
    best = [max(0.0, *vote.values()) for vote in votes]
    floor = sum(max(-top, -CAP) for top in best)
    return {s: sum(max(v[s] - top, -CAP) for v, top in zip(votes, best, strict=True)) - floor for s in sizes}


def _lead(size: int, tally: Mapping[int, float]) -> tuple[float, int | None]:
    """Nats over the next size, and that size; None stands for "one group"."""
    rivals = {s: nats for s, nats in tally.items() if s != size}
    second = max(rivals, key=lambda s: rivals[s]) if rivals else None
    if second is None or rivals[second] < 0:
        return tally[size], None
    return tally[size] - rivals[second], second


def _convincing(
    size: int,
    tally: Mapping[int, float],
    squares: Sequence[tuple[np.ndarray, ...]],
    votes: Sequence[tuple[dict[int, float], dict[int, float]]],
    parts: Sequence[int],
) -> bool:
    """The lead suffices, v and out do not object, half of all votes agree, and the borders lie where heads begin."""
    alone = _tally([vote[1] for vote in votes])
    count = len(squares[0][1]) // size
    if size < SMALLEST or count < 3 or _lead(size, tally)[0] < MARGIN * (2 if count < FEW else 1):
        return False
    if alone[size] < max(4.0, max(alone.values()) - 2) or 2 * _agreeing(size, votes, parts) < len(votes) * len(parts):
        return False
    pairs = [pair for s in squares if (pair := sums(s, size))]
    if any(ordered([pair[part] for pair in pairs], size) for part in parts):
        return False
    if _shared_by_blocks([pair[1] for pair in pairs], size):
        return False
    if not _balanced(squares, size):
        return False
    vectors = [pair[part] for pair in pairs for part in parts]
    return bordered(vectors, size) and held(vectors, size) >= HELD and not _halves(pairs, votes, parts, size)


def _balanced(squares: Sequence[tuple[np.ndarray, ...]], size: int) -> bool:
    """Whether v and out agree channel by channel, or closely from head to head; rows that were moved do neither."""
    import numpy as np

    found = [parts for s in squares if (parts := _shared(s, size))]
    pairs = [(scores(np.log(v)), scores(np.log(out))) for _, _, v, out in found]
    fine = sum(min(CAP, closely(v, out)) for v, out in pairs)
    return fine >= MARGIN / 2 or sum(by_groups(v, out, size) for v, out in pairs) >= 2 * len(pairs)


def _shared_by_blocks(vectors: Sequence[np.ndarray], size: int) -> bool:
    """Whether all blocks show the same groups: heads of different blocks know nothing of each other, a field does."""
    import numpy as np

    means = np.array([x.reshape(-1, size).mean(1) for x in vectors if x.any()])
    if len(means) < 4:
        return False
    means = means - means.mean(1, keepdims=True)
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return float(np.square(unit.sum(0)).sum() - len(unit)) / (len(unit) * (len(unit) - 1)) > SAME


def held(vectors: Sequence[np.ndarray], size: int) -> float:
    """Nats that vectors lose on average, each at most CAP, when the borders move by half a head."""
    lost = [stays(x, size) for x in vectors if x.any()]
    return sum(max(-CAP, min(CAP, nats)) for nats in lost) / max(1, len(lost))


def _halves(pairs: Sequence[Any], votes: Sequence[Any], parts: Sequence[int], size: int) -> bool:
    """Whether the groups are halves of heads that begin half a head later, as in a tensor that was cut elsewhere."""
    import numpy as np

    if len(pairs[0][0]) % (2 * size):
        return False
    lost = 0.0
    for pair, vote in zip(pairs, votes, strict=True):
        for part in parts:
            moved = groups(np.roll(pair[part], size), [2 * size])[2 * size]
            lost += max(-CAP, min(CAP, vote[part][size] - moved))
    return lost < MARGIN


def _agreeing(size: int, votes: Sequence[Any], parts: Sequence[int]) -> int:
    return sum(max(vote[part], key=lambda s: vote[part][s]) == size for vote in votes for part in parts)


def _misread(squares: Sequence[tuple[np.ndarray, ...]], sizes: Sequence[int]) -> str:
    """Why the channels cannot be trusted to be what they are called, or nothing."""
    import numpy as np

    size = sizes[-1] if sizes else 1
    pairs = [parts for s in squares if (parts := _shared(s, size))]
    if sum(min(CAP, together(scores(p[2]), scores(p[3]))) for p in pairs) < MARGIN / 2:
        return "the norms of v and out do not follow each other, as they do after training"
    third = 0.0
    for parts in pairs:
        for x in parts[:3]:
            if len(x) % 3 == 0:
                by_three = scores(np.log(x)).reshape(-1, 3).T.reshape(-1)
                third += max(-CAP, min(CAP, groups(by_three, [len(x) // 3])[len(x) // 3]))
    return "every third channel resembles: q, k and v seem interleaved channel by channel" if third > MARGIN else ""


def _by_heads(tally: Mapping[int, float], rows: int) -> dict[int, float]:
    return {rows // size: round(nats, 1) for size, nats in sorted(tally.items(), reverse=True)}


def _say(
    size: int,
    tally: Mapping[int, float],
    votes: Sequence[Any],
    parts: Sequence[int],
    label: str,
    rows: int,
    candidates: Iterable[int] | None,
) -> Verdict:
    lead, second = _lead(size, tally)
    agreeing, of, value = _agreeing(size, votes, parts), len(votes) * len(parts), rows // size
    over = "no division at all" if second is None else f"{rows // second} heads"
    blocks = f"{len(votes)} block{'s' * (len(votes) > 1)}"
    text = f"{agreeing} of {of} votes of {blocks}{label}, {lead:.0f} nats over {over}"
    ranking = _by_heads(tally, rows)
    if candidates is not None and value not in tuple(candidates):
        return nothing(f"the weights show {value} heads ({text}), which is none of the candidates", lead, of, ranking)
    return Verdict(value, lead, agreeing, of, text, ranking)
