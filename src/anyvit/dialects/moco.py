"""Meta's MoCo v3: base and momentum encoder with a projector, or a linear classifier on top."""

from __future__ import annotations

from anyvit.dialects.timm import BASE
from anyvit.rules import Dialect, R, without

PROJECTOR = "outside: projector of pre-training"

MOCO = Dialect(
    "moco",
    (
        *without(BASE, "dist_token"),
        R("head.<0|3|6>.{p}", None, why=PROJECTOR),
        R("head.<1|4|7>.<weight|bias|running_mean|running_var|num_batches_tracked>", None, why=PROJECTOR),
    ),
    source="facebookresearch/moco-v3 vits.py, moco/builder.py _build_mlp",
    title="MoCo v3",
    lineage="moco-v3",
    container="torch",
    prefix_rows="cls",
)

DIALECTS = (MOCO,)
