"""The order of blocks, from how they meet the residual stream."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from anyvit import evidence_depth
from anyvit.evidence_depth import best_order, sequence, similarity, stream

Vectors = list[dict[str, np.ndarray]]
PARTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2")


def drifting(depth: int = 8, width: int = 96, seed: int = 0, step: float = 0.6) -> Vectors:
    """Blocks whose channels drift with depth, each kind of tensor by itself."""
    rng, found = np.random.default_rng(seed), []
    state = {n: rng.normal(size=width) for n in ("norm1.weight", "norm2.weight", *PARTS)}
    for _ in range(depth):
        state = {n: (x + step * rng.normal(size=width)) / np.hypot(1, step) for n, x in state.items()}
        block = {n: np.exp(0.3 * x) for n, x in state.items() if "norm" in n}
        for n in PARTS:
            w = rng.normal(size=(width, width)) * np.exp(0.3 * state[n])
            block[n + ".weight"] = w.T if n in ("attn.out", "mlp.fc2") else w
        found.append(stream(block))
    return found


def test_blocks_as_numbered_are_seen_as_such() -> None:
    verdict = sequence(drifting())
    assert verdict.value == () and "as numbered" in verdict.text


@pytest.mark.parametrize(
    ("order", "apart"),
    [
        ([0, 1, 5, 3, 4, 2, 6, 7], ((1, 2), (2, 3), (4, 5), (5, 6))),
        ([0, 2, 3, 4, 5, 1, 6, 7], ((0, 1), (4, 5), (5, 6))),
        ([4, 5, 6, 7, 0, 1, 2, 3], ((3, 4),)),
    ],
)
def test_blocks_that_moved_are_named(order: list[int], apart: tuple) -> None:
    blocks = drifting()
    verdict = sequence([blocks[i] for i in order])
    assert verdict.value == apart, verdict.text
    assert "do not follow each other" in verdict.text


def test_reversed_blocks_look_as_numbered() -> None:
    assert sequence(drifting()[::-1]).value == ()


def test_a_damaged_block_is_not_called_misplaced(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, said = np.random.default_rng(99), 0
    for at in range(8):
        blocks = drifting(seed=at)
        blocks[at] = {n: x / np.linalg.norm(x) for n in blocks[at] if (x := rng.normal(size=96)) is not None}
        assert sequence(blocks).value in ((), None)
        with monkeypatch.context() as patch:
            patch.setattr(evidence_depth, "FIT", -1.0)
            said += bool(sequence(blocks).value)
    assert said > 0


def test_blocks_without_a_common_drift_say_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        noise = [{n: rng.normal(size=96) for n in ("norm1.weight", *(p + ".weight" for p in PARTS))} for _ in range(8)]
        unit = [{n: x / np.linalg.norm(x) for n, x in b.items()} for b in noise]
        assert sequence(unit).value is None
    assert sequence(drifting(3)).value is None
    same = drifting(1) * 6
    assert sequence(same).value == ()


def test_kinds_are_those_that_all_blocks_have() -> None:
    blocks = drifting(4)
    del blocks[2]["norm1.weight"]
    assert similarity(blocks).shape == (7, 4, 4)
    near = np.array([[1, 0.1, 0.9], [0.1, 1, 0.8], [0.9, 0.8, 1]])
    assert best_order(near) in ([0, 2, 1], [1, 2, 0])


@needs_shared
def test_a_real_stack_shows_its_order() -> None:
    from safetensors.numpy import load_file

    tensors = load_file(SHARED / "real" / "dinov2-small-hf" / "model.safetensors")
    theirs = {"norm1.weight": "norm1.weight", "norm2.weight": "norm2.weight", "attn.out.weight": "attention.output.dense.weight",
              "mlp.fc1.weight": "mlp.fc1.weight", "mlp.fc2.weight": "mlp.fc2.weight"}  # fmt: skip
    theirs |= {f"attn.{n[0]}.weight": f"attention.attention.{n}.weight" for n in ("query", "key", "value")}
    blocks = [
        stream({ours: tensors[f"encoder.layer.{i}.{name}"].astype("f4") for ours, name in theirs.items()})
        for i in range(12)
    ]
    assert sequence(blocks).value == ()
    words = sorted(range(12), key=str)
    apart = {i for pair in sequence([blocks[i] for i in words]).value for i in pair}
    assert {1, 2, 3, 4} <= apart <= {0, 1, 2, 3, 4, 11}
