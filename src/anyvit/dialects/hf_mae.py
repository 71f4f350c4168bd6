"""transformers' ViTMAE; its decoder lies beside the tower."""

from __future__ import annotations

from anyvit.dialects.hf_deit import CLASSIFIER, DISK, MEMORY, STEM, TOKENS, L, N, dialect
from anyvit.rules import R

WHY = "outside: decoder of pre-training"
D = "../decoder."


def _decoder(rules: tuple[R, ...], old: str, new: str) -> tuple[R, ...]:
    return tuple(R(D + rule.theirs.replace(old, new), None, why=WHY) for rule in rules)


DECODER = (
    R(D + "<decoder_embed|decoder_norm|decoder_pred>.{p}", None, why=WHY),
    R(D + "<decoder_pos_embed|mask_token>", None, why=WHY),
)
ABOUT = ("ViTMAEModel", "vit_mae/modeling_vit_mae.py", "hf-mae", "vit.")

HF_MAE = dialect(
    "hf-vit-mae",
    (
        *(*STEM, *TOKENS, *CLASSIFIER, *DISK, *DECODER),
        *_decoder(DISK, L, "decoder_layers.{i}."),
        # as transformers 5.23 saves it
        *_decoder(DISK, L, "decoder_" + L),
    ),
    *ABOUT,
    leaves=("embed.mask",),
)
HF_MAE_MEMORY = dialect(
    "hf-vit-mae-memory",
    (*STEM, *TOKENS, *CLASSIFIER, *MEMORY, *DECODER, *_decoder(MEMORY, N, "decoder_" + N)),
    *ABOUT,
)

DIALECTS = (HF_MAE, HF_MAE_MEMORY)
