"""ByteDance's iBOT: DINO's names and a mask token."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, B
from anyvit.rules import Dialect, R, without

IBOT = Dialect(
    "ibot",
    (
        *without(BASE, "dist_token"),
        R("masked_embed", "embed.mask", "1 d -> d"),
        R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
        R("fc_norm.{p}", "fc_norm.{p}"),
    ),
    source="bytedance/ibot models/vision_transformer.py",
    title="iBOT",
    lineage="ibot",
    container="torch",
)

DIALECTS = (IBOT,)
