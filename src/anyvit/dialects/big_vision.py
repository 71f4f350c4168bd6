"""Google's big_vision (ViT, FlexiViT, SigLIP): flax linen names, one module a block or all blocks scanned into one.

SigLIP's two towers lie under `params/img/` and `params/txt/`; the image tower's names are these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anyvit.dialects.timm import POS, B
from anyvit.rules import Dialect, R, Rule, without

E = "Transformer/encoderblock_{i}/"
M = "MultiHeadDotProductAttention_0/"
OLD = "before 2022; fix_old_checkpoints of big_vision/models/vit.py"


def _attention(theirs: str, ours: str, why: str = "") -> tuple[Rule, ...]:
    old = {"why": why, "reads_only": bool(why)}
    return (
        R(theirs + M + "<query|key|value>/kernel", ours + "<q|k|v>.weight", "d heads e -> (heads e) d", **old),
        R(theirs + M + "<query|key|value>/bias", ours + "<q|k|v>.bias", "heads e -> (heads e)", **old),
        R(theirs + M + "out/kernel", ours + "out.weight", "heads e d -> d (heads e)", **old),
        R(theirs + M + "out/bias", ours + "out.bias", **old),
    )


def _mlp(theirs: str, ours: str, why: str = "") -> tuple[Rule, ...]:
    old = {"why": why, "reads_only": bool(why)}
    return (
        R(theirs + "MlpBlock_0/<Dense_0|Dense_1>/kernel", ours + "<fc1|fc2>.weight", "i o -> o i", **old),
        R(theirs + "MlpBlock_0/<Dense_0|Dense_1>/bias", ours + "<fc1|fc2>.bias", **old),
    )


def _map_head(theirs: str, why: str = "") -> tuple[Rule, ...]:
    old = {"why": why, "reads_only": bool(why)}
    return (
        R(theirs + "probe", "pool.query", "1 s d -> s d", **old),
        *_attention(theirs, "pool.", why),
        R(theirs + "LayerNorm_0/<scale|bias>", "pool.norm.{p}", **old),
        *_mlp(theirs, "pool.mlp.", why),
    )


BLOCK = (
    R(E + "<LayerNorm_0|LayerNorm_1>/<scale|bias>", B + "<norm1|norm2>.{p}"),
    *_attention(E, B + "attn."),
    *_mlp(E, B + "mlp."),
)
REST = (
    R("embedding/kernel", "embed.patch.weight", "p q c d -> d c p q"),
    R("embedding/bias", "embed.patch.bias"),
    R("cls", "embed.cls", "1 t d -> t d"),
    R("pos_embedding", "embed.[pos_prefix|pos]", POS),
    R("Transformer/posembed_input/pos_embedding", "embed.[pos_prefix|pos]", POS, OLD, reads_only=True),
    R("Transformer/pos_embedding", "embed.[pos_prefix|pos]", POS, OLD, reads_only=True),
    R("Transformer/encoder_norm/<scale|bias>", "norm.{p}"),
    *_map_head("MAPHead_0/"),
    *_map_head("", OLD),
    R("<pre_logits|head>/kernel", "<pre_logits|head>.weight", "d o -> o d"),
    R("<pre_logits|head>/bias", "<pre_logits|head>.bias"),
)


def scanned(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules of blocks as flax's `nn.scan` stacks them: one tensor for all blocks, the block its first axis."""
    return tuple(
        replace(
            rule,
            theirs=rule.theirs.replace("encoderblock_{i}", "encoderblock"),
            ours=(rule.ours or "").replace("blocks.{i}", "blocks.[i]"),
            axes=" -> ".join("layers " + side.strip() for side in (rule.axes or "... -> ...").split("->")),
        )
        for rule in rules
    )


BIG_VISION = Dialect(
    "big_vision",
    (*BLOCK, *REST),
    source="google-research/big_vision big_vision/models/vit.py",
    title="big_vision (ViT, FlexiViT, SigLIP)",
    lineage="big_vision",
    root="params/",
    container="npz",
    prefix_rows="none",  # "Add posemb before adding extra token"
    computes=True,
)
BIG_VISION_SCAN = replace(
    BIG_VISION,
    name="big_vision-scan",
    rules=(*scanned(BLOCK), *REST),
    title="big_vision with scanned blocks (SigLIP 2)",
)
BIG_VISION_NAFLEX = replace(
    BIG_VISION,
    name="big_vision-naflex",
    rules=(
        *without(
            BIG_VISION,
            "embedding/kernel",
            "cls",
            "pos_embedding",
            "Transformer/posembed_input/pos_embedding",
            "Transformer/pos_embedding",
        ),
        R("embedding/kernel", "embed.patch.weight", "(p1 p2 c) d -> d c p1 p2"),
        R("pos_embedding", "embed.pos", "gh gw d -> (gh gw) d"),
    ),
    source="google-research/big_vision big_vision/models/proj/image_text/naflex_vit.py",
    title="big_vision NaFlex (SigLIP 2): Dense on patches flattened row, column, channel",
    sizes={"c": 3},
)


def towers(one: Dialect, name: str) -> Dialect:
    """The image tower of two: its head projects into the joint space.

    Source: big_vision/models/proj/image_text/two_towers.py: num_classes of the image tower is out_dim.
    """
    return replace(
        one,
        name=name,
        rules=(
            *without(one, "<pre_logits|head>/kernel", "<pre_logits|head>/bias"),
            R("pre_logits/kernel", "pre_logits.weight", "d o -> o d"),
            R("pre_logits/bias", "pre_logits.bias"),
            R("head/kernel", "proj.weight", "d o -> o d"),
            R("head/bias", "proj.bias"),
        ),
        source="google-research/big_vision big_vision/models/proj/image_text/two_towers.py",
        title=one.title + ": an image tower whose head projects into a joint space",
        lineage="two_towers",
        prefix_rows="any",
        computes=False,
    )


TOWERS = towers(BIG_VISION, "two_towers")
TOWERS_SCAN = towers(BIG_VISION_SCAN, "two_towers-scan")

DIALECTS = (BIG_VISION, BIG_VISION_SCAN, BIG_VISION_NAFLEX, TOWERS, TOWERS_SCAN)
