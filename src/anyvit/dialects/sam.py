"""Meta's Segment Anything image encoder, as released, in transformers and in timm."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, B
from anyvit.rules import Dialect, R, without

POS = R("pos_embed", "embed.pos", "1 gh gw d -> (gh gw) d")
TABLES = "<rel_pos_h|rel_pos_w>"
SHARED = (
    *without(BASE, "cls_token", "dist_token", "pos_embed", B + "mlp.<fc1|fc2>.{p}", "norm.{p}", "head.{p}"),
    POS,
    R(B + "attn." + TABLES, B + "attn." + TABLES),
    R("neck.<0|2>.weight", "neck.<conv1|conv2>.weight"),
    R("neck.<1|3>.{p}", "neck.<norm1|norm2>.{p}"),
)
L = "layers.{i}."

SAM = Dialect(
    "sam",
    (*SHARED, R(B + "mlp.<lin1|lin2>.{p}", B + "mlp.<fc1|fc2>.{p}")),
    source="facebookresearch/segment-anything segment_anything/modeling/image_encoder.py",
    title="Segment Anything",
    lineage="sam",
    root="image_encoder.",
    container="torch",
)
TIMM_SAM = Dialect(
    "timm-sam",
    (
        *SHARED,
        R(B + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("head.fc.{p}", "head.{p}"),
        R("neck.{p}", "norm.{p}", why="a norm in the neck's place"),
    ),
    source="huggingface/pytorch-image-models timm/models/vision_transformer_sam.py",
    title="timm VisionTransformerSAM",
    lineage="sam",
    prefix_rows="all",
)
HF_SAM = Dialect(
    "hf-sam",
    (
        R("patch_embed.projection.{p}", "embed.patch.{p}"),
        POS,
        R(L + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        *(R(rule.theirs.replace(B, L), rule.ours, rule.axes) for rule in SHARED if rule.theirs.startswith(B + "attn.")),
        R(L + "mlp.<lin1|lin2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("neck.<conv1|conv2>.weight", "neck.<conv1|conv2>.weight"),
        R("neck.<layer_norm1|layer_norm2>.{p}", "neck.<norm1|norm2>.{p}"),
    ),
    source="huggingface/transformers src/transformers/models/sam/modeling_sam.py",
    title="transformers SamVisionModel",
    lineage="hf-sam",
    root="vision_encoder.",
)

DIALECTS = (SAM, TIMM_SAM, HF_SAM)
