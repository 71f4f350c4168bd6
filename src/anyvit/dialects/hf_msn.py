"""transformers' ViT-MSN."""

from __future__ import annotations

from anyvit.dialects.hf_deit import CLASSIFIER, DISK, MEMORY, STEM, TOKENS, L, dialect
from anyvit.rules import respell

ABOUT = ("ViTMSNModel", "vit_msn/modeling_vit_msn.py", "hf-msn", "vit.")
MASK = ("embed.mask",)

HF_MSN = dialect("hf-vit-msn", (*STEM, *TOKENS, *CLASSIFIER, *DISK), *ABOUT, leaves=MASK)
HF_MSN_MEMORY = dialect("hf-vit-msn-memory", (*STEM, *TOKENS, *CLASSIFIER, *MEMORY), *ABOUT)
# transformers 5.23 saves ViTMSNForImageClassification with vit. before all names but those of the blocks
HF_MSN_SAVED = dialect(
    "hf-vit-msn-beside", (*STEM, *TOKENS, *CLASSIFIER, *respell(DISK, L, "../" + L)), *ABOUT, leaves=MASK
)

DIALECTS = (HF_MSN, HF_MSN_MEMORY, HF_MSN_SAVED)
