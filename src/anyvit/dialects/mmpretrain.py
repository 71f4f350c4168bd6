"""OpenMMLab's VisionTransformer: mmpretrain's (and mmcls'), and mmsegmentation's with torch's own attention."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import POS, QKV, B
from anyvit.rules import Dialect, R, without

L = "layers.{i}."

MMPRETRAIN = Dialect(
    "mmpretrain",
    (
        R("patch_embed.projection.{p}", "embed.patch.{p}"),
        R("cls_token", "embed.cls", "1 t d -> t d"),
        R("dist_token", "embed.dist", "1 1 d -> d"),
        R("pos_embed", "embed.[pos_prefix|pos]", POS),
        R("pre_norm.{p}", "embed.norm.{p}"),
        R(L + "<ln1|ln2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(L + "attn.proj.{p}", B + "attn.out.{p}"),
        R(L + "<attn.gamma1|ffn.gamma2>.weight", B + "<ls1|ls2>"),
        R(L + "ffn.<layers.0.0|layers.1>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R(L + "ffn.w12.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(L + "ffn.w3.{p}", B + "mlp.down.{p}"),
        R("<ln1|ln2>.{p}", "<norm|fc_norm>.{p}"),
        R("../head.layers.<pre_logits|head|head_dist>.{p}", "<pre_logits|head|head_dist>.{p}"),
    ),
    source="open-mmlab/mmpretrain mmpretrain/models/backbones/vision_transformer.py, utils/attention.py",
    title="mmpretrain VisionTransformer",
    lineage="mmpretrain",
    tower="backbone.",
    container="torch",
    prefix_rows="cls",
)

MMSEG = replace(
    MMPRETRAIN,
    name="mmseg",
    rules=(
        *without(MMPRETRAIN, L + "attn.qkv.{p}", L + "attn.proj.{p}", "../head.layers.<pre_logits|head|head_dist>.{p}"),
        R(L + "attn.attn.in_proj_<weight|bias>", B + "attn.[q|k|v].{p}", QKV),
        R(L + "attn.attn.out_proj.{p}", B + "attn.out.{p}"),
    ),
    source="open-mmlab/mmsegmentation mmseg/models/backbones/vit.py; mmcv/cnn/bricks/transformer.py MultiheadAttention",
    title="mmsegmentation's VisionTransformer (SETR, Segmenter, DPT)",
    lineage="mmseg",
)

DIALECTS = (MMPRETRAIN, MMSEG)
