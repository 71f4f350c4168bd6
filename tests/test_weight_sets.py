"""Which of several weight sets is read: by whole words, by parts of compound words, never a copy by momentum."""

from __future__ import annotations

import tempfile
from pathlib import Path

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


@pytest.mark.parametrize(
    ("whole", "cut", "why"),
    [("student.", "teacher.", "the teacher"), ("encoder.module.", "target_encoder.module.", "target encoder"),
     ("model.", "teacher.", "the teacher")],
)  # fmt: skip
def test_a_set_that_lost_its_patch_kernel_does_not_give_way_in_silence(whole: str, cut: str, why: str) -> None:
    lost = next(name for name in under(cut, VIT) if name.endswith("patch_embed.proj.weight"))
    shapes = {n: s for prefix in (whole, cut) for n, s in under(prefix, VIT).items() if n != lost}
    checkpoint = Checkpoint({n: Lazy(s, "float32", never, (n,)) for n, s in shapes.items()}, "torch")
    report = api.inspect(checkpoint)
    (finding,) = report.of("missing")
    assert not report.ok and finding.fatal and finding.names == (lost,) and why in finding.cause
    word = whole.split(".")[0]
    assert f'weights="{word}"' in str(finding.remedy) and api.inspect(checkpoint, weights=word).ok


def test_a_set_that_is_not_preferred_may_be_cut() -> None:
    shapes = {**under("teacher.", VIT), **under("student.", VIT)}
    shapes = {n: s for n, s in shapes.items() if n != "student.patch_embed.proj.weight"}
    assert api.inspect(Checkpoint({n: Lazy(s, "float32", never, (n,)) for n, s in shapes.items()}, "torch")).ok


def test_it_is_told_in_every_spelling() -> None:
    """transformers' names: no block has a norm1."""
    from support.tiny import timm_state

    from anyvit.containers import open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        api.convert(timm_state(dim=64, classes=0), Path(folder, "x.safetensors"), "hf-vit", heads=2)
        state = {n: t.read() for n, t in open_checkpoint(Path(folder, "x.safetensors")).tensors.items()}
    both = {f"{word}.{name}": value for word in ("student", "teacher") for name, value in state.items()}
    assert api.inspect(both).ok
    lost = [name for name in both if name.startswith("teacher.") and "patch_embeddings.projection.weight" in name]
    report = api.inspect({name: value for name, value in both.items() if name not in lost})
    assert not report.ok and lost[0] in report.of("missing")[0].names
