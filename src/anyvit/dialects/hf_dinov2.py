"""Hugging Face's Dinov2Model, with and without registers, as saved and as transformers 5 names it in memory."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.hf_vit import EMBEDDINGS, LAYER, attention, attention_in_memory
from anyvit.dialects.timm import BIASES, QKV, ROWS, B
from anyvit.rules import Dialect, R

_SHARED = (
    *EMBEDDINGS,
    R("embeddings.mask_token", "embed.mask", "1 d -> d"),
    R(LAYER + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
    R(LAYER + "<layer_scale1|layer_scale2>.lambda1", B + "<ls1|ls2>"),
    R(LAYER + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
    R("layernorm.{p}", "norm.{p}"),
    R("../classifier.{p}", "head.{p}", why="over cls and the mean of the patches"),
)

GATES = (B + "mlp.gate.bias", B + "mlp.up.bias", B + "mlp.down.bias")

_REGISTERS = R("embeddings.register_tokens", "embed.reg", "1 r d -> r d")

HF_DINOV2 = Dialect(
    "hf-dinov2",
    (
        *_SHARED,
        *attention(),
        R(LAYER + "mlp.weights_in.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(LAYER + "mlp.weights_out.{p}", B + "mlp.down.{p}"),
    ),
    source="huggingface/transformers v5.23.0: models/dinov2/modeling_dinov2.py, conversion_mapping.py",
    title="Hugging Face DINOv2",
    lineage="hf-dinov2",
    tower="dinov2.",
    requires=(*ROWS, "embed.mask", "embed.patch.bias", *BIASES, *GATES, B + "ls1", B + "ls2"),
    classifier=("cls+avg",),
    also=("hf-dinov2-with-registers",),
)

HF_DINOV2_MEMORY = replace(
    HF_DINOV2,
    name="hf-dinov2-memory",
    rules=(
        *_SHARED,
        *attention_in_memory(LAYER),
        R(LAYER + "mlp.<gate_proj|up_proj|down_proj>.{p}", B + "mlp.<gate|up|down>.{p}"),
    ),
    title="Hugging Face DINOv2 in the memory of transformers 5",
)

HF_REGISTERS = replace(
    HF_DINOV2,
    name="hf-dinov2-with-registers",
    rules=(*HF_DINOV2.rules, _REGISTERS),
    source="huggingface/transformers v5.23.0: models/dinov2_with_registers/modeling_dinov2_with_registers.py",
    title="Hugging Face DINOv2 with registers",
    lineage="hf-dinov2-registers",
    tower="dinov2_with_registers.",
    also=(),
)

HF_REGISTERS_MEMORY = replace(
    HF_REGISTERS,
    name="hf-dinov2-with-registers-memory",
    rules=(*HF_DINOV2_MEMORY.rules, _REGISTERS),
    title="Hugging Face DINOv2 with registers in the memory of transformers 5",
)

DIALECTS = (HF_DINOV2, HF_REGISTERS, HF_DINOV2_MEMORY, HF_REGISTERS_MEMORY)
