"""transformers' BLIP family (BLIP, BLIP-2, InstructBLIP): fused q, k and v, tables with a leading axis."""

from __future__ import annotations

from anyvit.dialects.hf_clip import LAYER as L
from anyvit.dialects.timm import ALL_BIASES, POS, QKV, ROWS, B
from anyvit.rules import Dialect, R

HF_BLIP = Dialect(
    "hf-blip",
    (
        R("embeddings.patch_embedding.{p}", "embed.patch.{p}"),
        R("embeddings.class_embedding", "embed.cls", "1 t d -> t d"),
        R("embeddings.position_embedding", "embed.[pos_prefix|pos]", POS),
        R(L + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "self_attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(L + "self_attn.projection.{p}", B + "attn.out.{p}"),
        R(L + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("post_layernorm.{p}", "norm.{p}", why="over all tokens; transformers' pooler applies it to cls once more"),
        R("../vision_proj.{p}", "proj.{p}", why="BlipForImageTextRetrieval"),
    ),
    source="huggingface/transformers v5.23.0: models/{blip,blip_2,instructblip}/modeling_*.py",
    title="Hugging Face BLIP, BLIP-2 and InstructBLIP",
    lineage="hf-blip",
    root="vision_model.",
    requires=(*ROWS, "embed.patch.bias", "norm.weight", *ALL_BIASES),
)

DIALECTS = (HF_BLIP,)
