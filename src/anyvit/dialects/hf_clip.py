"""Hugging Face's CLIP image tower, under `vision_model.` or bare."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.openai_clip import POSITIONS
from anyvit.dialects.timm import ALL_BIASES, ROWS, B
from anyvit.rules import Dialect, R, respell, without

LAYER = "encoder.layers.{i}."

LAYERS = (
    R(LAYER + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
    R(LAYER + "self_attn.<q_proj|k_proj|v_proj>.{p}", B + "attn.<q|k|v>.{p}"),
    R(LAYER + "self_attn.out_proj.{p}", B + "attn.out.{p}"),
    R(LAYER + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
)

POSITION_IDS = R("embeddings.position_ids", None, why="row numbers 0, 1, 2 … of the position table")

HF_CLIP = Dialect(
    "hf-clip",
    (
        R("embeddings.patch_embedding.{p}", "embed.patch.{p}"),
        R("embeddings.class_embedding", "embed.cls", "d -> 1 d"),
        R("embeddings.position_embedding.weight", "embed.[pos_prefix|pos]", POSITIONS),
        POSITION_IDS,
        R("pre_layrnorm.{p}", "embed.norm.{p}", why="spelt so"),
        *LAYERS,
        R("post_layernorm.{p}", "norm.{p}"),
        R("../visual_projection.weight", "proj.weight"),
        R("../classifier.{p}", "head.{p}", why="over the mean of the patches"),
        R("../<logit_scale|logit_bias>", None, why="outside: scale of the similarity of images and texts"),
        R("../text_projection.weight", None, why="outside: text side"),
    ),
    source="huggingface/transformers v5.23.0: models/clip/modeling_clip.py",
    title="Hugging Face CLIP",
    lineage="hf-clip",
    root="vision_model.",
    requires=(*ROWS, "norm.weight", "embed.norm.weight", *ALL_BIASES),
    classifier=("unnormed",),
)

HF_CLIP_MEMORY = replace(
    HF_CLIP,
    name="hf-clip-memory",
    title="Hugging Face CLIPVisionModel in the memory of transformers 5",
    root="",
    tower="vision_model.",
)

HF_OWLVIT = replace(
    HF_CLIP,
    name="hf-owlvit",
    rules=(
        *without(HF_CLIP, "pre_layrnorm.{p}", "../classifier.{p}"),
        R("pre_layernorm.{p}", "embed.norm.{p}", why="spelt rightly"),
    ),
    source="huggingface/transformers v5.23.0: models/{owlvit,owlv2}/modeling_*.py",
    title="Hugging Face OWL-ViT and OWLv2",
    classifier=(),
)

HF_ALTCLIP = replace(
    HF_CLIP,
    name="hf-altclip",
    rules=respell(HF_CLIP, LAYER, "encoder.layer.{i}."),
    source="huggingface/transformers v5.23.0: models/altclip/modeling_altclip.py, conversion_mapping.py; files that it saves",
    title="AltCLIP as transformers 5 saves it; files of before have CLIP's own names",
)

DIALECTS = (HF_CLIP, HF_CLIP_MEMORY, HF_OWLVIT, HF_ALTCLIP)
