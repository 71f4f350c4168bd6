"""The names and shapes of the reference ViT, told from a Spec alone, are those of the model itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from conftest import needs_shared
from support.toys import toy
from support.truth import case, cases, checkpoint_of, manifest, manifests, vit_of

from anyvit import api
from anyvit.expected import UNUSED, differences, grid_of, shapes
from anyvit.lazy import from_array
from anyvit.model import ViT
from anyvit.reading import understand
from anyvit.spec import Rope, Spec

SMALL = Spec(embed_dim=32, depth=3, num_heads=2, mlp_dim=48, patch_size=4, image_size=16)


def fused(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The expected shapes in the model's own names, where queries, keys and values are one matrix, and AdaLN is."""
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes(spec).items():
        qkv = re.fullmatch(r"(blocks\.\d+\.attn)\.[qkv]\.(weight|bias)", name)
        adaln = re.fullmatch(r"(blocks\.\d+\.adaln)\.\w+\.(weight|bias)", name)
        if qkv:
            out[f"{qkv[1]}.qkv.{qkv[2]}"] = (3 * shape[0], *shape[1:])
        elif adaln:
            whole = f"{adaln[1]}.{adaln[2]}"
            out[whole] = (out.get(whole, (0,))[0] + shape[0], *shape[1:])
        else:
            out[name] = shape
    return out


def of_model(spec: Spec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = ViT(spec).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in UNUSED}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"num_classes": 5, "pos_prefix": 1},
    "registers and dist": {"num_registers": 3, "dist_token": True, "pool": "cls+dist", "num_classes": 4, "mask_token": True},
    "several class tokens": {"num_cls": 3, "summary": (0, 2), "num_classes": 4},
    "no biases": {"qkv_bias": False, "proj_bias": False, "mlp_bias": False, "patch_bias": False, "norm_bias": False},
    "no key bias": {"qkv_bias": "qv", "layer_scale": True, "mlp_layer_scale": False, "pre_norm": True},
    "rms": {"norm": "rmsnorm", "ffn": "swiglu", "act": "silu", "mlp_norm": True, "attn_norm": True, "patch_norm": True},
    "wide q norms": {"qk_norm": "full", "layer_scale": True, "ffn": "glu_fused"},
    "q norms and other heads": {"qk_norm": "head", "head_dim": 24, "in_chans": 5, "patch_size": (4, 8)},
    "rotary": {"pos_embed": "rope", "rope": Rope(base=100.0, coords="normalized", span="head"), "cls_norm": True, "num_registers": 2},
    "mixed rotary": {"pos_embed": "learned+rope", "rope": Rope(mixed=True)},
    "relative": {"pos_embed": "relpos", "final_norm": "fc_norm", "pool": "avg", "num_classes": 3},
    "shared relative": {"pos_embed": "relpos_shared", "num_cls": 0, "pool": "avg"},
    "windows": {
        "pos_embed": "learned+relpos_decomposed", "window": 2, "global_blocks": (1,), "num_cls": 0, "pool": "avg",
        "final_norm": None, "neck_dim": 12, "num_classes": 3,
    },
    "unstored": {"pos_embed": "sincos_unstored", "num_cls": 0, "pool": "avg", "pre_logits_dim": 20, "num_classes": 3},
    "map": {
        "pool": "map", "pool_mlp_dim": 40, "pool_norms": ("mlp",), "pool_queries": 1, "projection_dim": 7, "num_cls": 0,
    },
    "attention pool": {
        "pool": "attn_pool", "pool_norms": ("q", "kv"), "pool_queries": 4, "pool_dim": 24, "pool_has_q": False,
        "pool_bias": False, "projection_dim": 7, "projection": "mlp", "projection_bias": True,
    },
    "probe": {"pool": "cls+avg", "head_norm": True, "num_classes": 6, "final_norm": "both"},
    "camera": {"condition": "instantmesh", "condition_inputs": 16},
    "gates": {"condition": "dit"},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_each_part_is_told_as_the_model_has_it(name: str) -> None:
    spec = Spec(**{**SMALL.values(), **VARIANTS[name]})
    assert fused(spec) == of_model(spec)


@needs_shared
@pytest.mark.parametrize("name", cases())
def test_truth_cases(name: str) -> None:
    spec = vit_of(name, case(name)["io"][0]).spec
    assert fused(spec) == of_model(spec)


@needs_shared
def test_released_models() -> None:
    count = 0
    for path in manifests()[::23]:
        found = understand(checkpoint_of(manifest(path)))
        if found.spec is not None and not any(finding.fatal for finding in found.findings):
            assert fused(found.spec) == of_model(found.spec), path
            count += 1
    assert count > 12


def test_the_grid_is_that_of_the_table_or_of_the_picture() -> None:
    assert grid_of(Spec(grid=(3, 5), image_size=224)) == (3, 5)
    assert grid_of(Spec(image_size=(32, 64), patch_size=(8, 16))) == (4, 4)
    assert grid_of(Spec()) == (0, 0)


def words(**edits: Any) -> list[str]:
    tensors = {name: from_array(np.zeros(shape, "float32"), name) for name, shape in shapes(SMALL).items()}
    tensors.update((name, from_array(np.zeros(shape, "float32"), name)) for name, shape in edits.items() if shape)
    for name, shape in edits.items():
        if shape is None:
            del tensors[name]
    return [f"{f.kind} {f.fatal} {' '.join(f.names)} {f.cause}" for f in differences(tensors, SMALL, str)]


def test_differences_are_named() -> None:
    assert words() == []
    (missing,) = words(**{"norm.bias": None})
    assert missing.startswith("missing True norm.bias")
    (surplus,) = words(**{"pre_logits.weight": (4, 32)})
    assert surplus.startswith("unexplained True pre_logits.weight") or "zeros" in surplus
    (shape,) = words(**{"norm.bias": (33,)})
    assert shape.startswith("shape True norm.bias") and "(33,)" in shape and "(32,)" in shape
    assert words(**{"local_cls_norm.weight": (32,), "rope.periods": (4,)}) == []


def test_a_head_without_a_bias_is_a_head_with_zeros() -> None:
    state = toy(0, width=64, depth=2, mlp=96, classes=5)
    del state["head.bias"]
    report = api.inspect(state)
    assert report.ok and any("without a bias" in f.cause for f in report.of("assumed"))
    vit = api.load(state)
    assert vit.head is not None and not vit.head.bias.any()
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = vit(pixels)
    expected = out.pooled @ torch.from_numpy(state["head.weight"]).T
    torch.testing.assert_close(out.logits, expected)
