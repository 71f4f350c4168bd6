"""Readings that nothing in a file tells apart are assumed, and a finding names the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.layouts import LAYER_SCALE, Shapes, hf_clip, hf_siglip, timm, under
from support.truth import never

from anyvit import api
from anyvit.dialects import get
from anyvit.dialects.lineages import family
from anyvit.lazy import Checkpoint, Lazy
from anyvit.reading import Ask, understand
from anyvit.report import Report
from anyvit.twins import TWINS

GAMMAS = LAYER_SCALE.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
ROTATED = timm(rows=0, scale=GAMMAS)
"""timm's vit_base_patch16_rope_ape_224, and DeiT-III's ViT-B."""


def said(shapes: Shapes, container: str = "safetensors", **ask: str) -> Report:
    tensors = {name: Lazy(shape, "float32", never, (name,)) for name, shape in shapes.items()}
    return understand(Checkpoint(tensors, container), Ask(**ask)).report()


def others(report: Report, field: str) -> list[str]:
    return [
        finding.cause
        for finding in report.of("assumed")
        if finding.names == (field,) and "could also be" not in finding.cause
    ]


@pytest.mark.parametrize(
    ("container", "kind", "other"),
    [("safetensors", "learned+rope", "DeiT-III has the same names"), ("torch", "learned", "vit_*_rope_ape")],
)
def test_rotated_or_not(container: str, kind: str, other: str) -> None:
    report = said(ROTATED, container)
    assert report.ok and report.spec is not None and report.spec.pos_embed == kind
    assert report.spec.facts["pos_embed"].how == "assumed"
    assert [other in cause for cause in others(report, "pos_embed")] == [True]
    assert report.of("assumed")[0].remedy is not None


def test_deits_own_script_leaves_no_doubt() -> None:
    report = said(under("model.", ROTATED), "torch")
    assert report.spec is not None and report.spec.pos_embed == "learned" and not others(report, "pos_embed")


@pytest.mark.parametrize("dialect", ["deit3", "timm-eva-rope"])
def test_who_names_the_dialect_is_not_asked(dialect: str) -> None:
    report = said(ROTATED, dialect=dialect)
    assert report.spec is not None and not others(report, "pos_embed")
    assert ("rope" in report.spec.pos_embed) == (dialect == "timm-eva-rope")


def test_a_siglip_tower_alone_may_be_a_rotated_one() -> None:
    alone = said(under("vision_model.", hf_siglip()))
    assert alone.ok and [("PaddleOCR-VL" in cause) for cause in others(alone, "pos_embed")] == [True]
    beside = said(under("vision_model.", hf_siglip()) | {"logit_scale": (1,), "text_model.head.weight": (8, 8)})
    assert beside.ok and not others(beside, "pos_embed")
    assert not others(said(under("vision_model.", hf_siglip(768, 12, m=3072))), "pos_embed"), (
        "PaddleOCR-VL's is 1152 wide"
    )


def test_a_clip_tower_alone_may_be_gits(tmp_path: Path) -> None:
    shapes = under("vision_model.", hf_clip(64, 2, 4, 3))
    report = said(shapes)
    assert report.spec is not None and not report.spec.tokens_normed
    assert [("GIT" in cause) for cause in others(report, "tokens_normed")] == [True]
    safetensors = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    safetensors.save_file({n: numpy.ones(s, "float32") for n, s in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip_vision_model", "hidden_size": 64, "num_attention_heads": 4})
    )
    told = api.inspect(tmp_path)
    assert told.ok and not others(told, "tokens_normed")


def test_every_row_names_dialects_that_there_are() -> None:
    for twin in TWINS:
        for name in twin.dialects:
            assert family(name) == name
        if twin.remedy and twin.remedy.startswith("dialect="):
            get(twin.remedy.split('"')[1])
