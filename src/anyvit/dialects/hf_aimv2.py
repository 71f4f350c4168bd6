"""transformers' Aimv2VisionModel, whose names on disk and in memory agree."""

from __future__ import annotations

from anyvit.dialects.timm import B
from anyvit.rules import Dialect, R

L = "encoder.layers.{i}."

HF_AIMV2 = Dialect(
    "hf-aimv2",
    (
        R("embeddings.patch_embed.{p}", "embed.patch.{p}"),
        R("embeddings.rms_norm.{p}", "embed.patch_norm.{p}"),
        R("embeddings.position_embedding.weight", "embed.pos"),
        R("embeddings.position_ids", None, why="0, 1, 2 …"),
        R(L + "<rms_norm1|rms_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attention.<q_proj|k_proj|v_proj|out_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(L + "ffn.<gate_proj|up_proj|down_proj>.{p}", B + "mlp.<gate|up|down>.{p}"),
        R("rms_norm.{p}", "norm.{p}"),
        R("head.cls_token", "pool.query", "1 s d -> s d"),
        R("head.<k_proj|v_proj|output_proj>.{p}", "pool.<k|v|out>.{p}"),
        R("../visual_projection.weight", "proj.weight"),
    ),
    source="huggingface/transformers src/transformers/models/aimv2/modeling_aimv2.py",
    title="transformers Aimv2VisionModel",
    lineage="hf-aimv2",
    tower="vision_model.",
)

DIALECTS = (HF_AIMV2,)
