"""Every identity keeps the function of the reference ViT, and gives None where it does not apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the function is computed with torch")

from support.peers import pixels, state  # noqa: E402

from anyvit import containers, rewrite  # noqa: E402
from anyvit.assemble import build_vit  # noqa: E402
from anyvit.errors import FileError  # noqa: E402
from anyvit.lazy import Lazy, from_array  # noqa: E402
from anyvit.reading import Ask, understand  # noqa: E402
from anyvit.report import Report  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

Tensors = Mapping[str, Lazy]


def canonical(**options: Any) -> tuple[Tensors, Spec]:
    found = understand(containers.open_checkpoint(state(**options)), Ask(heads=2))
    assert found.spec is not None
    return found.tensors, found.spec


def tokens(tensors: Tensors, spec: Spec, **changes: Any) -> torch.Tensor:
    vit = build_vit(tensors, spec.with_facts("given", "a rewrite", **changes), Report())
    with torch.no_grad():
        return vit(pixels(12, 12)).tokens


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    assert float(one.std()) > 1e-3
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def without(tensors: Tensors, *ends: str) -> dict[str, Lazy]:
    return {n: t for n, t in tensors.items() if not n.endswith(ends)}


def test_a_key_bias_changes_nothing() -> None:
    tensors, spec = canonical()
    dropped = rewrite.drop_key_bias(tensors, rotary=False)
    assert dropped is not None and len(dropped) == len(tensors) - spec.depth
    made = rewrite.zero_key_bias(dropped)
    assert made is not None and not made["blocks.1.attn.k.bias"].read().any()
    same(tokens(tensors, spec), tokens(made, spec))
    assert rewrite.zero_key_bias(tensors) is None
    assert rewrite.drop_key_bias(dropped, rotary=False) is None


def test_a_key_bias_that_is_rotated_or_normed_stays() -> None:
    tensors, _ = canonical()
    assert rewrite.drop_key_bias(tensors, rotary=True) is None
    normed = {**tensors, "blocks.0.attn.k_norm.weight": tensors["norm.weight"]}
    assert rewrite.drop_key_bias(normed, rotary=False) is None
    zero = {n: rewrite.zeros(t.shape, t.dtype) if n.endswith("k.bias") else t for n, t in tensors.items()}
    assert rewrite.drop_key_bias(zero, rotary=True) is not None


def test_layer_scale_is_folded_and_made() -> None:
    tensors, spec = canonical(layer_scale=True)
    folded = rewrite.fold_layer_scale(tensors)
    assert folded is not None and not any(".ls" in name for name in folded)
    same(tokens(tensors, spec), tokens(folded, spec, layer_scale=False))
    made = rewrite.unit_layer_scale(folded)
    assert made is not None
    same(tokens(tensors, spec), tokens(made, spec))
    assert rewrite.fold_layer_scale(folded) is None
    assert rewrite.unit_layer_scale(tensors) is None


def test_layer_scale_of_one_branch_is_completed() -> None:
    tensors, _ = canonical(layer_scale=True)
    made = rewrite.unit_layer_scale(without(tensors, ".ls2"))
    assert made is not None
    assert np.array_equal(made["blocks.0.ls1"].read(), tensors["blocks.0.ls1"].read())
    assert (made["blocks.0.ls2"].read() == 1).all()


def test_layer_scale_of_a_gated_mlp_is_folded() -> None:
    tensors, spec = canonical(layer_scale=True, gated=True)
    folded = rewrite.fold_layer_scale(tensors)
    assert folded is not None
    same(tokens(tensors, spec), tokens(folded, spec, layer_scale=False))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_patch_bias_is_folded_into_the_positions(pre_norm: bool) -> None:
    tensors, spec = canonical(pre_norm=pre_norm)
    folded = rewrite.fold_patch_bias(tensors)
    assert folded is not None and "embed.patch.bias" not in folded
    same(tokens(tensors, spec), tokens(folded, spec, patch_bias=False))
    assert np.array_equal(folded["embed.cls"].read(), tensors["embed.cls"].read())
    assert rewrite.fold_patch_bias(folded) is None
    assert rewrite.fold_patch_bias(without(tensors, "embed.pos")) is None


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 3), (0, 3)])
def test_prefix_rows_come_and_go(before: int, after: int) -> None:
    tensors, spec = canonical(cls_row=before == 1, registers=2)
    done = rewrite.prefix_rows(tensors, after)
    assert done is not None
    rows = done["embed.pos_prefix"].shape[0] if "embed.pos_prefix" in done else 0
    assert rows == after
    same(tokens(tensors, spec), tokens(done, spec, pos_prefix=after))
    assert rewrite.prefix_rows(done, after) is None


def test_too_many_prefix_rows_are_folded_in_their_order() -> None:
    tensors, spec = canonical(registers=2)
    table = from_array(np.arange(36, dtype="float32").reshape(3, 12))
    full = {**tensors, "embed.pos_prefix": table}
    done = rewrite.prefix_rows(full, 1)
    assert done is not None and not done["embed.pos_prefix"].read().any()
    expected = tensors["embed.reg"].read() + table.read()[1:]
    np.testing.assert_array_equal(done["embed.reg"].read(), expected)
    same(tokens(full, spec, pos_prefix=3), tokens(done, spec, pos_prefix=1))


def test_zero_biases_are_made_and_only_zero_ones_are_dropped() -> None:
    names = ("blocks.{i}.attn.out.bias",)
    tensors, spec = canonical()
    assert rewrite.drop_zero_biases(tensors, names) is None
    assert rewrite.zero_biases(tensors, names) is None
    bare = without(tensors, "attn.out.bias")
    made = rewrite.zero_biases(bare, names)
    assert made is not None
    same(tokens(bare, spec, proj_bias=False), tokens(made, spec))
    dropped = rewrite.drop_zero_biases(made, names)
    assert dropped is not None and set(dropped) == set(bare)


def test_what_cannot_be_read_is_not_zero() -> None:
    def fail() -> np.ndarray:
        raise FileError("gone")

    assert not rewrite.is_zero(Lazy((3,), "float32", fail))
    assert not rewrite.is_zero(rewrite.zeros((1025, 1024), "float32"))
    assert rewrite.is_zero(rewrite.zeros((3,), "bfloat16"))


def test_a_projection_and_a_classifier_are_one_matrix() -> None:
    tensors, _ = canonical()
    weight = from_array(np.ones((7, 12), "float32"), "proj")
    headed = rewrite.projection_as_head({**tensors, "proj.weight": weight})
    assert headed is not None and headed["head.weight"] is weight
    back = rewrite.head_as_projection(headed)
    assert back is not None and back["proj.weight"] is weight and "head.bias" not in back
    biased = {**headed, "head.bias": rewrite.ones((7,), "float32")}
    assert rewrite.head_as_projection(biased) is None
    assert rewrite.projection_as_head(headed) is None


def test_a_probes_norm_and_its_classifier_are_one() -> None:
    draw = np.random.default_rng(0)
    x, w, b, mean = (draw.standard_normal(s).astype("float32") for s in ((5, 4), (3, 4), (3,), (4,)))
    var = draw.random(4).astype("float32") + 0.1
    parts = {"head.weight": w, "head.bias": b, "head_norm.mean": mean, "head_norm.var": var}
    done = rewrite.fold_head_norm({n: from_array(a, n) for n, a in parts.items()})
    assert done is not None and set(done) == {"head.weight", "head.bias"}
    expected = (x - mean) / np.sqrt(var + 1e-6) @ w.T + b
    np.testing.assert_allclose(x @ done["head.weight"].read().T + done["head.bias"].read(), expected, atol=1e-5)
    assert rewrite.fold_head_norm({}) is None


def test_a_shared_relative_table_is_given_to_every_block() -> None:
    tensors, _ = canonical()
    table = from_array(np.ones((12, 2), "float32"), "t")
    done = rewrite.spread_relative_positions({**tensors, "embed.rel_pos": table})
    assert done is not None and "embed.rel_pos" not in done
    assert done["blocks.0.attn.rel_pos"] is done["blocks.1.attn.rel_pos"] is table
    assert rewrite.spread_relative_positions(tensors) is None


def test_periods_follow_from_the_base() -> None:
    from anyvit.model.rope import periods

    tensors, _ = canonical()
    made = rewrite.rope_periods(tensors, 100.0, 16)
    assert made is not None
    np.testing.assert_allclose(made["rope.periods"].read(), periods(100.0, 16).numpy(), rtol=1e-6)
    assert rewrite.drop_rope_periods(made, 100.0) is not None
    assert rewrite.drop_rope_periods(made, 90.0) is None
    rounded = {"rope.periods": from_array(periods(100.0, 16).bfloat16().float().numpy())}
    assert rewrite.drop_rope_periods(rounded, 100.0) == {}


def test_a_mask_token_of_zeros() -> None:
    tensors, _ = canonical()
    made = rewrite.zero_mask_token(tensors)
    assert made is not None and made["embed.mask"].shape == (12,)
    assert rewrite.zero_mask_token(made) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_tensors_are_folded_in_thirty_two(dtype: str) -> None:
    from anyvit.dtypes import np_dtype

    tensors, _ = canonical(layer_scale=True)
    kind = np_dtype(dtype)
    small = {n: from_array(t.read().astype(kind), n) for n, t in tensors.items()}
    folded = rewrite.fold_layer_scale(small)
    assert folded is not None
    weight = small["blocks.0.attn.out.weight"].read().astype("float32")
    expected = (weight * small["blocks.0.ls1"].read().astype("float32")[:, None]).astype(kind)
    assert folded["blocks.0.attn.out.weight"].read().dtype == kind
    np.testing.assert_array_equal(folded["blocks.0.attn.out.weight"].read(), expected)
