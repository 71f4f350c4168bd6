"""The EVA-02-CLIP enormous tower inside CogVLM, CogVLM2, CogAgent and GLM-4V, in names of their own.

Blocks add normed branches (post-norm); the last block of EVA-CLIP was left out, and there is no norm after the others.
"""

from __future__ import annotations

from anyvit.dialects.openai_clip import POSITIONS
from anyvit.dialects.timm import QKV, ROWS, B
from anyvit.rules import Dialect, R

L = "transformer.layers.{i}."
ADAPTER = "outside: adapter from the tower's patches to the language model"

COGVLM = Dialect(
    "cogvlm",
    (
        R("patch_embedding.proj.{p}", "embed.patch.{p}"),
        R("patch_embedding.cls_embedding", "embed.cls"),
        R("patch_embedding.position_embedding.weight", "embed.[pos_prefix|pos]", POSITIONS),
        R(L + "<input_layernorm|post_attention_layernorm>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attention.query_key_value.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(L + "attention.dense.{p}", B + "attn.out.{p}"),
        R(L + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("linear_proj.<linear_proj|norm1|dense_h_to_4h|gate_proj|dense_4h_to_h>.{p}", None, why=ADAPTER),
        R("conv.{p}", None, why=ADAPTER),
        R("<boi|eoi>", None, why="outside: marks of the language model around a picture"),
        R("pos_embed", None, why="outside: positions that CogVLM's adapter adds after the tower"),
    ),
    source="zai-org/cogvlm-chat-hf, cogvlm2-llama3-chat-19B, glm-4v-9b on the Hub: visual.py (EVA2CLIPModel)",
    title="EVA-02-CLIP enormous in CogVLM, CogVLM2, CogAgent and GLM-4V",
    lineage="cogvlm",
    root="model.vision.",
    prefix_rows="cls",
    requires=(*ROWS, "embed.patch.bias"),
)

DIALECTS = (COGVLM,)
