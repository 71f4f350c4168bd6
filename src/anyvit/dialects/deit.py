"""Meta's DeiT (with or without distillation) and DeiT III, whose position table has no row for the class token."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, ROWS, B
from anyvit.rules import Dialect, R, without

DEIT = Dialect(
    "deit",
    (*BASE, R("head_dist.{p}", "head_dist.{p}")),
    source="facebookresearch/deit models.py",
    title="DeiT",
    lineage="deit",
    container="torch",
    requires=ROWS,
)
DEIT3 = Dialect(
    "deit3",
    (
        *without(BASE, "dist_token", "pos_embed"),
        R("pos_embed", "embed.pos", "1 n d -> n d"),
        R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
    ),
    source="facebookresearch/deit models_v2.py",
    title="DeiT III",
    lineage="deit",
    container="torch",
)

DIALECTS = (DEIT, DEIT3)
