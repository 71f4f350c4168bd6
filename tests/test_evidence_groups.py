"""Heads of grouped-query attention, from the balance of queries with the keys they share."""

from __future__ import annotations

import numpy as np
import pytest
from support.evidence_models import random, trained

import anyvit
from anyvit.evidence import Attention
from anyvit.evidence_groups import grouped_heads, once
from anyvit.evidence_norms import Norms


def grouped(width: int = 128, heads: int = 8, groups: int = 4, depth: int = 4, seed: int = 0) -> list[Attention]:
    """Blocks whose channels are balanced and whose heads do not differ."""
    rng, size, found = np.random.default_rng(seed), width // heads, []
    for i in range(depth):
        shared = width // groups
        qk, vo = np.exp(rng.normal(0, 0.4, (2, shared)))
        wide = [x.reshape(-1, 1, size).repeat(groups, 1).reshape(-1, 1) for x in (qk, vo)]
        q, out = rng.normal(0, 0.02, (2, width, width)) * np.stack(wide)
        k, v = rng.normal(0, 0.02, (2, shared, width)) * np.stack([qk, vo])[..., None]
        found.append(Attention(*(x.astype("f4") for x in (q, k, v, out.T)), name=f"blocks.{i}"))
    return found


@pytest.mark.parametrize(("heads", "groups"), [(8, 4), (4, 2), (16, 4), (4, 4), (8, 2)])
def test_the_size_of_heads_is_that_which_balances(heads: int, groups: int) -> None:
    verdict = grouped_heads(grouped(256, heads, groups))
    assert verdict.value == heads, (verdict.text, verdict.candidates)


def test_random_weights_and_plain_attention_say_nothing() -> None:
    rng = np.random.default_rng(0)
    for kind in ("plain", "noise", "drift", "step", "walk", "pairs") * 5:
        pairs = zip(random(rng, 128, 4, kind), random(rng, 128, 4, kind), strict=True)
        blocks = [Attention(a.q, b.k[:32], b.v[:32], a.out) for a, b in pairs]
        assert grouped_heads(blocks).value is None
    assert grouped_heads(trained()).value is None and grouped_heads([]).value is None
    short = [Attention(b.q, np.zeros((32, 128), "f4"), b.v[:32], b.out) for b in trained()]
    assert grouped_heads(short).value is None


def test_repeated_keys_are_taken_once() -> None:
    (b,) = grouped(depth=1)
    size = 16
    k, v = (x.reshape(-1, size, 128).repeat(4, 0).reshape(-1, 128) for x in (b.k, b.v))
    repeated = Attention(*(Norms.of(x) for x in (b.q, k, v, b.out)))
    kept = once(repeated, size)
    assert kept is not None and np.array_equal(kept.k.rows, Norms.of(b.k).rows) and len(kept.v) == 32
    assert once(Attention(*(Norms.of(x) for x in (b.q, b.q, v, b.out))), size) is None


def test_a_wrong_head_count_of_a_grouped_file_is_named() -> None:
    pytest.importorskip("torch", reason="models are loaded")
    blocks, rng = grouped(192, 12, 2), np.random.default_rng(1)
    sizes = {"embeddings.cls_token": (1, 1, 192), "embeddings.position_embeddings": (1, 17, 192)}
    sizes |= {"embeddings.patch_embeddings.projection.weight": (192, 3, 8, 8), "layernorm.weight": (192,)}
    sizes |= {"embeddings.patch_embeddings.projection.bias": (192,), "layernorm.bias": (192,)}
    tensors = {}
    for i, b in enumerate(blocks):
        at = f"encoder.layer.{i}."
        for n, x in (("query", b.q), ("key", b.k), ("value", b.v)):
            tensors[f"{at}attention.attention.{n}.weight"] = x
            sizes[f"{at}attention.attention.{n}.bias"] = (len(x),)
        tensors[at + "attention.output.dense.weight"] = b.out
        sizes |= {f"{at}layernorm_{n}.{p}": (192,) for n in ("before", "after") for p in ("weight", "bias")}
        sizes |= {at + "attention.output.dense.bias": (192,), at + "output.dense.bias": (192,)}
        sizes |= {at + "intermediate.dense.weight": (384, 192), at + "intermediate.dense.bias": (384,)}
        sizes |= {at + "output.dense.weight": (192, 384)}
    tensors |= {n: rng.normal(0, 0.02, size).astype("f4") for n, size in sizes.items()}
    wrong = anyvit.load(tensors, heads=6).report
    assert any("show 12" in f.cause and f.kind == "differs" for f in wrong.findings), str(wrong)
    right = anyvit.load(tensors, heads=12).report
    assert not any(f.kind == "differs" for f in right.findings)
    assert "balance the queries" in right.spec.facts["num_heads"].source
