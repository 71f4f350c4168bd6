"""transformers' DeiT, and the names that its ViT family shares on disk and in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anyvit.dialects.timm import BIASES, POS, ROWS, B
from anyvit.rules import Dialect, R

STEM = (
    R("embeddings.patch_embeddings.projection.{p}", "embed.patch.{p}"),
    R("embeddings.position_embeddings", "embed.[pos_prefix|pos]", POS),
    R("layernorm.{p}", "norm.{p}"),
)
TOKENS = (
    R("embeddings.cls_token", "embed.cls", "1 t d -> t d"),
    R("embeddings.mask_token", "embed.mask", "1 1 d -> d"),
)
L = "encoder.layer.{i}."
DISK = (
    R(L + "<layernorm_before|layernorm_after>.{p}", B + "<norm1|norm2>.{p}"),
    R(L + "attention.attention.<query|key|value>.{p}", B + "attn.<q|k|v>.{p}"),
    R(L + "attention.output.dense.{p}", B + "attn.out.{p}"),
    R(L + "<intermediate|output>.dense.{p}", B + "mlp.<fc1|fc2>.{p}"),
)
N = "layers.{i}."
MEMORY = (
    R(N + "<layernorm_before|layernorm_after>.{p}", B + "<norm1|norm2>.{p}"),
    R(N + "attention.<q_proj|k_proj|v_proj|o_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
    R(N + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
)
CLASSIFIER = (R("../classifier.{p}", "head.{p}"),)

DEIT = (
    R("embeddings.distillation_token", "embed.dist", "1 1 d -> d"),
    R("pooler.dense.{p}", "pre_logits.{p}"),
    R("../<cls_classifier|distillation_classifier>.{p}", "<head|head_dist>.{p}"),
    R("../classifier.{p}", "head.{p}", why="DeiTForImageClassification, without distillation", reads_only=True),
    R("../decoder.0.{p}", None, why="outside: predicts masked pixels in pre-training"),
)


REQUIRES = (*ROWS, "embed.patch.bias", *BIASES)


def dialect(
    name: str,
    rules: tuple[R, ...],
    model: str,
    file: str,
    lineage: str,
    tower: str,
    requires: tuple[str, ...] = REQUIRES,
    **fields: Any,
) -> Dialect:
    """A dialect of transformers' ViT family."""
    where = "in memory (transformers 5)" if name.endswith("-memory") else "on disk"
    source = f"huggingface/transformers src/transformers/models/{file}; names in memory: conversion_mapping.py"
    return Dialect(
        name, rules, source, f"transformers {model}, names {where}", lineage, tower, requires=requires, **fields
    )


def one_classifier(rules: tuple[R, ...]) -> tuple[R, ...]:
    """DeiT's rules where there is no head of the distillation token: DeiTForImageClassification.

    Example:
        >>> [r.theirs for r in one_classifier(DEIT) if "head" in (r.ours or "") and not r.reads_only]
        ['../classifier.{p}']
    """
    heads = [rule.theirs for rule in DEIT if "classifier" in rule.theirs]
    return tuple(replace(r, reads_only=not r.reads_only) if r.theirs in heads else r for r in rules)


def _deit(name: str, layers: tuple[R, ...]) -> Dialect:
    rules = (*STEM, *TOKENS, *layers, *DEIT)
    return dialect(
        name, rules, "DeiTModel", "deit/modeling_deit.py", "hf-deit", "deit.", leaves=("embed.mask",),
        classifier=("pooler",), instead={"head_dist.weight": one_classifier(rules)},
    )  # fmt: skip


HF_DEIT, HF_DEIT_MEMORY = _deit("hf-deit", DISK), _deit("hf-deit-memory", MEMORY)

DIALECTS = (HF_DEIT, HF_DEIT_MEMORY)
