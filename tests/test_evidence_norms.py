"""Norms of channels: what a field, a drift or a step shows and heads do not."""

from __future__ import annotations

import numpy as np
import pytest

from anyvit.evidence_norms import alike, by_groups, drifting, scores, stays, variation, waves


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for each test, whichever ran before it."""
    return np.random.default_rng(0)


def test_groups_stay_where_they_begin_and_a_drift_gains_nothing(rng: np.random.Generator) -> None:
    heads = scores(np.array([1, -2, 2, 0, -1, 3, -3, 0.5]).repeat(16) + 0.3 * rng.normal(size=128))
    drift = scores(np.linspace(-1, 1, 128) + 0.3 * rng.normal(size=128))
    assert stays(heads, 16) > 30 > 15 > stays(drift, 16)
    assert stays(heads, 64) == 0, "two groups have no border that could be moved"


def test_channels_of_different_blocks_know_nothing_of_each_other(rng: np.random.Generator) -> None:
    own = [rng.normal(size=128) for _ in range(6)]
    field = rng.normal(size=128)
    assert abs(alike([scores(x) for x in own])) < 0.08
    assert alike([scores(x + 2 * field) for x in own]) > 0.5
    assert alike([own[0]]) == 0


def test_groups_agree_by_few_degrees_of_freedom(rng: np.random.Generator) -> None:
    a, b, same = (rng.normal(size=8).repeat(16) for _ in range(3))
    assert by_groups(same + 0.01 * a, same + 0.01 * b, 16) > 10
    assert by_groups(a, b, 16) < 3
    drift = np.linspace(-5, 5, 128)
    assert by_groups(drift + a, drift + b, 16) < 3


def test_neighbours_that_go_together_are_no_channels_of_heads(rng: np.random.Generator) -> None:
    free = [scores(rng.normal(size=128)) for _ in range(6)]
    pairs = [scores(rng.normal(size=64).repeat(2) + 0.3 * rng.normal(size=128)) for _ in range(6)]
    assert not waves(free) and waves(pairs)
    assert not waves([scores(rng.normal(size=8).repeat(16) + x) for x in free]), "heads are taken off"


def test_trends_count_however_they_are_directed() -> None:
    assert not drifting([0.3, -0.4, 0.2, -0.3], 8)
    assert drifting([0.9, 0.9, 0.9, 0.9], 8) and drifting([0.9, -0.9, 0.9, -0.9], 8)


def test_variation_is_that_of_neighbouring_channels(rng: np.random.Generator) -> None:
    smooth = np.exp(np.linspace(0, 5, 128))
    assert variation(smooth) < 1e-6 < 0.5 < variation(smooth * np.exp(rng.normal(size=128)))
    assert variation(np.full(128, np.nan)) == 0
