"""BAAI's EVA-02 and EVA-CLIP.

Models with a sub-norm keep q, k and v apart (and w1, w2, w3), the others fuse them (qkv, w12): two tables each. The key
has no bias in either. `head` classifies in EVA-02 and projects into the joint space in EVA-CLIP.
"""

from __future__ import annotations

from anyvit.dialects.timm import BASE, QKV, B
from anyvit.rules import Dialect, R, without

ASUKA = "baaivision/EVA EVA-02/asuka/modeling_{pretrain,finetune}.py"
REI = "baaivision/EVA EVA-CLIP/rei/eva_clip/eva_vit_model.py"
FOLLOWS = "follows from the grid; computed again"

STEM = (
    *without(BASE, "dist_token", B + "attn.qkv.{p}", B + "mlp.<fc1|fc2>.{p}", "head.{p}"),
    R("mask_token", "embed.mask", "1 1 d -> d"),
    R("rope.<freqs_cos|freqs_sin>", None, why=FOLLOWS),
    R(B + "attn.rope.<freqs_cos|freqs_sin>", None, why=FOLLOWS),
    R(B + "attn.<q_bias|v_bias>", B + "attn.<q|v>.bias"),
    R(B + "attn.inner_attn_ln.{p}", B + "attn.norm.{p}"),
    R(B + "mlp.ffn_ln.{p}", B + "mlp.norm.{p}"),
    R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
    R("fc_norm.{p}", "fc_norm.{p}"),
    R("lm_head.{p}", None, why="outside: predicts the teacher's features in pre-training"),
)
APART = (R(B + "attn.<q_proj|k_proj|v_proj>.weight", B + "attn.<q|k|v>.weight"),)
FUSED = (R(B + "attn.qkv.weight", B + "attn.[q|k|v].weight", QKV),)
# SwiGLU computes w3(norm(silu(w1 x) * w2 x)), w12 is w1 above w2: asuka/modeling_finetune.py
W123 = (R(B + "mlp.<w1|w2|w3>.{p}", B + "mlp.<gate|up|down>.{p}"),)
W12 = (R(B + "mlp.w12.{p}", B + "mlp.[gate|up].{p}", QKV), R(B + "mlp.w3.{p}", B + "mlp.down.{p}"))
FC = (R(B + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),)
CLASSIFIER = (R("head.{p}", "head.{p}"),)
PROJECTION = (R("head.{p}", "proj.{p}"),)

EVA02 = Dialect(
    "eva02",
    (*STEM, *APART, *W123, *CLASSIFIER),
    source=ASUKA,
    title="EVA-02 (base, large: q, k, v apart, sub-norm)",
    lineage="eva02-finetuned",
    container="torch",
    prefix_rows="cls",
    also=("eva02-fused",),
)
EVA02_FUSED = Dialect(
    "eva02-fused",
    (*STEM, *FUSED, *W12, *CLASSIFIER),
    source=ASUKA,
    title="EVA-02 (tiny, small: fused qkv and w12)",
    lineage="eva02-finetuned",
    container="torch",
    prefix_rows="cls",
)
EVA = Dialect(
    "eva",
    (*STEM, *FUSED, *FC, *CLASSIFIER),
    source="baaivision/EVA EVA-01/eva/modeling_{pretrain,finetune}.py",
    title="EVA-01 (fused qkv, plain MLP)",
    lineage="eva",
    container="torch",
    also=("eva-clip", "eva-clip-fused"),
)
EVA_CLIP = Dialect(
    "eva-clip",
    (*STEM, *APART, *W123, *PROJECTION),
    source=REI,
    title="EVA-02-CLIP (base, large: q, k, v apart, sub-norm)",
    lineage="eva-clip",
    root="visual.",
    container="torch",
    prefix_rows="cls",
    also=("eva-clip-fused",),
)
EVA_CLIP_FUSED = Dialect(
    "eva-clip-fused",
    (*STEM, *FUSED, *FC, *PROJECTION),
    source=REI,
    title="EVA-01-CLIP and EVA-02-CLIP enormous (fused qkv, plain MLP)",
    lineage="eva-clip",
    root="visual.",
    container="torch",
    prefix_rows="cls",
)

DIALECTS = (EVA02, EVA02_FUSED, EVA, EVA_CLIP, EVA_CLIP_FUSED)
