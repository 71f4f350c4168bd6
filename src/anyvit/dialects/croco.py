"""Naver's CroCo and DUSt3R (and MASt3R): the encoder; decoders and heads are outside."""

from __future__ import annotations

from anyvit.dialects.timm import BASE, B
from anyvit.rules import Dialect, R, without

DECODER = "outside: decoder"
HEAD = "outside: head of the decoder"
D = "<dec_blocks|dec_blocks2>.{i}."
H = "<downstream_head1|downstream_head2>."
S = H + "dpt.scratch."
UNITS = "<refinenet1|refinenet2|refinenet3|refinenet4>"

ENCODER = (
    R("patch_embed.proj.{p}", "embed.patch.{p}"),
    R("enc_pos_embed", "embed.pos"),
    *(
        R(rule.theirs.replace(B, "enc_blocks.{i}."), rule.ours, rule.axes)
        for rule in without(BASE)
        if rule.theirs.startswith(B)
    ),
    R("enc_norm.{p}", "norm.{p}"),
)
OUTSIDE = (
    R("mask_token", None, why="outside: stands for masked patches in the decoder"),
    R("dec_pos_embed", None, why=DECODER),
    R("<decoder_embed|dec_norm|prediction_head>.{p}", None, why=DECODER),
    R(D + "<norm1|norm2|norm3|norm_y>.{p}", None, why=DECODER),
    R(D + "attn.<qkv|proj>.{p}", None, why=DECODER),
    R(D + "cross_attn.<projq|projk|projv|proj>.{p}", None, why=DECODER),
    R(D + "mlp.<fc1|fc2>.{p}", None, why=DECODER),
    R(H + "proj.{p}", None, why=HEAD),
    R(H + "head_local_features.<fc1|fc2>.{p}", None, why=HEAD),
    R(H + "dpt.act_postprocess.{i}.{j}.{p}", None, why=HEAD),
    R(H + "dpt.head.{i}.{p}", None, why=HEAD),
    R(S + "<layer1_rn|layer2_rn|layer3_rn|layer4_rn>.{p}", None, why=HEAD),
    R(S + "layer_rn.{i}.{p}", None, why=HEAD),
    R(S + UNITS + ".out_conv.{p}", None, why=HEAD),
    R(S + UNITS + ".<resConfUnit1|resConfUnit2>.<conv1|conv2>.{p}", None, why=HEAD),
)

CROCO = Dialect(
    "croco",
    (*ENCODER, *OUTSIDE),
    source="naver/croco models/croco.py; naver/dust3r dust3r/model.py, dust3r/heads",
    title="CroCo, DUSt3R, MASt3R",
    lineage="croco",
    container="torch",
)

DIALECTS = (CROCO,)
