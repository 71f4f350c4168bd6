"""In which order the inputs of a patch kernel lie."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from anyvit import evidence_patch
from anyvit.evidence_patch import input_order, reordered, resemblance


def kernel(seed: int = 0, grey: float = 1.0) -> np.ndarray:
    """Smooth patterns that the colours share, and noise of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 8
    waves = np.cos(
        6 * (rng.normal(size=(64, 1, 1, 1)) * y + rng.normal(size=(64, 1, 1, 1)) * x) + rng.uniform(0, 6, (64, 1, 1, 1))
    )
    return (grey * waves + 0.7 * rng.normal(size=(64, 3, 8, 8))).astype("f4")


def channels_last(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(w.shape)


def test_both_orders_are_seen() -> None:
    for seed in range(5):
        w = kernel(seed)
        assert input_order(w).value == "c y x"
        verdict = input_order(channels_last(w))
        assert verdict.value == "y x c" and "colour planes" in verdict.text
        assert np.array_equal(reordered(channels_last(w), "y x c"), w)


@needs_shared
def test_both_orders_of_a_real_kernel_are_seen() -> None:
    from safetensors.numpy import load_file

    tensors = load_file(SHARED / "real" / "dinov2-small-hf" / "model.safetensors")
    w = tensors["embeddings.patch_embeddings.projection.weight"].astype("f4")
    assert input_order(w).value == "c y x" and input_order(channels_last(w)).value == "y x c"
    assert resemblance(w, "c y x") > 0.6 > 0.1 > abs(resemblance(w, "y x c"))


def test_random_and_smooth_kernels_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    smooth = []
    for _ in range(20):
        w = rng.normal(size=(64, 3, 8, 8))
        assert input_order(w).value is None
        smooth.append(np.cumsum(np.cumsum(w, 2), 3))
        assert input_order(smooth[-1]).value is None
    monkeypatch.setattr(evidence_patch, "ROUGH", 99.0)
    assert any(input_order(w).value for w in smooth)


def test_what_is_no_colour_kernel_is_not_asked() -> None:
    assert input_order(kernel()[:, :1]).value is None
    assert input_order(kernel()[..., :2, :2]).value is None
    assert input_order(np.zeros((64, 3, 8, 8), "f4")).value is None
    assert input_order(np.full((64, 3, 8, 8), np.nan, "f4")).value is None
