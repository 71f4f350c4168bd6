"""Which names stand for all: blocks at both ends, whatever their order."""

from __future__ import annotations

import random

from anyvit.recognise import sample

NAMES = [
    f"blocks.{i}.{part}.weight" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.qkv") for i in range(40)
]


def test_the_sample_is_the_same_in_any_order() -> None:
    chosen = set(sample(NAMES))
    assert {name for name in chosen if ".norm" in name} == {
        f"blocks.{i}.norm{n}.weight" for i in (0, 1, 38, 39) for n in (1, 2)
    }
    assert len(chosen) == 20
    for seed in range(5):
        shuffled = random.Random(seed).sample(NAMES, len(NAMES))
        assert set(sample(shuffled)) == chosen


def test_the_number_that_varies_most_counts_the_blocks() -> None:
    names = [f"stack.{s}.layers.{i}.w" for s in (0, 1) for i in range(12)]
    assert set(sample(names)) == {f"stack.{s}.layers.{i}.w" for s in (0, 1) for i in (0, 1, 10, 11)}


def test_numbers_of_any_length_are_compared_as_numbers() -> None:
    names = [f"blocks.{i}.w" for i in (*range(98, 110), "1" + "0" * 5000)]
    assert set(sample(names)) == {"blocks.98.w", "blocks.99.w", "blocks.109.w", f"blocks.{'1' + '0' * 5000}.w"}
