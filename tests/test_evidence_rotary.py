"""Which channels are turned together, from the norms of queries and keys.

`fixtures/rotary_norms.npz`: squared row norms (blocks, q and k, channels) of three ViTs of width 192 that were trained on
photographs (scripts/train_photos.py): rotary halves and pairs with 4 heads, and one without rotary positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyvit import evidence_rotary
from anyvit.evidence import Attention
from anyvit.evidence_norms import Norms
from anyvit.evidence_rotary import WAYS, paired, rotary_pairs

HEADS = 4


def real(kind: str) -> list[Attention]:
    with np.load(Path(__file__).parent / "fixtures" / "rotary_norms.npz") as file:
        found = file[kind]
    ones = np.ones(192)
    return [Attention(Norms(q, ones), Norms(k, ones), Norms(ones, ones), Norms(ones, ones)) for q, k in found]


def relaid(blocks: list[Attention], way: str) -> list[Attention]:
    """Interleaved pairs as another way has them, as a conversion permutes the rows."""
    places = {"half": (0, 2, 1), "axes": None, "interleaved": (0, 1, 2)}[way]

    def rows(n: Norms) -> Norms:
        x = n.rows.reshape(HEADS, -1, 2)
        if places is None:
            x = x.reshape(HEADS, 2, -1, 2).swapaxes(2, 3)
        else:
            x = x.transpose(places)
        return Norms(x.reshape(-1), n.columns)

    return [Attention(rows(b.q), rows(b.k), b.v, b.out) for b in blocks]


@pytest.mark.parametrize("kind", ["half", "interleaved"])
def test_the_pairs_of_trained_models_are_seen(kind: str) -> None:
    verdict = rotary_pairs(real(kind), HEADS)
    assert verdict.value == kind and verdict.nats > 100, verdict.text
    assert rotary_pairs(real(kind)[:1], HEADS).value is None, "one block is no proof"


@pytest.mark.parametrize("way", WAYS)
def test_permuted_rows_are_seen(way: str) -> None:
    assert rotary_pairs(relaid(real("interleaved"), way), HEADS).value == way


def test_models_without_rotary_positions_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = rotary_pairs(real("none"), 6)
    assert verdict.value is None and verdict.text.startswith("no evidence")
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = np.exp(rng.normal(0, 1, (6, 192)))
        k = q * np.exp(rng.normal(0, rng.choice([0.1, 0.3, 1.0]), q.shape))
        ones = np.ones(192)
        some = [
            Attention(Norms(a, ones), Norms(b, ones), Norms(ones, ones), Norms(ones, ones))
            for a, b in zip(q, k, strict=True)
        ]
        assert rotary_pairs(some, HEADS).value is None
    monkeypatch.setattr(evidence_rotary, "together", lambda *_: 0.0)
    assert rotary_pairs(real("half"), HEADS).value is None, "norms that owe each other nothing (q/k norm) are not asked"


def test_rows_that_were_scaled_are_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a head's rows ten times as long: every pair of i and i + e/2 has one of them, and all sums look alike."""
    blocks = []
    for b in real("none"):
        scale = np.where(np.arange(192) % 48 < 24, 100.0, 1.0)
        blocks.append(Attention(Norms(b.q.rows * scale, b.q.columns), b.k, b.v, b.out))
    monkeypatch.setattr(evidence_rotary, "together", lambda *_: 99.0)
    assert rotary_pairs(blocks, HEADS).value is None
    monkeypatch.setattr(evidence_rotary, "STEP", 9.0)
    assert rotary_pairs(blocks, HEADS).value == "half"


def test_pairs_lie_side_by_side() -> None:
    x = np.arange(8).reshape(1, 8)
    assert paired(x, "interleaved")[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert paired(x, "half")[0].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert paired(x, "axes")[0].tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
