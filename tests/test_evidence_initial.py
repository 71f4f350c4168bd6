"""Which weights never left their initial values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyvit.evidence_initial import untrained


@pytest.mark.parametrize("kind", ["normal", "truncated", "uniform", "orthogonal"])
def test_initial_values_are_seen(kind: str) -> None:
    fresh = start(kind)
    assert untrained(fresh).value is True
    moved = fresh | {"norm1.weight": np.linspace(0.9, 1.1, 96)}
    assert untrained(moved).value is None and "1 vectors" in untrained(moved).text
    grown = fresh | {"fc1.weight": fresh["fc1.weight"] * np.exp(np.random.default_rng(0).normal(0, 0.3, (192, 1)))}
    assert untrained(grown).value is None


def start(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {"norm1.weight": np.ones(96), "norm1.bias": np.zeros(96), "fc1.bias": np.zeros(192)}
    for name, shape in {"qkv.weight": (288, 96), "fc1.weight": (192, 96), "fc2.weight": (96, 192)}.items():
        w = rng.uniform(-1, 1, shape) if kind == "uniform" else rng.normal(size=shape)
        w = np.clip(w, -2, 2) if kind == "truncated" else w
        found[name] = np.linalg.qr(w.T if shape[0] < shape[1] else w)[0] if kind == "orthogonal" else 0.02 * w
    return found


def test_normalised_rows_without_any_vector_are_no_proof() -> None:
    matrices = {k: v for k, v in start("orthogonal").items() if v.ndim == 2}
    assert untrained(matrices).value is None
    assert untrained({}).value is None and untrained({"w": np.ones((32, 32))}).value is None
    assert untrained({"w": np.full((32, 32), np.nan), "v": np.full((32, 32), np.nan)}).value is None


def test_a_trained_model_is_not_called_untrained() -> None:
    from safetensors.numpy import load_file

    tensors = load_file(Path(__file__).parent / "fixtures" / "digits_attention.safetensors")
    assert untrained(tensors).value is None
