"""InternViT in its own names, and the same tower as Hugging Face's InternVL spells it."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.hf_vit import EMBEDDINGS, LAYER, MASK
from anyvit.dialects.timm import POS, QKV, ROWS, B
from anyvit.rules import Dialect, R, respell

_LAYER = "encoder.layers.{i}."

INTERNVIT = Dialect(
    "internvit",
    (
        R("embeddings.patch_embedding.{p}", "embed.patch.{p}"),
        R("embeddings.class_embedding", "embed.cls", "1 t d -> t d"),
        R("embeddings.position_embedding", "embed.[pos_prefix|pos]", POS),
        R(_LAYER + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(_LAYER + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(_LAYER + "attn.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
        R(_LAYER + "attn.proj.{p}", B + "attn.out.{p}"),
        R(_LAYER + "<ls1|ls2>", B + "<ls1|ls2>"),
        R(_LAYER + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("../mlp1.{i}.{p}", None, why="outside: projector to the language model"),
    ),
    source="OpenGVLab/InternVL internvl_chat/internvl/model/internvl_chat/modeling_intern_vit.py",
    title="InternViT",
    lineage="internvit",
    requires=(*ROWS, "embed.patch.bias", B + "attn.k.bias", B + "ls1", B + "ls2"),
    tower="vision_model.",
)

HF_INTERNVL = Dialect(
    "hf-internvl",
    (
        *EMBEDDINGS,
        MASK,
        R(LAYER + "<layernorm_before|layernorm_after>.{p}", B + "<norm1|norm2>.{p}"),
        R(LAYER + "attention.<q_proj|k_proj|v_proj>.{p}", B + "attn.<q|k|v>.{p}"),
        R(LAYER + "attention.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
        R(LAYER + "attention.projection_layer.{p}", B + "attn.out.{p}"),
        R(LAYER + "<lambda_1|lambda_2>", B + "<ls1|ls2>"),
        R(LAYER + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("layernorm.{p}", "norm.{p}"),
        R("../multi_modal_projector.<layer_norm|linear_1|linear_2>.{p}", None, why="outside: projector"),
    ),
    source="huggingface/transformers v5.23.0: models/internvl/modeling_internvl.py",
    title="Hugging Face InternVL vision tower",
    lineage="hf-internvl",
    requires=(*ROWS, "embed.patch.bias", B + "ls1", B + "ls2"),
    tower="vision_tower.",
)

HF_INTERNVL_MEMORY = replace(
    HF_INTERNVL,
    name="hf-internvl-memory",
    rules=respell(HF_INTERNVL.rules, LAYER, "layers.{i}."),
    source="huggingface/transformers v5.23.0: models/qianfan_ocr/modeling_qianfan_ocr.py",
    title="Hugging Face Qianfan-OCR vision tower (InternViT), names in memory",
)

DIALECTS = (INTERNVIT, HF_INTERNVL, HF_INTERNVL_MEMORY)
