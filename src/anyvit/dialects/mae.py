"""Meta's MAE: pre-trained with or without its decoder, fine-tuned, and with a linear probe on a BatchNorm."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, ROWS
from anyvit.rules import Dialect, R, without

DECODER = "outside: decoder of pre-training"
D = "decoder_blocks.{i}."

ENCODER = (*without(BASE, "dist_token", "head.{p}"), R("fc_norm.{p}", "fc_norm.{p}"))
PRETRAINING = (
    R("mask_token", None, why="outside: stands for masked patches in the decoder"),
    R("<decoder_embed|decoder_norm|decoder_pred>.{p}", None, why=DECODER),
    R("decoder_pos_embed", None, why=DECODER),
    R(D + "<norm1|norm2>.{p}", None, why=DECODER),
    R(D + "attn.<qkv|proj>.{p}", None, why=DECODER),
    R(D + "mlp.<fc1|fc2>.{p}", None, why=DECODER),
)
COUNT = "number of batches seen; the probe's norm does not use it"

MAE = Dialect(
    "mae",
    (*ENCODER, *PRETRAINING, R("head.{p}", "head.{p}")),
    source="facebookresearch/mae models_mae.py, models_vit.py",
    title="MAE",
    lineage="mae-finetuned",
    container="torch",
    requires=ROWS,
)
MAE_LINPROBE = Dialect(
    "mae-linprobe",
    (
        *ENCODER,
        R("head.0.<running_mean|running_var>", "head_norm.<mean|var>"),
        R("head.0.num_batches_tracked", None, why=COUNT),
        R("head.1.{p}", "head.{p}"),
    ),
    source="facebookresearch/mae main_linprobe.py: head = Sequential(BatchNorm1d(affine=False), Linear)",
    title="MAE with a linear probe",
    lineage="mae-finetuned",
    container="torch",
    requires=ROWS,
)

DIALECTS = (MAE, MAE_LINPROBE)
