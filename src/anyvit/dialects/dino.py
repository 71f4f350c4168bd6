"""DINO's own names: timm's first ones, with its projection head beside the backbone."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, ROWS
from anyvit.rules import Dialect, R, without

DINO = Dialect(
    "dino",
    (
        *without(BASE, "dist_token"),
        R("../head.mlp.{i}.{p}", None, why="outside: projection head of pre-training"),
        R("../head.last_layer.<weight|weight_g|weight_v>", None, why="outside: prototypes of pre-training"),
    ),
    source="facebookresearch/dino vision_transformer.py, utils.py (MultiCropWrapper)",
    title="DINO",
    lineage="dino",
    tower="backbone.",
    container="torch",
    requires=(*ROWS, "norm.weight"),
)

DIALECTS = (DINO,)
