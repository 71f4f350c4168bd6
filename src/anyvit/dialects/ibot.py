"""ByteDance's iBOT: DINO's names and a mask token; its fine-tuning code is BEiT's with a bias on the key too."""

from __future__ import annotations

from anyvit.dialects.beit import BEIT, TABLE
from anyvit.dialects.timm import BASE, QKV, B
from anyvit.rules import Dialect, R, without

IBOT = Dialect(
    "ibot",
    (
        *without(BASE, "dist_token"),
        R("masked_embed", "embed.mask", "1 d -> d"),
        R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
        R("fc_norm.{p}", "fc_norm.{p}"),
    ),
    source="bytedance/ibot models/vision_transformer.py",
    title="iBOT",
    lineage="ibot",
    container="torch",
    prefix_rows="cls",
    also=("ibot-beit",),
)
IBOT_BEIT = Dialect(
    "ibot-beit",
    (
        *without(BEIT, B + "attn.qkv.weight", B + "attn.<q_bias|v_bias>"),
        R(B + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
    ),
    source="bytedance/ibot evaluation/classification_layer_decay/modeling_finetune.py",
    title="iBOT, fine-tuned with relative positions",
    lineage="beit",
    container="torch",
    anchors=(B + "attn." + TABLE, "rel_pos_bias." + TABLE),
    prefix_rows="cls",
)

DIALECTS = (IBOT, IBOT_BEIT)
