"""transformers' I-JEPA: no class token, no prefix rows."""

from __future__ import annotations

from anyvit.dialects.hf_deit import CLASSIFIER, DISK, MEMORY, STEM, dialect
from anyvit.dialects.timm import BIASES
from anyvit.rules import R, without

POSITIONS = "embeddings.position_embeddings"
OWN = (
    *without(STEM, POSITIONS),
    R(POSITIONS, "embed.pos", "1 n d -> n d"),
    R("embeddings.mask_token", "embed.mask", "1 1 d -> d"),
    *CLASSIFIER,
)
ABOUT = ("IJepaModel", "ijepa/modeling_ijepa.py", "hf-ijepa", "ijepa.", ("embed.patch.bias", *BIASES))

HF_IJEPA = dialect("hf-ijepa", (*OWN, *DISK), *ABOUT, leaves=("embed.mask",))
HF_IJEPA_MEMORY = dialect("hf-ijepa-memory", (*OWN, *MEMORY), *ABOUT)

DIALECTS = (HF_IJEPA, HF_IJEPA_MEMORY)
