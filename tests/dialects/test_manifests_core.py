"""Released checkpoints of the core ecosystems, by names and shapes: nothing is left over and everything comes back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, needs_shared

from anyvit import canon
from anyvit.dialects import get
from anyvit.lazy import Lazy
from anyvit.rules import Run, read, write

ROOT = SHARED / "manifests"
DIALECTS = {
    "dino": "dino", "dinov2": "dinov2", "dinov2-train": "dinov2-chunked", "google-npz": "google-npz",
    "openai-clip": "openai-clip", "open_clip": "open_clip", "open_clip-timm": "open_clip-timm", "hf-vit": "hf-vit",
    "hf-vit-v5": "hf-vit-memory", "hf-dinov2": "hf-dinov2", "hf-dinov2-reg": "hf-dinov2-with-registers",
    "hf-dinov2-v5": "hf-dinov2-with-registers-memory", "hf-clip": "hf-clip", "hf-clip-v5": "hf-clip-memory",
    "instantmesh": "instantmesh", "internvit": "internvit", "internvl-chat": "internvit", "hf-internvl": "hf-internvl",
    "hf-internvl-vision": "hf-internvl", "timm": "timm",
}  # fmt: skip
GROUPS = ("timm-vit", "timm-deit", "dino", "dinov2", "google-npz", "openai-clip", "open_clip", "hf", "hf-v5",
          "instantmesh", "internvit")  # fmt: skip
OTHER_TRUNKS = ("EVA0", "PE-Core")
"""OpenCLIP models whose trunk is not timm's VisionTransformer."""

UNSAID = {
    "timm/vit_base_patch16_18x2_224": "attns",
}
"""Models whose function the vocabulary has no words for, and a part of a name that must stay unexplained."""


def manifest(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt") as file:
        return json.load(file)


def paths() -> Iterable[Path]:
    return (path for group in GROUPS for path in sorted((ROOT / group).glob("*.json.gz")))


def is_core(content: Mapping[str, Any]) -> bool:
    other = content["layout"] == "open_clip-timm" and any(word in content["name"] for word in OTHER_TRUNKS)
    return content["layout"] in DIALECTS and content["name"] not in UNSAID and not other


def dialect_of(content: Mapping[str, Any]) -> str:
    if content["layout"] == "dinov2-train":
        return "dinov2-chunked" if chunks(content) else "dinov2"
    if content["layout"] != "timm":
        return DIALECTS[content["layout"]]
    if any(".lambda_q1" in name and ".attn." not in name for name in content["tensors"]):
        return "timm-parallel-diff"
    if any(name.endswith("in_proj.bias") and ".attn." not in name for name in content["tensors"]):
        return "timm-parallel-biased"
    return {"glu_fused": "timm-glu", "swiglu": "timm-swiglu", "parallel_scaling": "timm-parallel"}.get(
        content["arch"]["ffn"], "timm"
    )


def chunks(content: Mapping[str, Any]) -> int:
    return (content["arch"].get("extra") or {}).get("block_chunks") or 0


def never() -> Any:
    raise AssertionError("shapes need no data")


def lazies(content: Mapping[str, Any]) -> dict[str, Lazy]:
    return {name: Lazy(tuple(shape), dtype, never, (name,)) for name, (shape, dtype) in content["tensors"].items()}


def read_whole(content: Mapping[str, Any]) -> tuple[Run, dict[str, Lazy]]:
    tensors = lazies(content)
    prefix = content["tower_prefix"] or ""
    sizes = {"k": content["arch"]["pos_embed_includes_prefix"] or 0, "d": content["arch"]["embed_dim"]}
    run = read(tensors, get(dialect_of(content)), prefix, sizes)
    return run, {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) or name in run.used}


def letters(tensors: Mapping[str, Lazy]) -> dict[str, set[int]]:
    """Sizes by the vocabulary's letters, those left out that mean something else in each name."""
    sizes: dict[str, set[int]] = {}
    for name, tensor in tensors.items():
        found = canon.lookup(name)
        assert found is not None, name
        axes = found[1].split()
        assert len(axes) == len(tensor.shape), name
        head = name.startswith(("head", "pre_logits", "condition", "pool.mlp"))
        for letter, size in zip(axes, tensor.shape, strict=True):
            if letter not in "so" and not head:
                sizes.setdefault(letter, set()).add(size)
    return sizes


def check_letters(content: Mapping[str, Any], run: Run) -> None:
    arch, sizes = content["arch"], letters(run.tensors)
    assert sizes["d"] == {arch["embed_dim"]}
    assert sizes["m"] == {arch["mlp_hidden"]}
    assert sizes.get("r", {0}) == {arch["num_registers"]}
    assert sizes.get("k", {0}) == {arch["pos_embed_includes_prefix"] or 0}
    assert run.tensors["embed.patch.weight"].shape[1:] == (arch["in_chans"], arch["patch_size"], arch["patch_size"])
    assert {canon.block_of(name) for name in run.tensors} - {None} == set(range(arch["depth"]))
    assert run.sizes.get("heads", {arch["num_heads"]}) == {arch["num_heads"]}


@needs_shared
@pytest.mark.parametrize("group", GROUPS)
def test_released_files(group: str) -> None:
    seen = 0
    for path in sorted((ROOT / group).glob("*.json.gz")):
        content = manifest(path)
        if not is_core(content):
            continue
        seen += 1
        run, tower = read_whole(content)
        assert not [name for name in run.leftover if name in tower], path.name
        assert (run.faults, run.partial, run.conflicts) == ((), {}, {}), path.name
        check_letters(content, run)
        count = chunks(content)
        each = content["arch"]["depth"] // max(1, count)
        back = write(
            run.tensors,
            get(dialect_of(content)),
            content["tower_prefix"] or "",
            {"heads": content["arch"]["num_heads"]},
            (lambda block, each=each: block // each) if count else None,
        )
        assert (back.leftover, back.faults, back.partial, back.conflicts) == ((), (), {}, {}), path.name
        kept = {name: tensor for name, tensor in tower.items() if name in run.used}
        assert shapes(back.tensors) == shapes(kept), path.name
    assert seen


def shapes(tensors: Mapping[str, Lazy]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


@needs_shared
@pytest.mark.parametrize("name", UNSAID)
def test_what_has_no_words_is_left_over(name: str) -> None:
    content = manifest(ROOT / "timm-vit" / f"{name.replace('/', '__')}.json.gz")
    run, _ = read_whole(content)
    assert any(UNSAID[name] in left for left in run.leftover)


@needs_shared
def test_a_packed_gate_is_told_from_a_plain_mlp_by_the_vocabulary() -> None:
    for name, right, wrong in (
        ("vit_giant_patch14_reg4_dinov2", "timm-glu", "timm"),
        ("vit_base_patch16_224", "timm", "timm-glu"),
    ):
        content = manifest(ROOT / "timm-vit" / f"timm__{name}.json.gz")
        for dialect, sizes in ((right, 1), (wrong, 2)):
            run = read(lazies(content), get(dialect), "", {"k": content["arch"]["pos_embed_includes_prefix"]})
            assert not run.leftover
            assert len(letters(run.tensors)["m"]) == sizes


@needs_shared
def test_the_groups_are_there() -> None:
    assert len(list(paths())) > 200
