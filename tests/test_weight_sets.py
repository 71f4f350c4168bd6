"""Which of several weight sets is read: by whole words, by parts of compound words, never a copy by momentum."""

from __future__ import annotations

import pytest
from support.layouts import timm, under
from support.truth import never

from anyvit import api
from anyvit.errors import BadArgument
from anyvit.lazy import Checkpoint, Lazy
from anyvit.report import Report

VIT = timm(192, 2)


def said(*prefixes: str, weights: str | None = None) -> Report:
    shapes = {name: shape for prefix in prefixes for name, shape in under(prefix, VIT).items()}
    tensors = {name: Lazy(shape, "float32", never, (name,)) for name, shape in shapes.items()}
    return api.inspect(Checkpoint(tensors, "torch"), weights=weights)


@pytest.mark.parametrize(
    ("read", "left", "why"),
    [
        ("visual_encoder.", "visual_encoder_m.", ""),  # ALBEF, BLIP
        ("backbone.", "momentum_backbone.", ""),  # solo-learn
        ("encoder.", "encoder_momentum.", ""),
        ("teacher_backbone.", "student_backbone.", "the teacher"),  # lightly
        ("net_ema.", "net.", "averaged weights"),
        ("target_network.backbone.", "online_network.backbone.", "the target"),  # BYOL
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_k.", ""),  # MoCo v2
        ("model.", "model_ema.", "the scripts of this family"),  # DeiT
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_set_that_its_authors_evaluate(read: str, left: str, why: str, turned: bool) -> None:
    report = said(*((left, read) if turned else (read, left)))
    assert report.ok and report.match is not None and report.match.prefix == read
    (finding,) = report.of("weights")
    assert left in finding.names and why in finding.cause
    other = said(read, left, weights=left.rstrip("."))
    assert other.match is not None and other.match.prefix == left


def test_equal_ones_are_a_question() -> None:
    report = said("vit_a.", "vit_b.")
    assert not report.ok and 'weights="vit_' in str(report.error())
    with pytest.raises(BadArgument, match="vit_c"):
        said("vit_a.", "vit_b.", weights="vit_c")
