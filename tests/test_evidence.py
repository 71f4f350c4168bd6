"""Number of heads from trained weights: right where it shows, silent everywhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence_models import random, trained

from anyvit import evidence
from anyvit.evidence import Attention, balance, groups, heads, sample
from anyvit.evidence_norms import neighbours, scores


def test_balance_is_a_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    a = np.exp(rng.normal(size=200))
    assert balance(a, a**3) == pytest.approx(1)
    assert abs(balance(a, rng.normal(size=200))) < 0.2
    spoiled = a.copy()
    spoiled[:2] = 1e12
    assert balance(spoiled, a) > 0.9
    assert balance(a, np.ones(200)) == 0


def test_sorted_or_repeated_norms_are_no_evidence() -> None:
    assert not scores(np.arange(64.0)).any()
    assert not scores(np.repeat(np.random.default_rng(0).normal(size=8), 8)).any()
    assert not scores(np.array([1.0, np.nan, 2.0, 5.0])).any()
    assert scores(np.random.default_rng(0).normal(size=64)).any()


def test_groups_prefers_the_true_size() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=12).repeat(32) + rng.normal(size=384)
    gains = groups(x, [8, 16, 32, 64, 128])
    assert max(gains, key=lambda s: gains[s]) == 32 and gains[32] > 20
    assert max(groups(rng.normal(size=384), [8, 16, 32, 64, 128]).values()) < 5
    assert groups(np.zeros(64), [8]) == {8: 0.0}


@pytest.mark.parametrize(("width", "count", "depth"), [(128, 4, 3), (192, 12, 2), (192, 3, 4), (256, 8, 1), (80, 5, 6)])
def test_heads_of_trained_weights(width: int, count: int, depth: int) -> None:
    verdict = heads(trained(width, count, depth, seed=width + depth))
    assert verdict.value == count, verdict.text
    assert verdict.nats >= evidence.MARGIN and 2 * verdict.votes >= verdict.of == 2 * depth
    assert f"of {depth} block" in verdict.text and "nats over" in verdict.text


def test_shared_key_heads() -> None:
    verdict = heads(trained(256, 16, 4, groups=2))
    assert verdict.value == 16, verdict.text


def test_candidates_that_exclude_the_answer_give_no_verdict() -> None:
    blocks = trained()
    assert heads(blocks, candidates=[2, 4]).value == 4
    verdict = heads(blocks, candidates=[2, 8])
    assert verdict.value is None and "4 heads" in verdict.text and not verdict


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 50.0]))
def test_order_within_heads_and_scale_do_not_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = trained(seed=seed % 7)
    pick = np.concatenate([32 * h + rng.permutation(32) for h in rng.permutation(4)])
    moved = [Attention(*(scale * w[pick] for w in (b.q, b.k, b.v)), scale * b.out[:, pick]) for b in blocks]
    assert heads(moved).value == heads(blocks).value == 4


@pytest.mark.parametrize("kind", ["plain", "uniform", "parts", "noise", "pairs", "drift", "step", "walk"])
def test_never_a_head_where_there_is_none(kind: str) -> None:
    rng = np.random.default_rng(sum(map(ord, kind)))
    for _ in range(70):
        width, depth = int(rng.choice([64, 96, 120, 128])), int(rng.integers(1, 7))
        verdict = heads(random(rng, width, depth, kind))
        assert verdict.value is None, (kind, width, depth, verdict.text)
        assert verdict.text.startswith("no evidence")


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_damage_may_silence_but_not_mislead(depth: int) -> None:
    rng, right = np.random.default_rng(depth), 0
    for trial in range(60):
        blocks = trained(128, 4, depth, seed=trial)
        parts = ["q", "k", "v", "out"]
        name, start = parts[rng.integers(4)], int(rng.integers(0, 100))
        hurt = getattr(blocks[0], name).copy()
        match trial % 6:
            case 0:
                hurt[start : start + 28] = 0
            case 1:
                hurt[start : start + 28] *= 10
            case 2:
                hurt = hurt[rng.permutation(128)]
            case 3:
                hurt[0, 0] = np.nan
            case 4:
                hurt = hurt.T.copy()
            case _:
                hurt = hurt + rng.normal(size=hurt.shape).astype("float32") * hurt.std()
        verdict = heads([replace(blocks[0], **{name: hurt}), *blocks[1:]])
        assert verdict.value in (None, 4), (trial, name, verdict.text)
        right += verdict.value == 4
    assert right >= {1: 0, 2: 30, 5: 45}[depth]


def test_rows_cut_at_another_place_are_no_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = [
        Attention(*(np.roll(w, 12, 0) for w in (b.q, b.k, b.v)), np.roll(b.out, 12, 1))
        for b in trained(192, 8, 4, seed=5, spread=0.6)
    ]
    assert heads(cut).value is None
    monkeypatch.setattr(evidence, "bordered", lambda *_: True)
    monkeypatch.setattr(evidence, "_halves", lambda *_: False)
    assert heads(cut).value == 16


def test_a_step_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(192) < 70, 0.8, 1.2)
    blocks = []
    for _ in range(6):
        noise = np.exp(rng.normal(0, 0.1, 192))
        w = rng.normal(0, 0.02, (4, 192, 192)).astype("float32")
        blocks.append(Attention(*(x * (scale * noise)[:, None] for x in w[:3]), w[3] * scale * noise))
    assert heads(blocks).value is None
    monkeypatch.setattr(evidence, "bordered", lambda *_: True)
    monkeypatch.setattr(evidence, "_shared_by_blocks", lambda *_: False)
    monkeypatch.setattr(evidence, "held", lambda *_: 99.0)
    monkeypatch.setattr(evidence, "ordered", lambda *_: False)
    assert heads(blocks).value is not None


def test_groups_that_all_blocks_share_are_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    field = np.exp(0.5 * rng.normal(size=8)).repeat(24)
    blocks = []
    for _ in range(5):
        scale = field * np.exp(rng.normal(0, 0.1, (2, 192)))
        w = rng.normal(0, 0.02, (4, 192, 192)).astype("float32")
        blocks.append(Attention(*(w[i] * scale[i // 2][:, None] for i in range(3)), w[3] * scale[1]))
    assert heads(blocks).value is None and heads(blocks[:3]).value == 8
    monkeypatch.setattr(evidence, "_shared_by_blocks", lambda *_: False)
    assert heads(blocks).value == 8


def test_rotary_pairs_leave_the_verdict_to_v_and_out() -> None:
    rng, blocks = np.random.default_rng(0), []
    for b in trained(128, 4, 4, seed=2):
        pairs = np.exp(rng.normal(0, 0.8, 64)).repeat(2)[:, None].astype("float32")
        blocks.append(replace(b, q=b.q * pairs, k=b.k * pairs))
    verdict = heads(blocks)
    assert verdict.value == 4 and "(v and out alone)" in verdict.text
    shuffled = [replace(b, v=rng.normal(size=b.v.shape), out=rng.normal(size=b.out.shape)) for b in blocks]
    assert heads(shuffled).value is None


def test_ordered_channels_are_seen() -> None:
    rng = np.random.default_rng(0)
    assert abs(neighbours(rng.normal(size=384), 64)) < 3
    assert neighbours(rng.normal(size=192).repeat(2), 64) > 5
    assert neighbours(np.zeros(64), 8) == 0


def test_interleaved_channels_are_not_read_as_heads() -> None:
    wrong = []
    for b in trained(144, 6, 6, seed=3, spread=0.8):
        rows = np.stack([2 * b.q, 2 * b.k, b.v], 1).reshape(-1, 144)
        wrong.append(Attention(*np.split(rows, 3), b.out))
    assert heads(wrong).value is None


def test_nothing_to_read() -> None:
    assert heads([]).value is None
    w = np.zeros((16, 16), "float32")
    assert heads([Attention(w, w, w, w)]).value is None
    w = np.random.default_rng(0).normal(size=(13, 13))
    assert heads([Attention(w, w, w, w)]).value is None


def test_sample_spreads_over_the_depth() -> None:
    assert sample(24, 1024) == (0, 8, 15, 23)
    assert sample(12, 384) == tuple(range(12))
    assert sample(1, 1024) == (0,) and sample(40, 8192) == (0, 20, 39) and sample(0, 64) == ()


@needs_shared
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_real_weights(dtype: str) -> None:
    blocks = real_blocks()
    for b in blocks:
        for name in ("q", "k", "v", "out"):
            object.__setattr__(b, name, stored(getattr(b, name), dtype))
    verdict = heads(blocks, candidates=[6, 12])
    assert verdict.value == 6 and verdict.votes >= 22 and verdict.nats > 100, verdict.text
    alone = [heads([b]).value for b in blocks]
    assert alone.count(6) >= 10 and set(alone) <= {6, None}


def stored(w: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "int8":
        step = np.abs(w).max() / 127
        return (np.round(w / step) * step).astype("float32")
    if dtype == "bfloat16":
        return (w.view("uint32") & 0xFFFF0000).view("float32")
    return w


def real_blocks() -> list[Attention]:
    from safetensors.numpy import load_file

    tensors = load_file(SHARED / "real" / "dinov2-small-hf" / "model.safetensors")
    found = []
    for i in range(12):
        p = f"encoder.layer.{i}.attention."
        names = [f"attention.{n}" for n in ("query", "key", "value")] + ["output.dense"]
        found.append(Attention(*(tensors[f"{p}{n}.weight"].astype("float32") for n in names), name=f"blocks.{i}"))
    return found
