"""Every kind of tensor taken out of released checkpoints: what is lost is said, or there is a reason why nobody can know."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from conftest import needs_shared
from support.tiny import timm_state
from support.truth import checkpoint_of, manifest, manifests

from anyvit import companions, load
from anyvit.errors import Incomplete
from anyvit.lazy import Checkpoint, from_array
from anyvit.reading import Reading, understand
from anyvit.report import Report

UNKNOWABLE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "attn.k.bias": ("a softmax over keys does not notice a bias of the keys", ("",)),
    "embed.mask": ("pretraining alone uses it", ("",)),
    "local_cls_norm": ("pretraining alone uses it", ("dinov3",)),
    "rope.periods": ("computed from the base where it is not stored", ("dinov3",)),
    "rope.freqs": ("without them it is timm's vit_*_rope_224, name for name", ("timm-eva-rope",)),
    "embed.reg": (
        "without registers it is another released model, name for name",
        ("dinov2", "hf-dinov2", "timm", "timm-glu", "timm-eva", "timm-eva-swiglu"),
    ),
    "embed.cls": (
        "models without a class token, averaged instead, have these names too",
        (
            "big_vision",
            "timm",
            "timm-glu",
            "timm-parallel",
            "timm-relpos",
            "timm-eva-rope",
            "timm-eva",
            "timm-eva-swiglu",
        ),
    ),
    "attn.v.bias": ("as those of q", ("internvit", "timm-sam", "timm-eva-rope", "timm", "radio", "dinov3")),
    "attn.q.bias": (
        "an option, with and without which models are released",
        (
            "dinov3",
            "internvit",
            "radio",
            "timm",
            "timm-eva",
            "timm-eva-rope",
            "timm-eva-swiglu",
            "timm-relpos",
            "timm-sam",
        ),
    ),
    "embed.pos": (
        "said as an assumption: positions that are computed (native AIMv2, PE), or a table that rotary models have or not",
        ("aimv2", "openai-clip", "pe", "timm-eva-rope"),
    ),
    "fc_norm.weight": ("a test model of timm with one norm", ("timm",)),
    "pool.out.bias": ("AIMv2-LiT alone has such a pool", ("aimv2",)),
    "ls1": ("one LayerScale in blocks of parallel branches", ("timm-parallel-diff",)),
    "mlp.fc1.bias": ("one bias for q, k, v and the MLP in blocks of parallel branches", ("timm-parallel-diff",)),
}
"""Kind → why its loss is not told, and in which dialects."""


@cache
def samples() -> tuple[Path, ...]:
    """One manifest for each folder, dialect, pool and kind of positions."""
    found: dict[object, Path] = {}
    for path in manifests():
        content = manifest(path)
        if content["kind"] == "positive" and (arch := content.get("arch")):
            key = (path.parent.name, content["layout"], arch.get("pool"), arch.get("pos_embed"))
            if key not in found and whole(path).report().ok:
                found[key] = path
    return tuple(found.values())


@cache
def whole(path: Path) -> Reading:
    return understand(checkpoint_of(manifest(path)))


def kinds(reading: Reading) -> dict[str, frozenset[str]]:
    """Canonical kind → the names of the file that it is made of, in all blocks."""
    found = defaultdict(set)
    for name, tensor in reading.tensors.items():
        kind = re.sub(r"^blocks\.\d+\.", "", name)
        if not kind.startswith(("head", "proj.")):
            found[kind].update(tensor.origin)
    return {kind: frozenset(names) for kind, names in found.items()}


def without(checkpoint: Checkpoint, names: frozenset[str]) -> Report:
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in names}
    return understand(replace(checkpoint, tensors=rest)).report()


@needs_shared
@pytest.mark.parametrize("part", range(4))
def test_what_is_taken_out_is_missed(part: int) -> None:
    silent = []
    for path in samples()[part::4]:
        reading = whole(path)
        assert reading.match is not None
        for kind, names in kinds(reading).items():
            report = without(reading.checkpoint, names)
            if report.ok and not any(f.kind == "missing" for f in report.findings):
                _, dialects = next((UNKNOWABLE[k] for k in UNKNOWABLE if kind.startswith(k)), ("", ()))
                if not reading.match.dialect.name.startswith(dialects or ("-",)):
                    silent.append((path.name, reading.match.dialect.name, kind))
    assert not silent


@needs_shared
def test_nothing_is_missed_in_what_is_whole() -> None:
    for path in samples():
        assert not [f for f in whole(path).findings if f.kind == "missing" and "few models" not in f.cause], path


def lacking(part: str) -> Checkpoint:
    state = timm_state(0, dim=16, depth=3)
    return Checkpoint({n: from_array(t, n) for n, t in state.items() if part not in n}, "memory")


@pytest.mark.parametrize("part", ["attn.proj.bias", "patch_embed.proj.bias"])
def test_a_load_raises_and_names_it(part: str) -> None:
    with pytest.raises(Incomplete, match="bias") as caught:
        load(lacking(part), heads=2)
    assert part in str(caught.value) and 'dialect="timm"' in str(caught.value)
    assert load(lacking(part), heads=2, dialect="timm").spec.embed_dim == 16


def test_laws_say_what_they_rest_on() -> None:
    assert all(law.__doc__ for law in companions.LAWS)
    report = load(lacking("attn.qkv.bias"), heads=2).report
    assert report.ok and [f.names for f in report.findings if f.kind == "missing"] == [("blocks.0.attn.q_bias",)]
