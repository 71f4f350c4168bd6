"""torchvision's VisionTransformer (also the SWAG weights)."""

from __future__ import annotations

from anyvit.dialects.timm import ALL_BIASES, POS, QKV, ROWS, B
from anyvit.rules import Dialect, R

L = "encoder.layers.encoder_layer_{i}."

TORCHVISION = Dialect(
    "torchvision",
    (
        R("conv_proj.{p}", "embed.patch.{p}"),
        R("class_token", "embed.cls", "1 t d -> t d"),
        R("encoder.pos_embedding", "embed.[pos_prefix|pos]", POS),
        R(L + "<ln_1|ln_2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "self_attention.in_proj_<weight|bias>", B + "attn.[q|k|v].{p}", QKV),
        R(L + "self_attention.out_proj.{p}", B + "attn.out.{p}"),
        R(L + "mlp.<0|3>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R(
            L + "mlp.<linear_1|linear_2>.{p}",
            B + "mlp.<fc1|fc2>.{p}",
            why="version 1 of MLPBlock (torchvision 0.12)",
            reads_only=True,
        ),
        R("encoder.ln.{p}", "norm.{p}"),
        R("heads.<pre_logits|head>.{p}", "<pre_logits|head>.{p}"),
    ),
    source="pytorch/vision torchvision/models/vision_transformer.py",
    title="torchvision VisionTransformer",
    lineage="torchvision",
    container="torch",
    requires=(*ROWS, "norm.weight", "embed.patch.bias", *ALL_BIASES),
)

DIALECTS = (TORCHVISION,)
