"""transformers' Flax classes, `flax_model.msgpack`: torch's names on disk with flax' kernels, scales and embeddings.

Source: huggingface/transformers v4.49.0 src/transformers/modeling_flax_pytorch_utils.py rename_key_and_reshape_tensor.
"""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.hf_beit import HF_BEIT
from anyvit.dialects.hf_clip import HF_CLIP
from anyvit.dialects.hf_dinov2 import HF_DINOV2
from anyvit.dialects.hf_vit import HF_VIT
from anyvit.retold import retold
from anyvit.rules import Dialect


def flax(dialect: Dialect, model: str, file: str) -> Dialect:
    """The dialect of the same model in flax."""
    return replace(
        dialect,
        name=dialect.name + "-flax",
        rules=retold(dialect.rules, "scale|bias", "embedding", str),
        source=f"huggingface/transformers v4.49.0: models/{file}, modeling_flax_pytorch_utils.py",
        title=f"transformers {model} (flax)",
        container="msgpack",
        also=(),
    )


HF_VIT_FLAX = flax(HF_VIT, "FlaxViTModel", "vit/modeling_flax_vit.py")
HF_CLIP_FLAX = flax(HF_CLIP, "FlaxCLIPModel", "clip/modeling_flax_clip.py")
HF_BEIT_FLAX = flax(HF_BEIT, "FlaxBeitModel", "beit/modeling_flax_beit.py")
HF_DINOV2_FLAX = flax(HF_DINOV2, "FlaxDinov2Model", "dinov2/modeling_flax_dinov2.py")

DIALECTS = (HF_VIT_FLAX, HF_CLIP_FLAX, HF_BEIT_FLAX, HF_DINOV2_FLAX)
