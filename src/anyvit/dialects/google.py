"""Google's original ViT in JAX: npz files, and the flax checkpoints of the same code."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import ALL_BIASES, POS, B
from anyvit.rules import Dialect, R, respell

_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_1/"
_MLP = _BLOCK + "MlpBlock_3/"

GOOGLE = Dialect(
    "google-npz",
    (
        R("embedding/kernel", "embed.patch.weight", "p q c d -> d c p q"),
        R("embedding/bias", "embed.patch.bias"),
        R("cls", "embed.cls", "1 t d -> t d"),
        R("Transformer/posembed_input/pos_embedding", "embed.[pos_prefix|pos]", POS),
        R(_BLOCK + "<LayerNorm_0|LayerNorm_2>/<scale|bias>", B + "<norm1|norm2>.<weight|bias>"),
        R(_ATTENTION + "<query|key|value>/kernel", B + "attn.<q|k|v>.weight", "d heads e -> (heads e) d"),
        R(_ATTENTION + "<query|key|value>/bias", B + "attn.<q|k|v>.bias", "heads e -> (heads e)"),
        R(_ATTENTION + "out/kernel", B + "attn.out.weight", "heads e d -> d (heads e)"),
        R(_ATTENTION + "out/bias", B + "attn.out.bias"),
        R(_MLP + "<Dense_0|Dense_1>/kernel", B + "mlp.<fc1|fc2>.weight", "i o -> o i"),
        R(_MLP + "<Dense_0|Dense_1>/bias", B + "mlp.<fc1|fc2>.bias"),
        R("Transformer/encoder_norm/<scale|bias>", "norm.<weight|bias>"),
        R("<pre_logits|head>/kernel", "<pre_logits|head>.weight", "i o -> o i"),
        R("<pre_logits|head>/bias", "<pre_logits|head>.bias"),
    ),
    source="google-research/vision_transformer vit_jax/models_vit.py, checkpoint.py",
    title="Google ViT (JAX)",
    lineage="google",
    container="npz",
    requires=("norm.weight", "embed.pos_prefix", "embed.patch.bias", *ALL_BIASES),
)

LINEN = replace(
    GOOGLE,
    name="google-linen",
    rules=respell(
        respell(respell(GOOGLE, "<LayerNorm_0|LayerNorm_2>", "<LayerNorm_0|LayerNorm_1>"), "MlpBlock_3", "MlpBlock_0"),
        "MultiHeadDotProductAttention_1",
        "MultiHeadDotProductAttention_0",
    ),
    source="google-research/vision_transformer vit_jax/models_vit.py (flax linen numbers modules by kind)",
    title="Google ViT (JAX), linen names",
)

FLAX = replace(
    LINEN,
    name="google-flax",
    rules=respell(LINEN, "/", "."),
    source="google-research/vision_transformer vit_jax/train.py, flax.training.checkpoints",
    title="Google ViT (JAX), flax checkpoint",
    container="msgpack",
)

DIALECTS = (GOOGLE, LINEN, FLAX)
