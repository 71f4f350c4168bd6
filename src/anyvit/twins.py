"""Models that share names and shapes and compute otherwise: which is read where nothing tells them apart, and the other.

A config beside the weights, or the dialect that a caller names, decides; without one the likelier reading is taken, its
fact is *assumed*, and a finding names the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyvit.dialects.lineages import Scene, family
from anyvit.report import Finding
from anyvit.spec import Spec


@dataclass(frozen=True)
class Twin:
    """One reading that names and shapes do not tell from another.

    Arguments:
        dialects: the spellings in which it comes.
        field: the Spec field that differs.
        reading: what is taken for granted.
        other: what it could be too.
        when: signs (see `lineages`), all of which must hold.
        alone: whether the tower must be all that the file holds; beside its own language model each is known.
        remedy: what to type for the other reading.
    """

    dialects: tuple[str, ...]
    field: str
    reading: str
    other: str
    when: tuple[str, ...] = ()
    alone: bool = False
    remedy: str | None = None


TWINS: tuple[Twin, ...] = (
    Twin(
        ("timm-eva",), "pos_embed", "positions are rotated beside the table, as timm's vit_*_rope_ape models do",
        "DeiT-III has the same names, and no rotation", ("canon embed.pos", "canon blocks.{i}.ls1",
        "canon blocks.{i}.attn.k.bias", "no rope.freqs", "no embed.reg", "no embed.norm.weight"), remedy='dialect="deit3"',
    ),
    Twin(
        ("deit3",), "pos_embed", "positions are those of the table alone, as in DeiT-III",
        "timm's vit_*_rope_ape models have the same names and rotate queries and keys too",
        ("prefix ^(?!model(_ema)?\\.)", "canon embed.pos", "canon blocks.{i}.ls1"), remedy='dialect="timm-eva-rope"',
    ),
    Twin(
        ("timm-eva",), "pos_embed", "positions are rotated beside the table, as timm's vit_pe_spatial_* models do",
        "timm's CLIP towers have the same names where the final norm is lost", ("canon embed.norm.weight", "canon embed.pos",
        "no norm.weight", "no blocks.{i}.ls1"), remedy="get the whole file, if it is a CLIP tower",
    ),
    Twin(
        ("hf-siglip",), "pos_embed", "positions are those of the table alone, as in SigLIP",
        "PaddleOCR-VL's and VideoLLaMA 3's towers have the same names and rotate queries and keys too",
        ("width 1152", "no pool.query", "no head.weight"), alone=True, remedy="keep the config.json beside the weights",
    ),
    Twin(
        ("hf-clip", "hf-clip-memory"), "tokens_normed", "tokens stand before post_layernorm, as CLIP's last_hidden_state does",
        "GIT's tower has the same names, and its tokens stand after that norm",
        ("no proj.weight", "no head.weight", "canon norm.weight"),
        alone=True, remedy="keep the config.json beside the weights",
    ),
)  # fmt: skip
"""Source: timm/models/eva.py vit_*_rope_ape_*, vit_pe_spatial_*; deit/models_v2.py; transformers models/{paddleocr_vl,
video_llama_3,git}."""


def told(spec: Spec, scene: Scene, alone: bool) -> tuple[Spec, list[Finding]]:
    """A Spec whose undecided facts are marked as assumed, and the findings that name the other readings.

    Arguments:
        spec: what names and shapes told.
        scene: what signs are looked up in.
        alone: whether the file holds nothing but the tower.
    """
    findings = []
    for twin in TWINS:
        if family(spec.dialect) not in twin.dialects or (twin.alone and not alone):
            continue
        if all(scene.holds(sign) for sign in twin.when):
            spec = spec.with_facts(
                "assumed", f"{twin.reading}; {twin.other}", **{twin.field: getattr(spec, twin.field)}
            )
            findings.append(Finding("assumed", (twin.field,), f"{twin.reading}; {twin.other}", twin.remedy))
    return spec, findings
