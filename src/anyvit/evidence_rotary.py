"""Which channels of a head a rotary position embedding turns together, from the balance of queries and keys.

A rotation commutes with scaling both channels of a pair and with turning them, not with scaling one of them. So in a
trained rotary model q and k are balanced pair by pair, |q_a|² + |q_b|² with |k_a|² + |k_b|², and no longer channel by
channel: sums over the true pairs agree far better than sums over others. Without rotary positions all ways of pairing
agree equally.

Source: the law of evidence.py for the symmetries that the rotation leaves, https://arxiv.org/abs/2012.04728.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyvit.evidence import MARGIN, Attention, Verdict, nothing
from anyvit.evidence_norms import row_squares, scores, together

if TYPE_CHECKING:
    import numpy as np

WAYS = {
    "interleaved": "channels 2i and 2i + 1",
    "half": "channels i and i + e/2",
    "axes": "channels i and i + e/4 in each half",
}
"""Way of pairing → which channels of a head of e are turned together."""

LIMIT = 30.0
"""Nats by which one block can at most speak for a way of pairing."""

TIGHT = 0.35
"""Variance of log |q|²/|k|² over pairs, as a share of that over channels, that true pairs stay below; independent channels
have 0.5, true pairs of trained rotary models 0.08 to 0.3."""

ACTIVE = 0.01
"""Smallest variance of log |q|²/|k|² over channels at which there is something to compare."""


STEP = 0.5
"""Correlation of neighbouring channels of log |q|²/|k|² above which a part of the rows was scaled; rotary models reach 0.31."""


def paired(x: np.ndarray, way: str) -> np.ndarray:
    """The channels of each head side by side with their partners, (heads, e/2, 2).

    Arguments:
        x: (heads, e).
        way: one of `WAYS`.
    """
    heads, e = x.shape
    if way == "interleaved":
        return x.reshape(heads, e // 2, 2)
    if way == "half":
        return x.reshape(heads, 2, e // 2).swapaxes(1, 2)
    return x.reshape(heads, 2, 2, e // 4).transpose(0, 1, 3, 2).reshape(heads, e // 2, 2)


def rotary_pairs(blocks: Sequence[Attention], num_heads: int) -> Verdict:
    """Which channels are turned together.

    Arguments:
        blocks: attentions of one width; q and k have as many rows.
        num_heads: number of heads.

    Returns:
        a Verdict whose value is a key of `WAYS`, or None: not rotary, not balanced (q/k norm), or too little trained.
    """
    import numpy as np

    each = []
    for b in blocks:
        q, k = row_squares(b.q), row_squares(b.k)
        if len(q) != len(k) or len(q) % (4 * num_heads) or not (np.isfinite(q + k).all() and min(q.min(), k.min()) > 0):
            continue
        if together(scores(q), scores(k)) >= MARGIN / 2:
            each.append(tightness(q.reshape(num_heads, -1), k.reshape(num_heads, -1)))
    if not each:
        return nothing("no block whose queries and keys are balanced")
    count = num_heads * (len(row_squares(blocks[0].q)) // num_heads // 2)
    nats = {way: sum(_nats(e, way, count) for e in each) for way in WAYS}
    best = max(nats, key=lambda way: nats[way])
    second = max(n for way, n in nats.items() if way != best)
    votes = sum(max(e, key=lambda way: -e[way]) == best and e[best] < TIGHT for e in each)
    shown = {way: round(n, 1) for way, n in nats.items()}
    share = math.exp(sum(math.log(e[best]) for e in each) / len(each))
    lead = nats[best] - max(0.0, second)
    said = (
        f"|q|²/|k|² varies over {WAYS[best]} {share:.2f} times as much as over channels, two that are independent 0.5"
    )
    if lead < 2 * MARGIN or 4 * votes < 3 * len(each) or len(each) < max(2, len(blocks) / 2):
        return nothing(f"no pairs of channels stand out ({said})", lead, len(each), shown)
    return Verdict(best, lead, votes, len(each), f"{votes} of {len(each)} blocks, {lead:.0f} nats: {said}", shown)


def _nats(tightness: dict[str, float], way: str, count: int) -> float:
    """How much tighter the pairs are than sums of two independent channels would be."""
    others = sorted((t for w, t in tightness.items() if w != way))
    return max(-LIMIT, min(LIMIT, count / 2 * math.log(min(0.5, others[0]) / tightness[way])))


def tightness(q: np.ndarray, k: np.ndarray) -> dict[str, float]:
    """Variance of log |q|²/|k|² over pairs as a share of that over channels; the mean of each head is taken off."""
    import numpy as np

    ratio = np.log(q) - np.log(k)
    ratio = ratio - ratio.mean(1, keepdims=True)
    lag = float((ratio[:, 1:] * ratio[:, :-1]).sum())

    def spread(a: np.ndarray, b: np.ndarray) -> float:
        x = np.log(a) - np.log(b)
        return float((x - x.mean(1, keepdims=True)).var())

    alone = spread(q, k)
    if alone < ACTIVE or lag > STEP * float(np.square(ratio).sum()):
        return dict.fromkeys(WAYS, 1.0)
    return {way: max(spread(paired(q, way).sum(-1), paired(k, way).sum(-1)) / alone, 1e-6) for way in WAYS}
