"""transformers' SigLIP and SigLIP 2 image towers, whose names on disk and in memory agree.

PaliGemma, LLaVA-OneVision and others hold this tower under a prefix of their own.
"""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import ALL_BIASES, QKV, B
from anyvit.rules import Dialect, R, without

L = "encoder.layers.{i}."

HF_SIGLIP = Dialect(
    "hf-siglip",
    (
        # the axes stand here to refuse the flat kernel of SigLIP 2's NaFlex
        R("embeddings.patch_embedding.weight", "embed.patch.weight", "d c p q -> d c p q"),
        R("embeddings.patch_embedding.bias", "embed.patch.bias"),
        R("embeddings.position_embedding.weight", "embed.pos"),
        R("embeddings.position_ids", None, why="0, 1, 2 …"),
        R(L + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "self_attn.<q_proj|k_proj|v_proj|out_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(L + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("post_layernorm.{p}", "norm.{p}"),
        R("head.probe", "pool.query", "1 s d -> s d"),
        R("head.attention.in_proj_<weight|bias>", "pool.[q|k|v].{p}", QKV),
        R("head.attention.out_proj.{p}", "pool.out.{p}"),
        R("head.layernorm.{p}", "pool.norm.{p}"),
        R("head.mlp.<fc1|fc2>.{p}", "pool.mlp.<fc1|fc2>.{p}"),
        R("../classifier.{p}", "head.{p}"),
    ),
    source="huggingface/transformers src/transformers/models/siglip/modeling_siglip.py",
    title="transformers SiglipVisionModel",
    lineage="hf-siglip",
    tower="vision_model.",
    requires=("embed.patch.bias", *ALL_BIASES),
)
HF_SIGLIP2 = replace(
    HF_SIGLIP,
    name="hf-siglip2",
    rules=(
        *without(HF_SIGLIP, "embeddings.patch_embedding.weight"),
        R("embeddings.patch_embedding.weight", "embed.patch.weight", "d (p1 p2 c) -> d c p1 p2"),
    ),
    source="huggingface/transformers src/transformers/models/siglip2/{modeling,image_processing}_siglip2.py",
    title="transformers Siglip2VisionModel (NaFlex): linear on patches flattened row, column, channel",
    sizes={"c": 3},
)

HF_JANUS = replace(
    HF_SIGLIP,
    name="hf-janus",
    rules=(
        *without(HF_SIGLIP, L + "self_attn.<q_proj|k_proj|v_proj|out_proj>.{p}"),
        R(L + "self_attn.<q_proj|k_proj|v_proj|projection_layer>.{p}", B + "attn.<q|k|v|out>.{p}"),
    ),
    source="huggingface/transformers src/transformers/models/janus/modeling_janus.py",
    title="transformers JanusVisionModel",
    lineage="hf-janus",
)

DIALECTS = (HF_SIGLIP, HF_SIGLIP2, HF_JANUS)
