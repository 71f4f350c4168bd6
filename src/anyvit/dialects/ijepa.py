"""Meta's I-JEPA: no class token, a stored sin-cos table without prefix rows."""

from __future__ import annotations

from anyvit.dialects.timm import BASE
from anyvit.rules import Dialect, R, without

IJEPA = Dialect(
    "ijepa",
    (
        *without(BASE, "dist_token", "cls_token", "pos_embed", "head.{p}"),
        R("pos_embed", "embed.pos", "1 n d -> n d"),
    ),
    source="facebookresearch/ijepa src/models/vision_transformer.py",
    title="I-JEPA",
    lineage="ijepa",
    container="torch",
)

DIALECTS = (IJEPA,)
