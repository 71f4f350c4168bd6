"""A live nn.Module as a source or a target: its tensors by name, and what it computes that names do not say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anyvit.containers import memory
from anyvit.lazy import Checkpoint
from anyvit.recognise import unwrapped
from anyvit.spec import Fact, Spec, pair

if TYPE_CHECKING:
    from torch import nn


def checkpoint_of(module: nn.Module) -> Checkpoint:
    """A module's parameters and persistent buffers as an opened checkpoint; values stay where they are.

    anyvit's own model brings its Spec and what was changed in it along, as a file that anyvit wrote does.
    """
    checkpoint = memory.read(module.state_dict(keep_vars=True))
    spec, report = getattr(module, "spec", None), getattr(module, "report", None)
    if not isinstance(spec, Spec):
        return checkpoint
    from anyvit.configs import stamp
    from anyvit.provenance import RECORD, changes

    metadata = {stamp.KEY: stamp.to_json(spec)}
    if report is not None:
        metadata[RECORD] = json.dumps({"changes": changes(report.findings)})
    return replace(checkpoint, metadata=metadata)


def real_names(checkpoint: Checkpoint) -> dict[str, str]:
    """The name that is recognised → the name in the module, which torch.compile or FSDP may have wrapped."""
    plain, _ = unwrapped(checkpoint.tensors)
    return dict(zip(plain, checkpoint.tensors, strict=True))


def facts_of(module: nn.Module, prefix: str = "") -> dict[str, Fact]:
    """What a module computes that its tensors do not say: norm epsilon, heads, activation, sizes, the pool.

    Arguments:
        module: timm's, transformers', open_clip's, dinov2's or anybody's.
        prefix: where the image tower lies in it ("visual.", "vit.").
    """
    tower = submodule(module, prefix)
    found: dict[str, Any] = {}
    for field, value in (*_from_spec(tower), *_from_config(_config(module, tower)), *_from_layers(tower)):
        if value is not None:
            found.setdefault(field, value)
    return {name: Fact(value, "given", f"the module {type(module).__name__}") for name, value in found.items()}


def submodule(module: nn.Module, prefix: str) -> nn.Module:
    """The part of a module that a prefix names; the deepest one that exists."""
    module = getattr(module, "_orig_mod", module)
    for part in prefix.strip(".").split("."):
        inner = getattr(module, part, None) if part else None
        if inner is None:
            break
        module = getattr(inner, "_orig_mod", inner)
    return module


def _config(module: nn.Module, tower: nn.Module) -> Any:
    config = getattr(tower, "config", None) or getattr(module, "config", None)
    return getattr(config, "vision_config", None) or config


def _from_spec(tower: nn.Module) -> Iterator[tuple[str, Any]]:
    """anyvit's own model says it all."""
    spec = getattr(tower, "spec", None)
    if isinstance(spec, Spec):
        for field in ("num_heads", "eps", "act", "image_size", "patch_size", "grid", "pool"):
            yield field, getattr(spec, field)


def _from_config(config: Any) -> Iterator[tuple[str, Any]]:
    if config is None or isinstance(config, Mapping):
        return
    sizes: dict[str, Any] = {}
    for field, keys in (
        ("num_heads", ("num_attention_heads",)),
        ("eps", ("layer_norm_eps", "rms_norm_eps")),
        ("image_size", ("image_size",)),
        ("patch_size", ("patch_size",)),
    ):
        value = next((getattr(config, key) for key in keys if getattr(config, key, None) is not None), None)
        sizes[field] = tuple(value) if isinstance(value, list) else value
        yield field, sizes[field]
    if sizes["image_size"] and sizes["patch_size"]:
        (height, width), (p, q) = pair(sizes["image_size"]), pair(sizes["patch_size"])
        yield "grid", (height // p, width // q)
    act = getattr(config, "hidden_act", None)
    yield "act", ACTS.get(act, act) if isinstance(act, str) else None


ACTS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
    "GELUTanh": "gelu_tanh",
    "GELUActivation": "gelu",
    "PytorchGELUTanh": "gelu_tanh",
    "GELUTanhActivation": "gelu_tanh",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "ReLU": "relu",
}
"""Activation names of transformers' configs and class names of modules → ours.

Source: transformers activations.py ACT2CLS, timm/layers/activations.py, open_clip transformer.py.
"""

POOLS = {"token": "cls", "avg": "avg", "map": "map"}
"""timm's global_pool → ours."""


def _from_layers(tower: nn.Module) -> Iterator[tuple[str, Any]]:
    from torch import nn

    embed = getattr(tower, "patch_embed", tower)
    for owner, attribute in ((embed, "grid_size"), (embed, "patches_resolution"), (tower, "grid_size")):
        size = getattr(owner, attribute, None)
        if isinstance(size, (tuple, list)) and len(size) == 2:
            yield "grid", (int(size[0]), int(size[1]))
    yield "pool", POOLS.get(str(getattr(tower, "global_pool", None)))
    part: Any
    for name, part in tower.named_modules():
        kind = type(part).__name__
        if "norm" in kind.lower() and hasattr(part, "eps") and any(word in name for word in ("block", "layer")):
            yield "eps", float(part.eps)
        if isinstance(getattr(part, "num_heads", None), int) and "attn" in name.lower():
            yield "num_heads", part.num_heads
        if any(word in name for word in ("mlp", "ffn", "intermediate", "act")):
            yield "act", _gelu(part) if kind == "GELU" else ACTS.get(kind)
        if isinstance(part, nn.Conv2d) and part.kernel_size == part.stride:
            height, width = int(part.kernel_size[0]), int(part.kernel_size[1])
            yield "patch_size", height if height == width else (height, width)


def _gelu(part: Any) -> str:
    return "gelu_tanh" if getattr(part, "approximate", "none") == "tanh" else "gelu"
