"""The forms in which timm's classes are built, one a dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyvit.configs.rows import GATED, Row
from anyvit.configs.timm_args import FFN, vit
from anyvit.configs.timm_eva_args import BEIT, EVA, RELPOS, SAM


@dataclass(frozen=True)
class Form:
    """How a dialect of timm's is built.

    Arguments:
        cls: timm's class.
        rows: its arguments.
        fixed: arguments that the dialect settles.
        always: Spec field → values that the class always has where no row says it.
    """

    cls: str
    rows: tuple[Row, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


ALWAYS: dict[str, tuple[Any, ...]] = {
    "block_norm": ("pre",), "rope": (None,), "window": (None,), "condition": (None,), "cls_norm": (False,),
    "mlp_bias": (True,), "norm_bias": (True,), "head_norm": (False,), "dist_token": (False,), "neck_dim": (None,),
    "whiten": (False,), "patch_norm": (False,), "ffn": ("mlp",), "pre_logits_dim": (None,), "proj_bias": (True,),
    "diff_attn": (None,),
}  # fmt: skip


VIT_ALWAYS = {**{name: of for name, of in ALWAYS.items() if name != "mlp_bias"}, "norm_bias": (True, False)}


EVA_ALWAYS = {**ALWAYS, "qkv_bias": ("qv", False)}


GATE = {"ffn": GATED}
ASIDE: dict[str, tuple[Any, ...]] = {"ffn": ("parallel_scaling",)}
VECTORS: dict[str, tuple[Any, ...]] = {"diff_attn": ("vectors",)}


BEIT_ALWAYS = {**ALWAYS, "num_cls": (1,), "num_registers": (0,), "pre_norm": (False,), "qkv_bias": ("qv", False)}


def _eva(always: Mapping[str, Any] | None = None, **fixed: Any) -> Form:
    usual = {"qkv_fused": True, "swiglu_align_to": 0}
    return Form("Eva", EVA, {**usual, **fixed}, {**EVA_ALWAYS, **(always or {})})


PLAIN_BLOCK = {"block_fn": "Block", "mlp_layer": "Mlp", "embed_norm_layer": None, "attn_layer": "Attention"}


FORMS: dict[str, Form] = {
    "timm": Form("VisionTransformer", vit(), PLAIN_BLOCK, VIT_ALWAYS),
    "timm-glu": Form("VisionTransformer", vit(True), {**PLAIN_BLOCK, "mlp_layer": "SwiGLUPacked"},
                     {**VIT_ALWAYS, **GATE}),
    "timm-swiglu": Form("VisionTransformer", vit(), {**PLAIN_BLOCK, "mlp_layer": "SwiGLU"},
                        {**VIT_ALWAYS, **GATE, "patch_norm": (True, False)}),
    "timm-diff": Form("VisionTransformer", vit(), {**PLAIN_BLOCK, "attn_layer": "diff"}, {**VIT_ALWAYS, **VECTORS}),
    "timm-parallel": Form("VisionTransformer", vit(), {**PLAIN_BLOCK, "block_fn": "ParallelScalingBlock"},
                          {**VIT_ALWAYS, **ASIDE}),
    "timm-parallel-biased": Form("VisionTransformer", vit(), {**PLAIN_BLOCK, "block_fn": "ParallelScalingBlock"},
                                 {**VIT_ALWAYS, **ASIDE}),
    "timm-parallel-diff": Form("VisionTransformer", vit(), {**PLAIN_BLOCK, "block_fn": "DiffParallelScalingBlock"},
                               {**VIT_ALWAYS, **ASIDE, **VECTORS}),
    "timm-distilled": Form("VisionTransformerDistilled", vit(), PLAIN_BLOCK, {**VIT_ALWAYS, "dist_token": (True,)}),
    "timm-eva": _eva(),
    "timm-eva-swiglu": _eva(GATE, swiglu_align_to=1),
    "timm-eva-glu": _eva(GATE),
    "timm-eva-rope": _eva({"qkv_bias": (True, False)}),
    "timm-eva-apart-swiglu": _eva(GATE, qkv_fused=False, swiglu_align_to=1),
    "timm-eva-apart-glu": _eva({**GATE, "qkv_bias": (True, "qv", False)}, qkv_fused=False),
    "timm-beit": Form("Beit", BEIT, {}, BEIT_ALWAYS),
    "timm-sam": Form("VisionTransformerSAM", SAM, {}, {**ALWAYS, "num_cls": (0,)}),
    "timm-relpos": Form("VisionTransformerRelPos", RELPOS, {"block_fn": "RelPosBlock"}, ALWAYS),
    "timm-relpos-rpn": Form("VisionTransformerRelPos", RELPOS, {"block_fn": "ResPostRelPosBlock"},
                            {**ALWAYS, "block_norm": ("post",)}),
}  # fmt: skip


TABLES = {"timm-distilled": "timm", "timm-diff": "timm", "timm-relpos-rpn": "timm-relpos"}
"""Form → the dialect whose names it has, where that is called otherwise."""


READERS = {
    "VisionTransformer": vit(), "VisionTransformerDistilled": vit(), "Eva": EVA, "Beit": BEIT,
    "VisionTransformerSAM": SAM, "VisionTransformerRelPos": RELPOS,
}  # fmt: skip


FFN_ROW = Row("mlp_layer", "ffn", FFN)
