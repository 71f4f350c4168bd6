"""transformers' BEiT, on disk and in memory, and Data2Vec's image model, which bears BEiT's names on disk always."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.hf_deit import CLASSIFIER, DISK, MEMORY, STEM, TOKENS, L, N, dialect
from anyvit.dialects.timm import B
from anyvit.rules import R

TABLE, INDEX = "relative_position_bias.relative_position_bias_table", "relative_position_bias.relative_position_index"
FOLLOWS = "follows from the grid; computed again"

COMMON = (
    *(*STEM, *TOKENS, *CLASSIFIER),
    R("pooler.layernorm.{p}", "fc_norm.{p}"),
    R("../layernorm.{p}", "norm.{p}", why="BeitForMaskedImageModeling norms after the tower", reads_only=True),
    R("../lm_head.{p}", None, why="outside: predicts visual tokens in pre-training"),
)
OWN = (
    R(L + "<lambda_1|lambda_2>", B + "<ls1|ls2>"),
    R(L + "attention.attention." + TABLE, B + "attn.rel_pos"),
    R(L + "attention.attention." + INDEX, None, why=FOLLOWS),
    R("encoder." + TABLE, "embed.rel_pos"),
    R("encoder." + INDEX, None, why=FOLLOWS),
)
OWN_MEMORY = (
    R(N + "<lambda_1|lambda_2>", B + "<ls1|ls2>"),
    R(N + TABLE, B + "attn.rel_pos"),
    R("shared_position_bias.relative_position_bias_table", "embed.rel_pos"),
)
ABOUT = ("BeitModel", "beit/modeling_beit.py", "hf-beit", "beit.", ("embed.cls", "embed.patch.bias"))
ROWS = {"prefix_rows": "cls"}

HF_BEIT = dialect("hf-beit", (*COMMON, *DISK, *OWN), *ABOUT, **ROWS)
HF_BEIT_MEMORY = dialect("hf-beit-memory", (*COMMON, *MEMORY, *OWN_MEMORY), *ABOUT, **ROWS)
HF_DATA2VEC = replace(
    HF_BEIT,
    name="hf-data2vec-vision",
    source="huggingface/transformers src/transformers/models/data2vec/modeling_data2vec_vision.py",
    title="transformers Data2VecVisionModel",
    tower="data2vec_vision.",
)

DIALECTS = (HF_BEIT, HF_BEIT_MEMORY, HF_DATA2VEC)
