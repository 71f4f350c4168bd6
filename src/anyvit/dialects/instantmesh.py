"""InstantMesh's image encoder: a DINO ViT in Hugging Face's names, conditioned on the camera by AdaLN."""

from __future__ import annotations

from anyvit.dialects.hf_vit import EMBEDDINGS, LAYER, LAYERS
from anyvit.dialects.timm import QKV, ROWS, B
from anyvit.rules import Dialect, R

_PARTS = B + "adaln.[shift1|scale1|shift2|scale2]"

INSTANTMESH = Dialect(
    "instantmesh",
    (
        *EMBEDDINGS,
        *LAYERS,
        R("layernorm.{p}", "norm.{p}"),
        R(LAYER + "adaLN_modulation.1.weight", _PARTS + ".weight", "(parts d1) d2 -> parts d1 d2"),
        R(LAYER + "adaLN_modulation.1.bias", _PARTS + ".bias", QKV),
        R("../camera_embedder.<0|2>.{p}", "condition.<fc1|fc2>.{p}"),
    ),
    source="TencentARC/InstantMesh src/models/encoder/dino.py, dino_wrapper.py",
    title="InstantMesh image encoder",
    lineage="instantmesh",
    root="lrm_generator.encoder.model.",
    container="torch",
    requires=(*ROWS, "norm.weight"),
)

DIALECTS = (INSTANTMESH,)
