"""The public verbs ask the weights: heads measured before they are assumed, other layouts named, nothing else touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from support.evidence_models import fused, trained

import anyvit
from anyvit import deep, evidence_order
from anyvit.errors import AnyvitError, Incomplete
from anyvit.evidence import Attention
from anyvit.lazy import from_array
from anyvit.spec import Spec

torch = pytest.importorskip("torch", reason="models are loaded")

WIDTH, HEADS, DEPTH = 192, 6, 4
Arrays = dict[str, np.ndarray]


def vit(blocks: list[Attention], heads: int = HEADS, axes: str = "3 h d", v: int = 2) -> Arrays:
    """A checkpoint with timm's names around attention weights; everything else is drawn."""
    rng, width = np.random.default_rng(5), len(blocks[0].q)
    sizes = {
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
        "cls_token": (1, 1, width),
        "pos_embed": (1, 17, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    weights, outs = fused(blocks, axes, v, False, heads)
    out = {}
    for i, (weight, proj) in enumerate(zip(weights, outs, strict=True)):
        at = f"blocks.{i}."
        out |= {at + "attn.qkv.weight": weight, at + "attn.proj.weight": proj}
        sizes |= {f"{at}{n}.{p}": (width,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        sizes |= {at + "attn.qkv.bias": (3 * width,), at + "attn.proj.bias": (width,)}
        sizes |= {at + "mlp.fc1.weight": (2 * width, width), at + "mlp.fc1.bias": (2 * width,)}
        sizes |= {at + "mlp.fc2.weight": (width, 2 * width), at + "mlp.fc2.bias": (width,)}
    out |= {name: rng.normal(0, 0.02, size) for name, size in sizes.items()}
    return {name: np.ascontiguousarray(x, "float32") for name, x in out.items()}


def blocks(seed: int = 1) -> list[Attention]:
    return trained(WIDTH, HEADS, DEPTH, seed=seed)


def told(findings: tuple, *kinds: str) -> list[str]:
    return [str(f) for f in findings if f.kind in kinds]


LAID = ("swapped", "interleaved", "transposed")


def test_heads_are_measured_before_they_are_assumed() -> None:
    state = vit(blocks())
    for spec in (anyvit.load(state).spec, anyvit.inspect(state, deep=True).spec):
        fact = spec.facts["num_heads"]
        assert (spec.num_heads, fact.how) == (HEADS, "measured") and "votes of" in fact.source, fact
    plain = anyvit.inspect(state).spec
    assert (plain.num_heads, plain.facts["num_heads"].how) == (3, "assumed")
    (found,) = [f for f in anyvit.load(state).report.findings if f.kind == "measured"]
    assert "show 6 heads" in found.cause and "not the 3" in found.cause


def test_the_callers_heads_win_and_the_report_says_what_the_weights_think() -> None:
    loaded = anyvit.load(vit(blocks()), heads=12)
    assert loaded.spec.num_heads == 12
    (text,) = told(loaded.report.findings, "differs")
    assert "num_heads 12 is given by the argument heads=" in text and "the weights show 6" in text
    agreed = anyvit.load(vit(blocks()), heads=6)
    assert not told(agreed.report.findings, "differs")


def test_a_config_that_the_weights_contradict_is_a_finding(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    anyvit.convert(vit(blocks()), tmp_path / "out", "hf-vit")
    config, weights = tmp_path / "out" / "config.json", tmp_path / "out" / "model.safetensors"
    config.write_text(config.read_text().replace('"num_attention_heads": 6', '"num_attention_heads": 3'))
    save_file(load_file(weights), weights)  # without the record of the conversion
    report = anyvit.inspect(tmp_path / "out", deep=True)
    (text,) = told(report.findings, "differs")
    assert report.spec.num_heads == 3 and "config.json" in text and "the weights show 6" in text


@pytest.mark.parametrize(
    ("axes", "v", "kind", "words"),
    [
        ("3 h d", 0, "swapped", "order of q, k, v: v stands where q is expected"),
        ("3 h d", 1, "swapped", "order of q, k, v: v stands where k is expected"),
        ("h 3 d", 2, "interleaved", "interleaved per head (h 3 d)"),
        ("h d 3", 2, "interleaved", "interleaved per channel (h d 3)"),
    ],
)
def test_another_layout_of_the_whole_file_stops_a_load(axes: str, v: int, kind: str, words: str) -> None:
    state = vit(blocks(), axes=axes, v=v)
    assert anyvit.inspect(state).ok
    report = anyvit.inspect(state, deep=True)
    assert not report.ok and report.spec.num_heads == HEADS  # heads are read as the layout says
    (text,) = told(report.findings, kind)
    assert f"all {DEPTH} blocks: " in text and words in text and "blocks.3" in text
    with pytest.raises(Incomplete, match="all 4 blocks"):
        anyvit.load(state)
    named = anyvit.load(state, dialect="timm")
    assert words in told(named.report.findings, kind)[0]
    assert not told(anyvit.load(state, check="off").report.findings, *LAID)


@pytest.mark.parametrize("at", [0, 2])
def test_one_odd_block_is_named_and_does_not_stop_a_load(at: int) -> None:
    some = blocks()
    some[at] = replace(some[at], q=some[at].v, v=some[at].q)
    state = vit(some)
    for findings in (anyvit.load(state).report.findings, anyvit.inspect(state, deep=True).findings):
        (text,) = told(findings, *LAID)
        assert f"blocks.{at}: order of q, k, v: v stands where q is expected, unlike in the other 3 blocks" in text
    assert anyvit.load(state).spec.num_heads == HEADS


@pytest.mark.parametrize("part", ["q", "k", "v", "out"])
def test_a_transposed_matrix_is_named(part: str) -> None:
    some = blocks()
    some[1] = replace(some[1], **{part: getattr(some[1], part).T})
    (text,) = told(anyvit.load(vit(some)).report.findings, *LAID)
    assert text.startswith(f"transposed: blocks.1: {part} is stored transposed")
    every = [replace(b, **{part: getattr(b, part).T}) for b in blocks()]
    with pytest.raises(AnyvitError, match=f"all 4 blocks: {part} is stored transposed"):
        anyvit.load(vit(every))


def test_order_and_transpose_together_are_named() -> None:
    state = vit([replace(b, out=b.out.T) for b in blocks()], v=0)
    report = anyvit.inspect(state, deep=True)
    (text,) = told(report.findings, *LAID)
    assert "v q/k q/k, out transposed" in text and report.spec.num_heads == HEADS


def test_load_into_and_convert_refuse_the_same(tmp_path: Path) -> None:
    state = vit(blocks(), v=0)
    with pytest.raises(Incomplete, match="v stands where q"):
        anyvit.convert(state, tmp_path / "x.safetensors", "timm")
    assert not list(tmp_path.iterdir())
    module = anyvit.load(vit(blocks()))
    with pytest.raises(Incomplete, match="v stands where q"):
        anyvit.load_into(module, state)


def test_verify_compares_such_a_file_and_says_what_its_own_weights_tell() -> None:
    result = anyvit.verify(vit(blocks()), vit(blocks(), v=0))
    assert not result.ok and result.first == "blocks.0" and "another order" in (result.cause or "")
    (text,) = [f.cause for f in result.findings if "own weights" in f.cause]
    assert text.startswith("b's own weights: all 4 blocks: order of q, k, v")


def test_a_sound_file_costs_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a glance suffices")

    monkeypatch.setattr(evidence_order, "transposed", never)
    anyvit.load(vit(blocks()))
    rng = np.random.default_rng(0)
    noise = [Attention(*rng.normal(0, 0.02, (4, WIDTH, WIDTH)).astype("float32")) for _ in range(3)]
    anyvit.load(vit(noise))
    with pytest.raises(AssertionError, match="glance"):
        anyvit.load(vit(blocks(), v=0))


def test_a_never_trained_file_is_named() -> None:
    state = vit([Attention(*np.random.default_rng(i).normal(0, 0.02, (4, 96, 96)).astype("f4")) for i in range(3)])
    fresh = {n: np.full_like(x, n.endswith("weight")) if "norm" in n else x for n, x in state.items()}
    for findings in (anyvit.load(fresh).report.findings, anyvit.inspect(fresh, deep=True).findings):
        (text,) = told(findings, "untrained")
        assert "never trained" in text
    assert not told(anyvit.load(state).report.findings, "untrained")


def test_odd_blocks_beyond_the_budget_are_found_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "BUDGET", 1)
    some = trained(WIDTH, HEADS, 9, seed=2)
    some[3] = replace(some[3], k=some[3].v, v=some[3].k)
    loaded = anyvit.load(vit(some), check="beside")
    (text,) = told(loaded.report.findings, *LAID)
    assert "blocks.3: order of q, k, v: v stands where k is expected" in text
    assert not told(anyvit.load(vit(some), check="off").report.findings, *LAID)
    tensors = {n: from_array(x) for n, x in canonical(some).items()}
    monkeypatch.setattr(deep, "BUDGET", 1 << 30)
    assert deep.odd_blocks(tensors, Spec(embed_dim=WIDTH)) == ()


def canonical(some: list[Attention]) -> Mapping[str, np.ndarray]:
    return {f"blocks.{i}.attn.{n}.weight": getattr(b, n) for i, b in enumerate(some) for n in ("q", "k", "v", "out")}


@needs_shared
@pytest.mark.parametrize(("rows", "columns", "prefix"), [(13, 15, 1), (14, 14, 0), (10, 20, 1), (20, 10, 1)])
def test_the_grid_of_a_real_table_is_measured_on_load(rows: int, columns: int, prefix: int) -> None:
    from safetensors.numpy import load_file

    real = load_file(SHARED / "real" / "dinov2-small-hf" / "model.safetensors")["embeddings.position_embeddings"][0]
    grid = real[1:].reshape(37, 37, 384)[5 : 5 + rows, 5 : 5 + columns].reshape(-1, 384)
    table = np.concatenate([real[:prefix], grid]).astype("float32")
    state = {**vit(trained(384, 6, 2, seed=3)), "pos_embed": table[None]}
    spec = anyvit.load(state).spec
    assert spec.grid == (rows, columns) and spec.pos_prefix == prefix
    assert spec.facts["grid"].how == "measured" and "smoothness" in spec.facts["grid"].source
    assert anyvit.inspect(state, deep=True).spec.grid == (rows, columns)


@needs_shared
def test_rows_of_a_real_table_cut_at_any_place_give_no_wrong_grid() -> None:
    from safetensors.numpy import load_file

    real = load_file(SHARED / "real" / "dinov2-small-hf" / "model.safetensors")["embeddings.position_embeddings"]
    state = {**vit(trained(384, 6, 2, seed=3)), "pos_embed": real[:, :197].astype("float32")}
    report = anyvit.inspect(state, deep=True)
    assert report.spec.grid == (14, 14) and not told(report.findings, "differs")


def dinov3(kind: str) -> Arrays:
    """A DINOv3 in the names of Hugging Face's class whose queries and keys have the norms of a trained rotary model."""
    from test_evidence_rotary import real

    rng, width = np.random.default_rng(0), 192
    sizes = {"embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, 1, width)}
    sizes |= {"embeddings.register_tokens": (1, 4, width), "embeddings.patch_embeddings.weight": (width, 3, 16, 16)}
    sizes |= {f"{n}.{p}": (width,) for n in ("embeddings.patch_embeddings", "norm") for p in ("bias",)}
    sizes["norm.weight"], norms = (width,), {}
    for i, b in enumerate(real(kind)):
        at = f"model.layer.{i}."
        sizes |= {f"{at}{n}.{p}": (width,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        sizes |= {f"{at}attention.{n}_proj.weight": (width, width) for n in "qkvo"}
        sizes |= {f"{at}attention.{n}_proj.bias": (width,) for n in "qvo"}
        sizes |= {f"{at}layer_scale{n}.lambda1": (width,) for n in (1, 2)}
        sizes |= {at + "mlp.up_proj.weight": (384, width), at + "mlp.up_proj.bias": (384,)}
        sizes |= {at + "mlp.down_proj.weight": (width, 384), at + "mlp.down_proj.bias": (width,)}
        norms |= {f"{at}attention.q_proj.weight": b.q.rows, f"{at}attention.k_proj.weight": b.k.rows}
    out = {n: rng.normal(0, 0.02, size).astype("f4") for n, size in sizes.items()}
    for n, squares in norms.items():
        unit = out[n] / np.linalg.norm(out[n], axis=1, keepdims=True)
        out[n] = (unit * np.sqrt(squares)[:, None]).astype("f4")
    return out


def test_rows_permuted_for_another_rotation_are_named() -> None:
    plain, permuted = (anyvit.load(dinov3(kind), heads=4).report for kind in ("half", "interleaved"))
    assert plain.spec.facts[deep.PAIRS].value == "half" and plain.spec.facts[deep.PAIRS].how == "measured"
    assert not told(plain.findings, "differs")
    (text,) = told(permuted.findings, "differs")
    assert "channels 2i and 2i + 1 turned together" in text and "i and i + e/2" in text
