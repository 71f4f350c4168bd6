"""OpenAI's CLIP: the image tower of its TorchScript archives and state dicts."""

from __future__ import annotations

from anyvit.dialects.timm import ALL_BIASES, QKV, ROWS, B
from anyvit.rules import Dialect, R

BLOCK = "transformer.resblocks.{i}."
POSITIONS = "(k+n) d -> k d, n d"

RULES = (
    R("conv1.{p}", "embed.patch.{p}"),
    R("class_embedding", "embed.cls", "d -> 1 d"),
    R("positional_embedding", "embed.[pos_prefix|pos]", POSITIONS),
    R("ln_pre.{p}", "embed.norm.{p}"),
    R(BLOCK + "<ln_1|ln_2>.{p}", B + "<norm1|norm2>.{p}"),
    R(BLOCK + "attn.<in_proj_weight|in_proj_bias>", B + "attn.[q|k|v].<weight|bias>", QKV),
    R(BLOCK + "attn.out_proj.{p}", B + "attn.out.{p}"),
    R(BLOCK + "mlp.<c_fc|c_proj>.{p}", B + "mlp.<fc1|fc2>.{p}"),
    R("ln_post.{p}", "norm.{p}"),
    R("proj", "proj.weight", "d o -> o d"),
    R("../<logit_scale|logit_bias>", None, why="outside: scale of the similarity of images and texts"),
)

OPENAI_CLIP = Dialect(
    "openai-clip",
    (
        *RULES,
        R("../<input_resolution|context_length|vocab_size>", None, why="outside: sizes, kept as tensors"),
    ),
    source="openai/CLIP clip/model.py",
    title="OpenAI CLIP",
    lineage="openai-clip",
    root="visual.",
    container="torch",
    requires=(*ROWS, "norm.weight", "embed.norm.weight", *ALL_BIASES),
)

DIALECTS = (OPENAI_CLIP,)
