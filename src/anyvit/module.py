"""A live nn.Module as a source or a target: its tensors by name, and what it computes that names do not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anyvit.containers import memory
from anyvit.lazy import Checkpoint
from anyvit.spec import Fact

if TYPE_CHECKING:
    from torch import nn


def checkpoint_of(module: nn.Module) -> Checkpoint:
    """A module's parameters and buffers as an opened checkpoint; values stay where they are."""
    return memory.read(module.state_dict(keep_vars=True))


def facts_of(module: nn.Module, prefix: str = "") -> dict[str, Fact]:
    """What a module computes that its tensors do not say: norm epsilon, head count, activation, image and patch size.

    Arguments:
        module: timm's, transformers', open_clip's, dinov2's or anybody's.
        prefix: where the image tower lies in it ("visual.", "vit.").
    """
    tower = submodule(module, prefix)
    found: dict[str, Any] = {}
    config = getattr(tower, "config", None) or getattr(module, "config", None)
    config = getattr(config, "vision_config", config)
    for field, value in (*_from_config(config), *_from_layers(tower)):
        if value is not None:
            found.setdefault(field, value)
    return {name: Fact(value, "given", f"the module {type(module).__name__}") for name, value in found.items()}


def submodule(module: nn.Module, prefix: str) -> nn.Module:
    """The part of a module that a prefix names; the deepest one that exists."""
    for part in prefix.strip(".").split("."):
        inner = getattr(module, part, None) if part else None
        if inner is None:
            break
        module = inner
    return module


def _from_config(config: Any) -> Iterator[tuple[str, Any]]:
    if config is None or isinstance(config, Mapping):
        return
    for field, keys in (
        ("num_heads", ("num_attention_heads",)),
        ("eps", ("layer_norm_eps", "rms_norm_eps")),
        ("image_size", ("image_size",)),
        ("patch_size", ("patch_size",)),
    ):
        value = next((getattr(config, key) for key in keys if getattr(config, key, None) is not None), None)
        yield field, tuple(value) if isinstance(value, list) else value
    yield "act", ACTS.get(str(getattr(config, "hidden_act", None)))


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
}
"""Activation names of transformers' configs and class names of modules → ours."""


def _from_layers(tower: nn.Module) -> Iterator[tuple[str, Any]]:
    from torch import nn

    seen: set[str] = set()
    for name, part in tower.named_modules():
        kind = type(part).__name__
        if "norm" in kind.lower() and hasattr(part, "eps") and "eps" not in seen:
            if any(word in name for word in ("blocks", "layer", "resblocks")):
                seen.add("eps")
                yield "eps", float(part.eps)
        heads = getattr(part, "num_heads", None)
        if isinstance(heads, int) and "heads" not in seen and "attn" in name.lower():
            seen.add("heads")
            yield "num_heads", heads
        act = ACTS.get(kind) or (kind == "GELU" and _gelu(part))
        if act and "act" not in seen and any(word in name for word in ("mlp", "ffn", "intermediate", "act")):
            seen.add("act")
            yield "act", act
        if isinstance(part, nn.Conv2d) and "patch" not in seen and part.kernel_size == part.stride:
            seen.add("patch")
            yield "patch_size", part.kernel_size[0] if len(set(part.kernel_size)) == 1 else tuple(part.kernel_size)


def _gelu(part: Any) -> str:
    return "gelu_tanh" if getattr(part, "approximate", "none") == "tanh" else "gelu"
