"""timm's VisionTransformerRelPos: positions as biases from a small MLP on log-spaced offsets, or from a table."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, B
from anyvit.rules import Dialect, R, without

BUFFERS = "<relative_position_index|rel_coords_log>"
TABLE = "relative_position_bias_table"
FOLLOWS = "follows from the grid; computed again"

TIMM_RELPOS = Dialect(
    "timm-relpos",
    (
        *without(BASE, "dist_token", "pos_embed"),
        R(B + "attn.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
        R(B + "<ls1|ls2>.gamma", B + "<ls1|ls2>"),
        R(B + "attn.rel_pos.mlp.<fc1|fc2>.{p}", B + "attn.rel_mlp.<fc1|fc2>.{p}"),
        R("shared_rel_pos.mlp.<fc1|fc2>.{p}", "embed.rel_mlp.<fc1|fc2>.{p}"),
        R(B + "attn.rel_pos." + TABLE, B + "attn.rel_pos"),
        R("shared_rel_pos." + TABLE, "embed.rel_pos"),
        R(B + "attn.rel_pos." + BUFFERS, None, why=FOLLOWS),
        R("shared_rel_pos." + BUFFERS, None, why=FOLLOWS),
        R("fc_norm.{p}", "fc_norm.{p}"),
    ),
    source="huggingface/pytorch-image-models timm/models/vision_transformer_relpos.py, timm/layers/pos_embed_rel.py",
    title="timm VisionTransformerRelPos",
    lineage="timm-relpos",
    prefix_rows="all",
)

DIALECTS = (TIMM_RELPOS,)
