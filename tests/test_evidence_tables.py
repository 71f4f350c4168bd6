"""Position grids, gates and untouched initial values, from the values alone."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence_models import position_table as table

from anyvit import evidence_tables
from anyvit.evidence_tables import gated, grids, positions, smoothness


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(8, 16), st.integers(8, 16), st.integers(0, 999))
def test_a_smooth_table_is_never_misread(prefix: int, h: int, w: int, seed: int) -> None:
    assert positions(table(prefix, h, w, seed)).value in (None, (prefix, h, w))


@pytest.mark.parametrize("grid", [(1, 14, 14), (0, 14, 14), (1, 13, 15), (1, 15, 13), (5, 16, 16), (2, 10, 24)])
def test_prefix_and_grid_are_read(grid: tuple[int, int, int]) -> None:
    verdict = positions(table(*grid))
    assert verdict.value == grid, verdict.text
    assert 2 * verdict.votes >= verdict.of == 12 and verdict.candidates[grid] == min(verdict.candidates.values())


def test_196_rows_are_read_either_way() -> None:
    candidates = [(0, 14, 14), (1, 13, 15), (1, 15, 13)]
    assert positions(table(0, 14, 14), candidates).value == (0, 14, 14)
    assert positions(table(1, 13, 15), candidates).value == (1, 13, 15)


def test_a_wrong_list_of_candidates_gives_no_verdict() -> None:
    verdict = positions(table(1, 13, 15), [(0, 14, 14)])
    assert verdict.value is None and "none of the candidates" in verdict.text


def test_random_small_and_broken_tables_give_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, said = np.random.default_rng(0), 0
    for n in (16, 17, 49, 50, 64, 196, 197) * 12:
        assert positions(rng.normal(size=(n, 48))).value is None
    assert positions(np.ones((197, 32))).value is None
    assert positions(np.full((197, 32), np.nan)).value is None
    assert positions(np.zeros((3, 8))).value is None
    monkeypatch.setattr(evidence_tables, "SMOOTH", 9.0)
    monkeypatch.setattr(evidence_tables, "CLEAR", 1.0)
    monkeypatch.setattr(evidence_tables, "SLOPE", 9.0)
    monkeypatch.setattr(evidence_tables, "COMPONENTS", 1)
    for _ in range(20):
        said += positions(rng.normal(size=(17, 48))).value is not None
    assert said


def test_smoothness_and_grids() -> None:
    assert smoothness(np.random.default_rng(0).normal(size=(400, 64)), 20, 20) == pytest.approx(2, abs=0.1)
    assert smoothness(np.ones((16, 4)), 4, 4) == np.inf
    assert all(k + h * w == 197 for k, h, w in grids(197)) and (1, 14, 14) in grids(197)
    assert grids(3) == ()


@needs_shared
@pytest.mark.parametrize("cut", [(1, 37, 37), (0, 37, 37), (1, 30, 36), (1, 37, 24)])
def test_real_positions(cut: tuple[int, int, int]) -> None:
    from safetensors.numpy import load_file

    path = SHARED / "real" / "dinov2-small-hf" / "model.safetensors"
    full = load_file(path)["embeddings.position_embeddings"][0].astype("float32")
    k, h, w = cut
    grid = full[1:].reshape(37, 37, -1)[:h, :w].reshape(h * w, -1)
    assert positions(np.concatenate([full[:k], grid])).value == cut


def mlp(rng: np.random.Generator, balanced: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gate, up, down = rng.normal(size=(3, 96, 64))
    scale = np.exp(rng.normal(0, 0.3, 96))[:, None] if balanced else 1
    return gate, up * scale, (down * scale).T


def test_the_balanced_half_is_up() -> None:
    rng = np.random.default_rng(0)
    blocks = [mlp(rng, True) for _ in range(4)]
    assert gated(blocks).value == "gate first"
    assert gated([(b, a, c) for a, b, c in blocks]).value == "up first"
    for _ in range(50):
        assert gated([mlp(rng, False) for _ in range(4)]).value is None
    assert gated([]).value is None
