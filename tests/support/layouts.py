"""Names and shapes of released models, generated from a few lines each: no file, no weights.

A layout is a text of lines `name: axes`; axes are arithmetic in the given sizes, `{i}` counts the blocks, `{p}` stands
for weight and bias (which has the first axis alone). The names are those of each project's own code, which the table
in `released.py` names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Shapes = dict[str, tuple[int, ...]]


def spread(text: str, depth: int = 0, **sizes: int) -> Shapes:
    """Every name of a layout with its shape.

    Example:
        >>> spread("blocks.{i}.norm.{p}: d", 1, d=3)
        {'blocks.0.norm.weight': (3,), 'blocks.0.norm.bias': (3,)}
    """
    found: Shapes = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, axes = line.partition(": ")
        shape = tuple(int(eval(axis, {}, dict(sizes))) for axis in axes.split())
        for number in range(depth) if "{i}" in name else (0,):
            for part, cut in (("weight", None), ("bias", 1)) if "{p}" in name else (("", None),):
                found[name.replace("{i}", str(number)).replace("{p}", part)] = shape[:cut]
    return found


def under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def without(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not re.search(pattern, name)}


def respelt(shapes: Mapping[str, tuple[int, ...]], *pairs: tuple[str, str]) -> Shapes:
    found = dict(shapes)
    for pattern, text in pairs:
        found = {re.sub(pattern, text, name): shape for name, shape in found.items()}
    return found


NORMS = "".join(f"blocks.{{i}}.{part}: d\n" for part in ("norm1.{p}", "norm2.{p}"))
BLOCKS = NORMS + "blocks.{i}.attn.qkv.{p}: 3*d d\nblocks.{i}.attn.proj.{p}: d d\n"
MLPS = {
    "mlp": "blocks.{i}.mlp.fc1.{p}: m d\nblocks.{i}.mlp.fc2.{p}: d m\n",
    "packed": "blocks.{i}.mlp.fc1.{p}: 2*m d\nblocks.{i}.mlp.fc2.{p}: d m\n",
    "w12": "blocks.{i}.mlp.w12.{p}: 2*m d\nblocks.{i}.mlp.w3.{p}: d m\n",
}
LAYER_SCALE = "blocks.{i}.ls1.gamma: d\nblocks.{i}.ls2.gamma: d\n"


def timm(
    d: int = 768, depth: int = 12, m: int = 0, p: int = 16, grid: tuple[int, int] = (14, 14), *, c: int = 3, cls: int = 1,
    rows: int | None = None, registers: str = "", scale: str = "", mlp: str = "mlp", more: str = "norm.{p}: d", **sizes: int,
) -> Shapes:  # fmt: skip
    """timm's VisionTransformer, whose names DINO, MAE, DINOv2, SAM and others share.

    Arguments:
        rows: rows of the position table beside the grid's; None for one a class token.
        registers: a line for the registers.
        scale: lines for LayerScale.
        more: lines for what comes after the blocks.
    """
    text = "cls_token: 1 cls d\n" * bool(cls) + "pos_embed: 1 n d\npatch_embed.proj.{p}: d c p p\n" + registers + "\n"
    text += BLOCKS + MLPS[mlp] + scale + more
    n = grid[0] * grid[1] + (cls if rows is None else rows)
    return spread(text, depth, d=d, m=m or 4 * d, p=p, c=c, cls=cls, n=n, **sizes)


def dinov2(
    d: int = 1024, depth: int = 24, p: int = 14, side: int = 37, r: int = 0, *, m: int = 0, mlp: str = "mlp"
) -> Shapes:
    more = "norm.{p}: d\nmask_token: 1 d\n" + f"register_tokens: 1 {r} d\n" * bool(r)
    return timm(d, depth, m, p, (side, side), scale=LAYER_SCALE, mlp=mlp, more=more)


def mae_decoder(d: int = 1024, side: int = 14, p: int = 16) -> Shapes:
    text = BLOCKS.replace("blocks", "decoder_blocks") + MLPS["mlp"].replace("blocks", "decoder_blocks")
    text += "mask_token: 1 1 d\ndecoder_pos_embed: 1 n d\ndecoder_embed.{p}: d w\ndecoder_norm.{p}: d\ndecoder_pred.{p}: p*p*3 d"
    return spread(text, 8, d=512, m=2048, n=side * side + 1, w=d, p=p)


RESBLOCKS = """
transformer.resblocks.{i}.ln_1.{p}: d
transformer.resblocks.{i}.attn.in_proj_weight: 3*d d
transformer.resblocks.{i}.attn.in_proj_bias: 3*d
transformer.resblocks.{i}.attn.out_proj.{p}: d d
transformer.resblocks.{i}.ln_2.{p}: d
transformer.resblocks.{i}.mlp.c_fc.{p}: 4*d d
transformer.resblocks.{i}.mlp.c_proj.{p}: d 4*d
"""


def clip(d: int = 768, depth: int = 12, p: int = 16, side: int = 14, o: int = 512, tower: str = "visual.") -> Shapes:
    """OpenAI's CLIP: the image tower and two blocks of the text tower."""
    text = "conv1.weight: d 3 p p\nclass_embedding: d\npositional_embedding: side*side+1 d\nln_pre.{p}: d\nln_post.{p}: d\nproj: d o"
    words = "positional_embedding: 77 d\ntext_projection: d d\nlogit_scale: \ntoken_embedding.weight: 49408 d\nln_final.{p}: d"
    image = under(tower, spread(text + RESBLOCKS, depth, d=d, p=p, side=side, o=o))
    return image | (spread(words + RESBLOCKS, 2, d=512) if tower else {})


HF_LAYERS = """
encoder.layers.{i}.layer_norm1.{p}: d
encoder.layers.{i}.layer_norm2.{p}: d
encoder.layers.{i}.self_attn.q_proj.{p}: d d
encoder.layers.{i}.self_attn.k_proj.{p}: d d
encoder.layers.{i}.self_attn.v_proj.{p}: d d
encoder.layers.{i}.self_attn.out_proj.{p}: d d
encoder.layers.{i}.mlp.fc1.{p}: m d
encoder.layers.{i}.mlp.fc2.{p}: d m
post_layernorm.{p}: d
"""


def hf_clip(d: int = 1024, depth: int = 24, p: int = 14, side: int = 24) -> Shapes:
    text = "embeddings.class_embedding: d\nembeddings.patch_embedding.weight: d 3 p p\nembeddings.position_embedding.weight: side*side+1 d"
    return spread(text + "\npre_layrnorm.{p}: d" + HF_LAYERS, depth, d=d, m=4 * d, p=p, side=side)


def hf_siglip(d: int = 1152, depth: int = 27, p: int = 14, side: int = 27, m: int = 4304) -> Shapes:
    text = "embeddings.patch_embedding.{p}: d 3 p p\nembeddings.position_embedding.weight: side*side d"
    return spread(text + HF_LAYERS, depth, d=d, m=m, p=p, side=side)


HF_STEM = "embeddings.cls_token: 1 1 d\nembeddings.position_embeddings: 1 n d\nembeddings.patch_embeddings.projection.{p}: d 3 p p\n"
HF_ATTENTION = "".join(
    f"encoder.layer.{{i}}.attention.attention.{part}.{{p}}: d d\n" for part in ("query", "key", "value")
)
HF_ATTENTION += "encoder.layer.{i}.attention.output.dense.{p}: d d\nlayernorm.{p}: d\n"


def hf_vit(d: int = 768, depth: int = 12, p: int = 16, side: int = 14) -> Shapes:
    text = HF_STEM + HF_ATTENTION
    text += "".join(f"encoder.layer.{{i}}.layernorm_{when}.{{p}}: d\n" for when in ("before", "after"))
    text += "encoder.layer.{i}.intermediate.dense.{p}: 4*d d\nencoder.layer.{i}.output.dense.{p}: d 4*d\n"
    return spread(text, depth, d=d, p=p, n=side * side + 1)


def hf_dinov2(
    d: int = 768, depth: int = 12, p: int = 14, side: int = 37, r: int = 0, m: int = 0, gated: bool = False
) -> Shapes:
    text = HF_STEM + HF_ATTENTION + "embeddings.mask_token: 1 d\n" + f"embeddings.register_tokens: 1 {r} d\n" * bool(r)
    text += "".join(
        f"encoder.layer.{{i}}.norm{n}.{{p}}: d\nencoder.layer.{{i}}.layer_scale{n}.lambda1: d\n" for n in (1, 2)
    )
    if gated:
        text += "encoder.layer.{i}.mlp.weights_in.{p}: 2*m d\nencoder.layer.{i}.mlp.weights_out.{p}: d m\n"
    else:
        text += "encoder.layer.{i}.mlp.fc1.{p}: m d\nencoder.layer.{i}.mlp.fc2.{p}: d m\n"
    return spread(text, depth, d=d, m=m or 4 * d, p=p, n=side * side + 1)


def internvit(d: int = 1024, depth: int = 24, m: int = 4096, side: int = 32, big: bool = False) -> Shapes:
    text = "embeddings.class_embedding: 1 1 d\nembeddings.position_embedding: 1 side*side+1 d\nembeddings.patch_embedding.{p}: d 3 14 14\n"
    blocks = (BLOCKS + MLPS["mlp"]).replace("blocks.", "encoder.layers.")
    text += blocks + "encoder.layers.{i}.ls1: d\nencoder.layers.{i}.ls2: d\n"
    text += "encoder.layers.{i}.attn.q_norm.weight: d\nencoder.layers.{i}.attn.k_norm.weight: d\n" * big
    shapes = spread(text, depth, d=d, m=m, side=side)
    return without(shapes, r"qkv\.bias|norm\d\.bias") if big else shapes


def sam(
    d: int = 768, depth: int = 12, whole: tuple[int, ...] = (2, 5, 8, 11), head: int = 64, side: int = 64
) -> Shapes:
    text = "pos_embed: 1 s s d\npatch_embed.proj.{p}: d 3 16 16\n" + BLOCKS + MLPS["mlp"].replace("fc", "lin")
    text += "neck.0.weight: 256 d 1 1\nneck.1.{p}: 256\nneck.2.weight: 256 256 3 3\nneck.3.{p}: 256"
    shapes = spread(text, depth, d=d, m=4 * d, s=side)
    for number in range(depth):
        rows = 2 * (side if number in whole else 14) - 1
        shapes |= {f"blocks.{number}.attn.rel_pos_{axis}": (rows, head) for axis in "hw"}
    return shapes


def croco(d: int = 1024, depth: int = 24, w: int = 768, behind: int = 12) -> Shapes:
    text = "patch_embed.proj.{p}: d 3 16 16\nmask_token: 1 1 w\nenc_norm.{p}: d\ndecoder_embed.{p}: w d\n"
    encoder = text + (BLOCKS + MLPS["mlp"]).replace("blocks", "enc_blocks")
    decoder = (BLOCKS + MLPS["mlp"]).replace("blocks", "dec_blocks")
    decoder += "dec_blocks.{i}.cross_attn.projq.{p}: d d\ndec_blocks.{i}.norm3.{p}: d\ndec_norm.{p}: d"
    return spread(encoder, depth, d=d, m=4 * d, w=w) | spread(decoder, behind, d=w, m=4 * w)


def language_model(prefix: str = "language_model.model.") -> Shapes:
    text = "embed_tokens.weight: 151655 d\nlayers.{i}.input_layernorm.weight: d\nnorm.weight: d\n"
    text += "".join(f"layers.{{i}}.self_attn.{part}_proj.weight: d d\n" for part in "qkvo")
    text += "layers.{i}.mlp.gate_proj.weight: 4*d d\nlayers.{i}.mlp.up_proj.weight: 4*d d\nlayers.{i}.mlp.down_proj.weight: d 4*d"
    return under(prefix, spread(text, 2, d=896))
