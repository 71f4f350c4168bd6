"""transformers' BLIP, BLIP-2 and InstructBLIP image towers; BLIP-2's is EVA's ViT-g."""

from __future__ import annotations

from anyvit.dialects.hf_clip import LAYER
from anyvit.dialects.timm import ALL_BIASES, POS, QKV, ROWS, B
from anyvit.rules import Dialect, R

HF_BLIP = Dialect(
    "hf-blip",
    (
        R("embeddings.patch_embedding.{p}", "embed.patch.{p}"),
        R("embeddings.class_embedding", "embed.cls", "1 1 d -> 1 d"),
        R("embeddings.position_embedding", "embed.[pos_prefix|pos]", POS),
        R(LAYER + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(LAYER + "self_attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(LAYER + "self_attn.projection.{p}", B + "attn.out.{p}"),
        R(LAYER + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("post_layernorm.{p}", "norm.{p}"),
        R("../vision_proj.{p}", "proj.{p}", why="BlipForImageTextRetrieval"),
    ),
    source="huggingface/transformers v5.23.0: models/{blip,blip_2,instructblip}/modeling_*.py",
    title="transformers BLIP, BLIP-2, InstructBLIP",
    lineage="hf-blip",
    root="vision_model.",
    requires=(*ROWS, "norm.weight", *ALL_BIASES),
)

DIALECTS = (HF_BLIP,)
