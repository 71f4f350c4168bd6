"""Which block deviates: order, interleaving, transposes, one by one and for the whole file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.evidence_models import fused, random, split, trained
from test_evidence_layout import digits

from anyvit import evidence_order
from anyvit.evidence import MARGIN, Attention
from anyvit.evidence_layout import Reading
from anyvit.evidence_norms import Norms
from anyvit.evidence_order import Deviation, glance, order, reread, transposed

FAULTS: dict[str, tuple[Callable[[Attention], Attention], str]] = {
    "v in q's place": (lambda b: replace(b, q=b.v, v=b.q), "v stands where q is expected"),
    "v in k's place": (lambda b: replace(b, k=b.v, v=b.k), "v stands where k is expected"),
    "per head": (
        lambda b: split(*(x[0] for x in fused([b], "h 3 d", 2, False, 6)), name=b.name),
        "interleaved per head (h 3 d)",
    ),
    "per channel": (
        lambda b: split(*(x[0] for x in fused([b], "h d 3", 2, False, 6)), name=b.name),
        "interleaved per channel (h d 3)",
    ),
}


TURNS: dict[str, tuple[Callable[[Attention], Attention], str]] = {
    name: (lambda b, name=name: replace(b, **{name: getattr(b, name).T}), f"{name} is stored transposed")
    for name in ("q", "k", "v", "out")
}


@pytest.mark.parametrize("fault", FAULTS | TURNS)
@pytest.mark.parametrize("at", [0, 2])
def test_the_block_that_deviates_is_named(fault: str, at: int) -> None:
    change, words = (FAULTS | TURNS)[fault]
    blocks = digits()
    blocks[at] = change(blocks[at])
    verdict = (order if fault in FAULTS else transposed)(blocks)
    assert verdict.value is not None and len(verdict.value) == 1, verdict.text
    finding = verdict.value[0]
    assert isinstance(finding, Deviation) and finding.name == f"blocks.{at}" and words in str(finding)
    assert "unlike in the other 2 blocks" in str(finding) and finding.nats >= MARGIN


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_all_blocks_is_one_finding(fault: str) -> None:
    change, words = FAULTS[fault]
    verdict = order([change(b) for b in digits()], num_heads=6)
    assert [d.name for d in verdict.value] == ["all 3 blocks"] and words in verdict.text


def test_sound_blocks_have_no_deviation() -> None:
    for blocks in (digits(), trained(96, 6, 3)):
        assert order(blocks).value == () and "as named in 3 of 3 blocks" in order(blocks).text
        assert "q and k cannot be told apart" in order(blocks).text
        assert transposed(blocks).value == ()
    assert "cannot be excluded" in transposed(digits()).text
    assert "cannot be excluded" not in transposed(trained(96, 6, 3)).text


def test_all_four_transposed_shows_where_heads_do() -> None:
    turned = [Attention(b.q.T, b.k.T, b.v.T, b.out.T) for b in trained(96, 6, 4)]
    assert "q, k, v and out are stored transposed" in transposed(turned).text
    assert not transposed([Attention(b.q.T, b.k.T, b.v.T, b.out.T) for b in digits()]).value


def test_swapped_q_and_k_are_told_by_the_quiet_bias_alone() -> None:
    rng = np.random.default_rng(0)
    loud = [rng.normal(size=96) for _ in range(3)]
    blocks = [replace(b, q_bias=x, k_bias=0.001 * x) for b, x in zip(digits(), loud, strict=True)]
    assert order(blocks).value == () and "cannot be told apart" not in order(blocks).text
    swapped = replace(blocks[1], q=blocks[1].k, k=blocks[1].q, q_bias=blocks[1].k_bias, k_bias=blocks[1].q_bias)
    verdict = order([blocks[0], swapped, blocks[2]])
    assert [d.name for d in verdict.value] == ["blocks.1"] and "q stands where k is expected" in verdict.text
    bare = [replace(b, q_bias=None, k_bias=None) for b in (blocks[0], swapped, blocks[2])]
    assert order(bare).value == ()


def test_one_damaged_block_does_not_silence_the_others() -> None:
    rng = np.random.default_rng(3)
    for hurt in (np.nan, 0.0, None):
        blocks = trained(96, 6, 4)
        v = rng.normal(size=(96, 96)).astype("float32") if hurt is None else np.full((96, 96), hurt, "float32")
        blocks[2] = replace(blocks[2], v=v)
        assert order(blocks).value == () and transposed(blocks).value == ()


def test_one_spoiled_block_does_not_speak_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    spoiled, _ = FAULTS["v in q's place"]
    weak = [spoiled(digits()[0]), *random(rng, 96, 1, "plain")]
    assert order(weak).value is None
    monkeypatch.setattr(evidence_order, "lead_of", lambda blocks, first, second: (99.0, True))
    monkeypatch.setattr(evidence_order, "_in_order", lambda *_, **__: True)
    assert order(weak).value is not None


def test_sorted_rows_are_not_called_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = digits()
    hurt = blocks[1]
    by_norm = {n: getattr(hurt, n)[np.argsort(np.square(getattr(hurt, n)).sum(1))] for n in ("q", "k", "v", "out")}
    blocks[1] = replace(hurt, **by_norm)
    assert transposed(blocks).value in ((), None)
    monkeypatch.setattr(evidence_order, "usable", lambda squares: True)
    monkeypatch.setattr(evidence_order, "scores", _unguarded)
    monkeypatch.setattr(evidence_order, "belongs", lambda *_, **__: True)
    assert transposed(blocks).value not in ((), None)


def _unguarded(x: np.ndarray) -> np.ndarray:
    from anyvit.evidence_norms import _quantiles

    out = np.empty(len(x))
    out[np.argsort(x)] = _quantiles(len(x))
    return out


@pytest.mark.parametrize("turn", [("q", "k", "v"), ("v",), ("out",)])
def test_heads_tell_channels_from_the_stream(turn: tuple[str, ...]) -> None:
    """v and out agree along the residual stream more than along channels, as in MiniLM; the heads decide."""
    rng, blocks = np.random.default_rng(0), []
    for b in trained(192, 6, 4, seed=4, spread=0.5):
        stream = np.exp(rng.normal(0, 0.3, 192)).astype("float32")
        blocks.append(replace(b, v=b.v * stream, out=b.out * stream[:, None]))
    assert transposed(blocks).value == ()
    verdict = transposed([replace(b, **{n: getattr(b, n).T for n in turn}) for b in blocks])
    assert [d.reading.turned for d in verdict.value] == [turn], verdict.text


def test_norms_stand_for_matrices() -> None:
    small = [replace(b, **{n: Norms.of(getattr(b, n)) for n in ("q", "k", "v", "out")}) for b in digits()]
    assert order(small).text == order(digits()).text and transposed(small).text == transposed(digits()).text


def test_reread_undoes_a_layout() -> None:
    for axes, v in (("h 3 d", 2), ("h d 3", 2), ("3 h d", 0)):
        weights, outs = fused(digits(), axes, v, False, 6)
        laid = [split(w, o, f"blocks.{i}") for i, (w, o) in enumerate(zip(weights, outs, strict=True))]
        back = [reread(b, Reading(axes, v, heads=6 if axes == "h 3 d" else None)) for b in laid]
        for b, true in zip(back, digits(), strict=True):
            assert np.allclose(b.v.rows, np.square(true.v).sum(1), rtol=1e-4)


def test_a_glance_asks_on_where_something_is_odd() -> None:
    assert not glance(digits()[1:]) and not glance(random(np.random.default_rng(0), 96, 3, "plain"))
    assert glance([replace(b, q=b.v, v=b.q) for b in digits()])
    assert glance([replace(b, out=b.out.T) for b in digits()])
    assert glance([split(*(x[0] for x in fused([b], "h 3 d", 2, False, 6))) for b in digits()])
