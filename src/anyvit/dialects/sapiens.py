"""Meta's Sapiens2: DINOv3's rotary positions under mmpretrain's names, grouped keys and values in the middle blocks."""

from __future__ import annotations

from anyvit.dialects import hf_dinov3
from anyvit.dialects.timm import QKV, B
from anyvit.rules import Dialect, R

M = "model.layer.{i}."

SAPIENS2 = Dialect(
    "sapiens2",
    (
        R("patch_embed.projection.{p}", "embed.patch.{p}"),
        R("cls_token", "embed.cls", "1 t d -> t d"),
        R("storage_tokens", "embed.reg", "1 r d -> r d"),
        R("rope_embed.periods", "rope.periods"),
        R(B + "<ln1|ln2>.{p}", B + "<norm1|norm2>.{p}"),
        R(B + "attn.<wq|wk|wv|proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(B + "attn.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
        R(B + "<attn.gamma|ffn.gamma2>.weight", B + "<ls1|ls2>"),
        R(B + "ffn.w12.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(B + "ffn.w3.{p}", B + "mlp.down.{p}"),
        R("ln1.{p}", "norm.{p}"),
    ),
    source="facebookresearch/sapiens2 sapiens/backbones/standalone/sapiens2.py",
    title="Sapiens2, names on disk",
    lineage="sapiens2",
)

HF_SAPIENS2_MEMORY = Dialect(
    "hf-sapiens2-memory",
    (
        *hf_dinov3.HF_DINOV3_GATED_MEMORY.rules,
        R(M + "attention.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
    ),
    source="huggingface/transformers v5.23.0: models/sapiens2/modeling_sapiens2.py",
    title="transformers Sapiens2Model, names in memory (transformers 5)",
    lineage="sapiens2",
)

DIALECTS = (SAPIENS2, HF_SAPIENS2_MEMORY)
