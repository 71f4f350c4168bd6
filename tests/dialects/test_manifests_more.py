"""Names and shapes of released checkpoints against the tables: nothing left over, shapes as the vocabulary says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, needs_shared

from anyvit import canon, rules
from anyvit.dialects import ALL, get
from anyvit.lazy import Lazy
from anyvit.rules import Dialect, Run

MANIFESTS = SHARED / "manifests"

DIALECT_OF = {
    "dinov3/*": "dinov3",
    "eva02/eva02_[BL]_*": "eva02",
    "eva02/eva02_*": "eva02-fused",
    "eva02/EVA02_CLIP_[BL]_*": "eva-clip",
    "eva02/*_CLIP_*": "eva-clip-fused",
    "beit/*": "beit",
    "timm-beit/*": "timm-beit",
    "mae/*": "mae",
    "deit/deit_3_*": "deit3",
    "deit/models_v2*": "deit3",
    "deit/*": "deit",
    "moco/*": "moco",
    "ibot/*": "ibot",
    "ijepa/*": "ijepa",
    "big_vision/*naflex*": "big_vision-naflex",
    "big_vision/*loop__form*": "big_vision",
    "big_vision/siglip2_*": "big_vision-scan",
    "big_vision/*": "big_vision",
    "aimv2/*": "aimv2",
    "pe/*": "pe",
    "radio/*": "radio",
    "sam/*": "sam",
    "timm-sam/*": "timm-sam",
    "timm-relpos/*": "timm-relpos",
    "torchvision/*": "torchvision",
    "timm-eva/*eva02_tiny*": "timm-eva-glu",
    "timm-eva/*eva02_*": "timm-eva-apart-swiglu",
    "timm-eva/*sapiens2*": "timm-eva-apart-glu",
    "timm-eva/*_rope_reg1*": "timm-eva",
    "timm-eva/*_rope_*": "timm-eva-rope",
    "timm-eva/*_pe_*": "timm-eva-rope",
    "timm-eva/*plus*": "timm-eva-swiglu",
    "timm-eva/*7b*": "timm-eva-swiglu",
    "timm-eva/*": "timm-eva",
    "open_clip/*EVA01*": "open_clip-eva",
    "open_clip/*EVA02*": "open_clip-eva-apart-swiglu",
    "open_clip/*PE-*": "open_clip-eva-rope",
    "hf/facebook__deit-*-distilled-*": "hf-deit",
    "hf/facebook__dinov3-vit7b*": "hf-dinov3-gated",
    "hf/facebook__dinov3-*plus*": "hf-dinov3-gated",
    "hf/facebook__dinov3-*": "hf-dinov3",
    "hf/facebook__ijepa*": "hf-ijepa",
    "hf/facebook__vit-mae*": "hf-vit-mae",
    "hf/facebook__sam-*": "hf-sam",
    "hf/google__siglip2-*naflex*": "hf-siglip2",
    "hf/google__siglip*": "hf-siglip",
    "hf/google__paligemma*": "hf-siglip",
    "hf/microsoft__beit-*": "hf-beit",
}
GROUPED_QUERIES = ("timm__vit_*_sapiens2",)
"""Blocks whose keys and values have fewer heads than the queries."""


def files() -> list[Path]:
    found = sorted(MANIFESTS.glob("*/*.json.gz"))
    return [path for path in found if dialect_of(path)]


def dialect_of(path: Path) -> str | None:
    key = f"{path.parent.name}/{path.name.removesuffix('.json.gz')}"
    return next((name for pattern, name in DIALECT_OF.items() if fnmatch(key, pattern)), None)


def manifest(path: Path) -> dict[str, Any]:
    with gzip.open(path) as stream:
        return json.load(stream)


def unread(shapes: Mapping[str, tuple[list[int], str]]) -> dict[str, Lazy]:
    def load() -> Any:
        raise AssertionError("shapes do not need data")

    return {name: Lazy(tuple(shape), dtype, load, (name,)) for name, (shape, dtype) in shapes.items()}


def given(data: Mapping[str, Any]) -> dict[str, int]:
    """What a reader must know beside shapes: prefix rows of the table, class tokens of RADIO."""
    arch = data["arch"]
    sizes = {"k": arch["pos_embed_includes_prefix"] or 0}
    return sizes | ({"t": arch["extra"]["cls_tokens"]} if data["layout"] == "radio" else {})


def misfits(tensors: Mapping[str, Lazy]) -> Iterator[str]:
    """Canonical tensors whose shape contradicts the letters of the vocabulary."""
    bound: dict[str, int] = {"1": 1}
    for name, tensor in tensors.items():
        found = canon.lookup(name)
        letters = found[1].split() if found else []
        if not found or len(letters) != len(tensor.shape):
            yield f"{name} {tensor.shape} is not {letters}"
            continue
        for letter, size in zip(letters, tensor.shape, strict=True):
            free = letter in "spqc" or (letter in "oe") or (letter == "m" and name.startswith(("pool.", "proj.")))
            if not free and bound.setdefault(letter, size) != size:
                yield f"{name} {tensor.shape}: {letter} is {bound[letter]} elsewhere"


def complaints(run: Run, prefix: str) -> list[str]:
    left = [name for name in run.leftover if name.startswith(prefix)]
    return [*left, *(fault.text for fault in run.faults), *run.partial, *run.conflicts]


@needs_shared
@pytest.mark.parametrize("path", files(), ids=lambda path: path.name.removesuffix(".json.gz"))
class TestManifest:
    def test_reads_whole_and_writes_back(self, path: Path) -> None:
        data = manifest(path)
        dialect, prefix = get(dialect_of(path) or ""), data["tower_prefix"] or ""
        run = rules.read(unread(data["tensors"]), dialect, prefix, given(data))
        assert not complaints(run, prefix)
        odd = list(misfits(run.tensors))
        if any(fnmatch(path.name, pattern + "*") for pattern in GROUPED_QUERIES):
            odd = [line for line in odd if ".attn.k." not in line and ".attn.v." not in line]
        assert not odd
        agrees_with_truth(run, data["arch"])
        back = write_back(run, dialect, prefix, given(data))
        if not any(rule.reads_only for rule in run.used.values()):
            assert {name: t.shape for name, t in back.items()} == {
                name: tuple(data["tensors"][name][0]) for name in run.used
            }
        assert shapes(rules.read(back, dialect, prefix, given(data))) == shapes(run)

    def test_siblings_refuse_it_or_agree(self, path: Path) -> None:
        """Tables of one family are told apart by names or, where names agree, by shapes."""
        data = manifest(path)
        name, prefix = dialect_of(path) or "", data["tower_prefix"] or ""
        tensors = unread(data["tensors"])
        own = shapes(rules.read(tensors, get(name), prefix, given(data)))
        for rival in family(name):
            run = rules.read(tensors, rival, prefix, given(data))
            assert complaints(run, prefix) or list(misfits(run.tensors)) or shapes(run) == own, rival.name


def shapes(run: Run) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in run.tensors.items()}


def family(name: str) -> list[Dialect]:
    """The other dialects whose name begins with the same word pair."""
    stems = ("timm-eva", "open_clip-eva", "eva02", "eva-clip", "hf-dinov3", "hf-siglip", "big_vision", "hf-beit", "mae")
    stem = next((stem for stem in stems if name.startswith(stem)), None)
    return [d for d in ALL if stem and d.name.startswith(stem) and d.name != name]


def write_back(run: Run, dialect: Dialect, prefix: str, sizes: Mapping[str, int]) -> Mapping[str, Lazy]:
    known = {letter: next(iter(found)) for letter, found in run.sizes.items() if letter in ("heads", "gh", "gw")}
    back = rules.write(run.tensors, dialect, prefix, {**known, **sizes})
    assert not (back.leftover or back.faults or back.partial or back.conflicts)
    return back.tensors


def agrees_with_truth(run: Run, arch: Mapping[str, Any]) -> None:
    found = shapes(run)
    depth = 1 + max(canon.block_of(name) or 0 for name in found)
    last = found.get("blocks.0.mlp.down.weight") or found["blocks.0.mlp.fc2.weight"]
    assert (depth, *last) == (arch["depth"], arch["embed_dim"], arch["mlp_hidden"])
    assert found["embed.patch.weight"][1:] == (arch["in_chans"], arch["patch_size"], arch["patch_size"])
    assert found.get("embed.reg", (0,))[0] == arch["num_registers"]
    assert ("embed.cls" in found) == arch["cls_token"]
    assert ("blocks.0.ls1" in found) == bool(arch["layer_scale"])
    assert ("blocks.0.mlp.norm.weight" in found) == arch["mlp_norm"]
    assert ("embed.norm.weight" in found) == arch["pre_norm"]
    assert ("blocks.0.mlp.gate.weight" in found) == (arch["ffn"] != "mlp")
    if arch["pos_embed_grid"]:
        rows, columns = arch["pos_embed_grid"]
        assert found["embed.pos"] == (rows * columns, arch["embed_dim"])
    if run.sizes.get("heads"):
        assert run.sizes["heads"] == {arch["num_heads"]}
