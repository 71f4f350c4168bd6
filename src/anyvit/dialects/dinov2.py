"""DINOv2's own names, with blocks in one list or in chunks."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import BASE, MLP, QKV, ROWS, B
from anyvit.rules import Dialect, R, respell, without

DINOV2 = Dialect(
    "dinov2",
    (
        *without(BASE, "dist_token", "head.{p}"),
        R("register_tokens", "embed.reg", "1 r d -> r d"),
        R("mask_token", "embed.mask", "1 d -> d"),
        R(B + "<ls1|ls2>.gamma", B + "<ls1|ls2>"),
        R(B + "mlp.w12.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(B + "mlp.w3.{p}", B + "mlp.down.{p}"),
        R(B + "mlp.<w1|w2>.{p}", B + "mlp.<gate|up>.{p}", reads_only=True, why="xformers' SwiGLU, unpacked"),
        R("../linear_head.{p}", "head.{p}", why="hub/classifiers.py: over cls, or cls and the mean of the patches"),
        R("head.{p}", "head.{p}", reads_only=True, why="a classifier that was put in place of the identity"),
        R("../<dino_head|ibot_head>.mlp.{i}.{p}", None, why="outside: projection head of pre-training"),
        R("../<dino_head|ibot_head>.last_layer.<weight|weight_g|weight_v>", None, why="outside: prototypes"),
    ),
    source="facebookresearch/dinov2 dinov2/models/vision_transformer.py, layers/swiglu_ffn.py, hub/classifiers.py",
    title="DINOv2",
    lineage="dinov2",
    tower="backbone.",
    container="torch",
    requires=(*ROWS, "norm.weight", "embed.mask"),
    classifier=("cls+avg",),
)

DINOV2_CHUNKED = replace(
    DINOV2,
    name="dinov2-chunked",
    rules=respell(DINOV2, B, "blocks.{_}.{i}."),
    source="facebookresearch/dinov2 dinov2/models/vision_transformer.py, BlockChunk: the second number counts",
    title="DINOv2, blocks in chunks (training checkpoints)",
    chunked=True,
)

TIPSV2 = Dialect(
    "tipsv2",
    (
        *without(DINOV2, MLP.theirs, "../linear_head.{p}", "head.{p}"),
        R(B + "mlp.<c_fc|c_proj>.{p}", B + "mlp.<fc1|fc2>.{p}"),
    ),
    source="google/tipsv2-* on the Hub; huggingface/transformers v5.23.0 models/tipsv2, conversion_mapping.py",
    title="TIPSv2",
    lineage="dinov2",
    tower="vision_encoder.",
    requires=(*ROWS, "norm.weight", "embed.mask"),
)

DIALECTS = (DINOV2, DINOV2_CHUNKED, TIPSV2)
