"""Meta's MSN: DeiT with a projection head in place of the classifier."""

from __future__ import annotations

from anyvit.dialects.timm import BASE
from anyvit.rules import Dialect, R, without

HEAD = "outside: projection head of pre-training"

MSN = Dialect(
    "msn",
    (
        *without(BASE, "dist_token", "head.{p}"),
        R("fc.<fc1|fc2|fc3>.{p}", None, why=HEAD),
        R("fc.<bn1|bn2>.<weight|bias|running_mean|running_var|num_batches_tracked>", None, why=HEAD),
    ),
    source="facebookresearch/msn src/deit.py, src/msn_train.py",
    title="MSN",
    lineage="msn",
    container="torch",
    prefix_rows="cls",
)

DIALECTS = (MSN,)
