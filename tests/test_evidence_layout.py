"""Order, interleaving and transposes from trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_shared
from support.evidence_models import fused, random, split, trained
from test_evidence import real_blocks

from anyvit import evidence_layout
from anyvit.evidence import MARGIN, Attention
from anyvit.evidence_layout import Deviation, Reading, fused_layout, order, transposed

PLACES = [(axes, v, turned) for axes in ("3 h d", "h 3 d", "h d 3") for v in range(3) for turned in (False, True)]


def digits() -> list[Attention]:
    """Three blocks of a small ViT trained on digits: balanced, heads (6) not evident."""
    from safetensors.numpy import load_file

    tensors = load_file(Path(__file__).parent / "fixtures" / "digits_attention.safetensors")
    names = [f"blocks.{i}" for i in range(3)]
    return [split(tensors[f"{n}.attn.qkv.weight"], tensors[f"{n}.attn.proj.weight"], n) for n in names]


@pytest.mark.parametrize(("axes", "v", "turned"), PLACES)
def test_every_disguise_of_trained_digits_is_read(axes: str, v: int, turned: bool) -> None:
    verdict = fused_layout(*fused(digits(), axes, v, turned, 6))
    reading = verdict.value
    assert isinstance(reading, Reading), verdict.text
    assert (reading.axes, reading.v, reading.turned) == (axes, v, ("out",) if turned else ())
    assert axes != "h 3 d" or reading.heads == 6
    assert reading.k is None and "q/k" in str(reading)


@needs_shared
@pytest.mark.parametrize(("axes", "v", "turned"), PLACES)
def test_every_disguise_of_real_weights_is_read(axes: str, v: int, turned: bool) -> None:
    verdict = fused_layout(*fused(real_blocks()[::4], axes, v, turned, 6))
    reading = verdict.value
    assert isinstance(reading, Reading) and verdict.nats > 60, verdict.text
    assert (reading.axes, reading.v, reading.turned) == (axes, v, ("out",) if turned else ())


def test_a_bias_that_stayed_zero_is_k() -> None:
    weights, outs = fused(digits(), "3 h d", 2, False, 6)
    rng = np.random.default_rng(0)
    biases = [np.concatenate([np.zeros(96), rng.normal(size=192)]) for _ in weights]
    verdict = fused_layout(weights, outs, biases)
    assert verdict.value.k == 0 and "k q v" in verdict.text
    assert fused_layout(weights, outs, [rng.normal(size=288) for _ in weights]).value.k is None


def test_random_weights_have_no_layout() -> None:
    rng = np.random.default_rng(0)
    for kind in ("plain", "uniform", "parts") * 8:
        blocks = random(rng, 64, int(rng.integers(1, 4)), kind)
        for axes in ("3 h d", "h d 3"):
            assert fused_layout(*fused(blocks, axes, 2, False, 4)).value is None
        assert order(blocks).value is None
        assert transposed(blocks).value is None


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
    monkeypatch.setattr(evidence_layout, "_lead", lambda blocks, first, second: (99.0, True))
    assert order(weak).value is not None


def test_sorted_rows_are_not_called_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = digits()
    hurt = blocks[1]
    by_norm = {n: getattr(hurt, n)[np.argsort(np.square(getattr(hurt, n)).sum(1))] for n in ("q", "k", "v", "out")}
    blocks[1] = replace(hurt, **by_norm)
    assert transposed(blocks).value in ((), None)
    monkeypatch.setattr(evidence_layout, "_usable", lambda squares: True)
    monkeypatch.setattr(evidence_layout, "scores", _unguarded)
    assert transposed(blocks).value not in ((), None)


def _unguarded(x: np.ndarray) -> np.ndarray:
    from anyvit.evidence_norms import _quantiles

    out = np.empty(len(x))
    out[np.argsort(x)] = _quantiles(len(x))
    return out


def test_shapes_that_do_not_fit_give_no_verdict() -> None:
    rng = np.random.default_rng(0)
    assert fused_layout([rng.normal(size=(64, 32))], [rng.normal(size=(32, 32))]).value is None
    b = trained(96, 6, 1)[0]
    assert transposed([replace(b, q=b.q[:48])]).value is None
    assert order([replace(b, k=b.k[:48])]).value is None
