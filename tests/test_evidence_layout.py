"""Order, interleaving and transposes from trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_shared
from support.evidence_models import fused, random, split, trained
from test_evidence import real_blocks

from anyvit import evidence_layout
from anyvit.evidence import Attention
from anyvit.evidence_layout import Reading, fused_layout, joint_layout
from anyvit.evidence_order import order, transposed

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


def test_shapes_that_do_not_fit_give_no_verdict() -> None:
    rng = np.random.default_rng(0)
    assert fused_layout([rng.normal(size=(64, 32))], [rng.normal(size=(32, 32))]).value is None
    b = trained(96, 6, 1)[0]
    assert transposed([replace(b, q=b.q[:48])]).value is None
    assert order([replace(b, k=b.k[:48])]).value is None


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("v", [0, 1])
def test_order_and_a_transposed_out_are_read_together(v: int, turned: bool) -> None:
    weights, outs = fused(digits(), "3 h d", v, turned, 6)
    blocks = [split(w, out, f"blocks.{i}") for i, (w, out) in enumerate(zip(weights, outs, strict=True))]
    reading = joint_layout(blocks).value
    assert (reading.axes, reading.v, reading.turned) == ("3 h d", v, ("out",) if turned else ())


def test_shared_heads_alone_are_no_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave that v and out share makes their norms rise together, also in each other's place; channels tell."""
    rng, blocks = np.random.default_rng(2), []
    drift = np.exp(np.sin(np.arange(96) / 8)).astype("float32")
    for i in range(4):
        w = rng.normal(0, 0.02, (4, 96, 96)).astype("float32")
        wave = drift * np.exp(rng.normal(0, 0.2, (4, 96))).astype("float32")
        blocks.append(Attention(w[0] * wave[0][:, None], w[1], w[2], w[3] * wave[3], f"blocks.{i}"))
    assert not order(blocks).value
    monkeypatch.setattr(evidence_layout, "belongs", lambda *_, **__: True)
    monkeypatch.setattr(evidence_layout, "ordered", lambda *_: False)
    assert order(blocks).value


ALIKE = {
    "noise": lambda rng, n: np.exp(0.5 * rng.normal(size=n)),
    "drift": lambda rng, n: np.linspace(0.3, 3, n),
    "pairs": lambda rng, n: np.exp(0.5 * rng.normal(size=n // 2).repeat(2)),
    "wave": lambda rng, n: np.exp(np.sin(np.arange(n) * rng.uniform(0.1, 0.6))),
    "steps": lambda rng, n: np.exp(0.8 * rng.normal(size=8)).repeat(n // 8),
}


@needs_shared
@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("names", [("v", "out"), ("q", "v", "out"), ("q", "v"), ("q", "k", "v", "out")])
def test_weights_that_are_damaged_alike_are_no_other_layout(kind: str, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(len(kind) + len(names))
    for one in (True, False):
        blocks, scale = real_blocks()[::3], ALIKE[kind](rng, 384)
        for i, b in enumerate(blocks):
            scale = scale if one else ALIKE[kind](rng, 384)
            blocks[i] = replace(b, **{n: (getattr(b, n) * scale[:, None]).astype("f4") for n in names})
        assert not order(blocks).value and not transposed(blocks).value
        both = joint_layout(blocks).value
        assert both is None or (both.axes, both.v, both.turned) == ("3 h d", 2, ())


def test_the_guards_are_what_keeps_damage_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = digits()
    for i, (b, kind) in enumerate(zip(digits(), ("drift", "wave", "pairs"), strict=True)):
        scale = ALIKE[kind](np.random.default_rng(i), 96) ** 2
        blocks[i] = replace(b, v=b.v * scale[:, None], out=b.out * scale[:, None])
    assert not transposed(blocks).value
    monkeypatch.setattr("anyvit.evidence_order.belongs", lambda *_, **__: True)
    assert transposed(blocks).value
