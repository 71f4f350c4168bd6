"""Meta's DINOv3: RoPE instead of a position table, registers as storage tokens, a masked key bias."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, B
from anyvit.rules import Dialect, R, without

DINOV3 = Dialect(
    "dinov3",
    (
        *without(BASE, "dist_token", "pos_embed", "head.{p}"),
        R("storage_tokens", "embed.reg", "1 r d -> r d"),
        R("mask_token", "embed.mask", "1 d -> d"),
        R("rope_embed.periods", "rope.periods"),
        R(B + "attn.qkv.bias_mask", None, why="mask of the key bias, applied when it is read"),
        R(B + "<ls1|ls2>.gamma", B + "<ls1|ls2>"),
        # SwiGLUFFN computes w3(silu(w1 x) * w2 x): dinov3/layers/ffn_layers.py
        R(B + "mlp.<w1|w2|w3>.{p}", B + "mlp.<gate|up|down>.{p}"),
        R("../linear_head.{p}", "head.{p}", why="hub/classifiers.py: over cls and the mean of the patches"),
        R("<cls_norm|local_cls_norm>.{p}", "<cls_norm|local_cls_norm>.{p}"),
    ),
    source="facebookresearch/dinov3 dinov3/models/vision_transformer.py, dinov3/layers/{attention,ffn_layers}.py",
    title="DINOv3",
    lineage="dinov3",
    container="torch",
)

DIALECTS = (DINOV3,)
