"""Ai2's Molmo: CLIP's or SigLIP 2's image tower behind a linear map of flattened patches."""

from __future__ import annotations

from anyvit.dialects.timm import ALL_BIASES, B
from anyvit.rules import Dialect, R

L = "transformer.resblocks.{i}."
M = "layers.{i}."
STEM = (
    R("patch_embedding.weight", "embed.patch.weight", "d (p1 p2 c) -> d c p1 p2"),
    R("patch_embedding.bias", "embed.patch.bias"),
    R("positional_embedding", "embed.[pos_prefix|pos]", "(k+n) d -> k d, n d"),
)

MOLMO = Dialect(
    "molmo",
    (
        *STEM,
        R("class_embedding", "embed.cls", "d -> 1 d"),
        R("pre_ln.{p}", "embed.norm.{p}"),
        R(L + "<attention_norm|ffn_norm>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attention.<wq|wk|wv|wo>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(L + "feed_forward.<w1|w2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
    ),
    source="allenai/Molmo-7B-D-0924 modeling_molmo.py, config_molmo.py; transformers conversion_mapping.py molmo2",
    title="Molmo and Molmo 2, names on disk",
    lineage="molmo",
    root="image_vit.",
    sizes={"c": 3},
    requires=ALL_BIASES,
)

HF_MOLMO2_MEMORY = Dialect(
    "hf-molmo2-memory",
    (
        *STEM,
        R(M + "<layer_norm1|layer_norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(M + "self_attn.<q_proj|k_proj|v_proj|o_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(M + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
    ),
    source="huggingface/transformers v5.23.0: models/molmo2/modeling_molmo2.py",
    title="transformers Molmo2VisionModel, names in memory (transformers 5)",
    lineage="molmo2",
    tower="vision_tower.",
    sizes={"c": 3},
    requires=("embed.patch.bias", *ALL_BIASES),
)

DIALECTS = (MOLMO, HF_MOLMO2_MEMORY)
