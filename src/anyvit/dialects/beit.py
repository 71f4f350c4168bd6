"""Microsoft's BEiT and BEiT v2 (and EVA-01, which is BEiT with a position table), and timm's BEiT, named alike."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import BASE, QKV, B
from anyvit.rules import Dialect, R, without

TABLE, INDEX = "relative_position_bias_table", "relative_position_index"
FOLLOWS = "follows from the grid; computed again"
CLS = "outside: extra blocks of BEiT v2's pre-training"
C = "cls_pt_layers.{i}."

ENCODER = (
    *without(BASE, "dist_token", B + "attn.qkv.{p}"),
    R(B + "attn.qkv.weight", B + "attn.[q|k|v].weight", QKV),
    R(B + "attn.<q_bias|v_bias>", B + "attn.<q|v>.bias"),
    R(B + "attn." + TABLE, B + "attn.rel_pos"),
    R(B + "attn." + INDEX, None, why=FOLLOWS),
    R("rel_pos_bias." + TABLE, "embed.rel_pos"),
    R("rel_pos_bias." + INDEX, None, why=FOLLOWS),
    R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
    R("fc_norm.{p}", "fc_norm.{p}"),
)
PRETRAINING = (
    R("mask_token", "embed.mask", "1 1 d -> d"),
    R("lm_head.{p}", None, why="outside: predicts visual tokens in pre-training"),
    R("cls_pt_lm_head.{p}", None, why=CLS),
    R(C + "<norm1|norm2>.{p}", None, why=CLS),
    R(C + "attn.<qkv|proj>.{p}", None, why=CLS),
    R(C + "attn.<q_bias|v_bias|" + TABLE + "|" + INDEX + ">", None, why=CLS),
    R(C + "mlp.<fc1|fc2>.{p}", None, why=CLS),
    R(C + "<gamma_1|gamma_2>", None, why=CLS),
)

BEIT = Dialect(
    "beit",
    (*ENCODER, *PRETRAINING),
    source="microsoft/unilm beit/modeling_{pretrain,finetune}.py, beit2/modeling_{pretrain,finetune}.py",
    title="BEiT and BEiT v2",
    lineage="beit",
    container="torch",
    prefix_rows="cls",
)
TIMM_BEIT = replace(
    BEIT,
    name="timm-beit",
    rules=ENCODER,
    source="huggingface/pytorch-image-models timm/models/beit.py",
    title="timm Beit",
    lineage="timm-beit",
    container="safetensors",
)

DIALECTS = (BEIT, TIMM_BEIT)
