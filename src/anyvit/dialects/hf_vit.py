"""Hugging Face's ViTModel, as it is saved and as transformers 5 names it in memory."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import BIASES, POS, ROWS, B
from anyvit.rules import Dialect, R, Rule

LAYER = "encoder.layer.{i}."

EMBEDDINGS = (
    R("embeddings.patch_embeddings.projection.{p}", "embed.patch.{p}"),
    R("embeddings.cls_token", "embed.cls", "1 t d -> t d"),
    R("embeddings.position_embeddings", "embed.[pos_prefix|pos]", POS),
)

MASK = R("embeddings.mask_token", "embed.mask", "1 1 d -> d")

HEADS = (
    R("layernorm.{p}", "norm.{p}"),
    R("pooler.dense.{p}", "pre_logits.{p}"),
    R("../classifier.{p}", "head.{p}"),
    R("../decoder.{i}.{p}", None, why="outside: decoder of masked image modelling"),
)


def attention(layer: str = LAYER) -> tuple[Rule, ...]:
    """The attention of a layer as it is saved."""
    return (
        R(layer + "attention.attention.<query|key|value>.{p}", B + "attn.<q|k|v>.{p}"),
        R(layer + "attention.output.dense.{p}", B + "attn.out.{p}"),
    )


def attention_in_memory(layer: str) -> tuple[Rule, ...]:
    """The attention of a layer in transformers 5."""
    return (
        R(layer + "attention.<q_proj|k_proj|v_proj>.{p}", B + "attn.<q|k|v>.{p}"),
        R(layer + "attention.o_proj.{p}", B + "attn.out.{p}"),
    )


LAYERS = (
    R(LAYER + "<layernorm_before|layernorm_after>.{p}", B + "<norm1|norm2>.{p}"),
    *attention(),
    R(LAYER + "<intermediate|output>.dense.{p}", B + "mlp.<fc1|fc2>.{p}"),
)

HF_VIT = Dialect(
    "hf-vit",
    (*EMBEDDINGS, MASK, *LAYERS, *HEADS),
    source="huggingface/transformers v5.23.0: models/vit/modeling_vit.py, conversion_mapping.py",
    title="Hugging Face ViT",
    lineage="hf-vit",
    tower="vit.",
    requires=(*ROWS, "embed.patch.bias", *BIASES),
    leaves=("embed.mask",),
    classifier=("pooler",),
)

HF_VIT_MEMORY = replace(
    HF_VIT,
    name="hf-vit-memory",
    rules=(
        *EMBEDDINGS,
        MASK,
        R("layers.{i}.<layernorm_before|layernorm_after>.{p}", B + "<norm1|norm2>.{p}"),
        *attention_in_memory("layers.{i}."),
        R("layers.{i}.mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        *HEADS,
    ),
    title="Hugging Face ViT in the memory of transformers 5",
)

HF_PIXIO = replace(
    HF_VIT,
    name="hf-pixio",
    rules=(
        *EMBEDDINGS,
        MASK,
        R(LAYER + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
        *attention(),
        R(LAYER + "<intermediate|output>.dense.{p}", B + "mlp.<fc1|fc2>.{p}"),
        *HEADS,
    ),
    source="huggingface/transformers v5.23.0: models/pixio/modeling_pixio.py, conversion_mapping.py",
    title="Hugging Face Pixio",
    lineage="hf-pixio",
    leaves=(),
    tower="pixio.",
)

DIALECTS = (HF_VIT, HF_VIT_MEMORY, HF_PIXIO)
