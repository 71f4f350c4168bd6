"""The number of heads where heads share keys and values: only the true one brings channels together that are balanced.

Queries that share a key are balanced with it together: the sum of their squared norms, channel by channel, follows the
key's. Which rows share a key's channel depends on the size of a head, so the balance tells the size, also in small models
whose heads do not differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anyvit.evidence import CAP, MARGIN, SMALLEST, Attention, Verdict, nothing
from anyvit.evidence_norms import Norms, closely, column_squares, row_squares, scores


def grouped_heads(blocks: Sequence[Attention]) -> Verdict:
    """The number of query heads of grouped-query attention.

    Arguments:
        blocks: attentions of one width; k and v have fewer rows than q.

    Returns:
        a Verdict whose value is the number of query heads, or None.
    """
    import numpy as np

    squares = [(row_squares(b.q), row_squares(b.k), row_squares(b.v), column_squares(b.out)) for b in blocks]
    squares = [s for s in squares if all(np.isfinite(x).all() and x.min() > 0 for x in s)]
    shapes = {tuple(map(len, s)) for s in squares}
    if len(shapes) != 1:
        return nothing("no attention weights of one width that are finite and free of zero rows")
    rows, shared, values, outs = next(iter(shapes))
    if rows != outs or shared != values or rows <= shared or rows % shared:
        return nothing("keys and values are not shared by groups of heads")
    sizes = [size for size in range(SMALLEST, shared + 1) if shared % size == 0]
    each = [{size: _balance(s, size) for size in sizes} for s in squares]
    total = {size: sum(e[size] for e in each) for size in sizes}
    ranked = sorted(sizes, key=lambda size: -total[size])
    if not ranked:
        return nothing("heads of fewer channels than can be told")
    lead = total[ranked[0]] - (total[ranked[1]] if len(ranked) > 1 else 0.0)
    votes = sum(max(e, key=lambda size: e[size]) == ranked[0] for e in each)
    shown = {rows // size: round(total[size], 1) for size in ranked}
    if lead < MARGIN or 2 * votes < len(each):
        return nothing("no size of heads balances queries with the keys they share", lead, len(each), shown)
    heads = rows // ranked[0]
    over = f" over {rows // ranked[1]} heads" if len(ranked) > 1 else ""
    text = f"{votes} of {len(each)} blocks balance the queries that share a key, {lead:.0f} nats{over}"
    return Verdict(heads, lead, votes, len(each), text, shown)


def _balance(squares: tuple, size: int) -> float:
    """Nats by which queries and keys, and values and out, agree channel by channel where heads have a size."""
    q, k, v, out = squares
    q, out = (x.reshape(len(k) // size, -1, size).sum(1).reshape(-1) for x in (q, out))
    return min(CAP, closely(scores(q), scores(k))) + min(CAP, closely(scores(v), scores(out)))


def once(block: Attention, head_dim: int) -> Attention | None:
    """A block whose keys and values were repeated for every group of queries, as it was before; None where none were.

    Arguments:
        block: of `Norms`; k and v have as many rows as q.
        head_dim: channels of the heads that were repeated.
    """
    import numpy as np

    k, v = row_squares(block.k), row_squares(block.v)
    if len(k) != len(v) or len(k) % head_dim:
        return None
    heads = len(k) // head_dim
    for times in (t for t in range(heads, 1, -1) if heads % t == 0):
        parts = [x.reshape(-1, times, head_dim) for x in (k, v)]
        if all(np.array_equal(p, p[:, :1].repeat(times, 1)) for p in parts):
            kept = [
                Norms(p[:, 0].reshape(-1), n.columns)
                for p, n in zip(parts, map(_norms, (block.k, block.v)), strict=True)
            ]
            return replace(block, k=kept[0], v=kept[1])
    return None


def _norms(weight: object) -> Norms:
    return weight if isinstance(weight, Norms) else Norms.of(weight)  # type: ignore[arg-type]
