"""Early PyTorch ports of Google's ViT, whose names live on in other projects (TransFG, TransUNet, MedViT and more)."""

from __future__ import annotations

from anyvit.dialects.timm import ALL_BIASES, POS, ROWS, B
from anyvit.rules import Dialect, R

L = "transformer.encoder.layer.{i}."
T = "transformer.blocks.{i}."
E = "transformer.encoder_layers.{i}."
REQUIRES = (*ROWS, "embed.patch.bias", "norm.weight", *ALL_BIASES)

JEONSWORLD = Dialect(
    "jeonsworld",
    (
        R("transformer.embeddings.patch_embeddings.{p}", "embed.patch.{p}"),
        R("transformer.embeddings.cls_token", "embed.cls", "1 t d -> t d"),
        R("transformer.embeddings.position_embeddings", "embed.[pos_prefix|pos]", POS),
        R(L + "<attention_norm|ffn_norm>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attn.<query|key|value|out>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(L + "ffn.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("transformer.encoder.encoder_norm.{p}", "norm.{p}"),
        R("head.{p}", "head.{p}"),
    ),
    source="jeonsworld/ViT-pytorch models/modeling.py",
    title="jeonsworld's ViT-pytorch",
    lineage="google-ports",
    container="torch",
    requires=REQUIRES,
)

LUKEMELAS = Dialect(
    "lukemelas",
    (
        R("patch_embedding.{p}", "embed.patch.{p}"),
        R("class_token", "embed.cls", "1 t d -> t d"),
        R("positional_embedding.pos_embedding", "embed.[pos_prefix|pos]", POS),
        R(T + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(T + "attn.<proj_q|proj_k|proj_v>.{p}", B + "attn.<q|k|v>.{p}"),
        R(T + "proj.{p}", B + "attn.out.{p}"),
        R(T + "pwff.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("norm.{p}", "norm.{p}"),
        R("pre_logits.{p}", "pre_logits.{p}"),
        R("fc.{p}", "head.{p}"),
    ),
    source="lukemelas/PyTorch-Pretrained-ViT pytorch_pretrained_vit/{model,transformer}.py",
    title="lukemelas' PyTorch-Pretrained-ViT",
    lineage="google-ports",
    container="torch",
    requires=REQUIRES,
)

ASYML = Dialect(
    "asyml",
    (
        R("embedding.{p}", "embed.patch.{p}"),
        R("cls_token", "embed.cls", "1 t d -> t d"),
        R("transformer.pos_embedding.pos_embedding", "embed.[pos_prefix|pos]", POS),
        R(E + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(E + "attn.<query|key|value>.weight", B + "attn.<q|k|v>.weight", "d heads e -> (heads e) d"),
        R(E + "attn.<query|key|value>.bias", B + "attn.<q|k|v>.bias", "heads e -> (heads e)"),
        R(E + "attn.out.weight", B + "attn.out.weight", "heads e d -> d (heads e)"),
        R(E + "attn.out.bias", B + "attn.out.bias"),
        R(E + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("transformer.norm.{p}", "norm.{p}"),
        R("classifier.{p}", "head.{p}"),
    ),
    source="asyml/vision-transformer-pytorch src/model.py",
    title="asyml's vision-transformer-pytorch",
    lineage="asyml",
    container="torch",
    requires=REQUIRES,
)

DIALECTS = (JEONSWORLD, LUKEMELAS, ASYML)
