"""Writes src/anyvit/configs/timm_names.json: what timm's registered Vision Transformers are made with.

Run it after an upgrade of timm: `python scripts/timm_table.py`. Each entry point is called with a builder that records
its arguments instead of building; callables become words ("layernorm@1e-06", "SwiGLUPacked", "gelu_tanh").
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import get_act_layer
from timm.models import beit, deit, eva, vision_transformer, vision_transformer_relpos, vision_transformer_sam
from timm.models._registry import _module_to_models, get_pretrained_cfg, model_entrypoint

MODULES = (vision_transformer, deit, eva, beit, vision_transformer_relpos, vision_transformer_sam)
TARGET = Path(__file__).resolve().parents[1] / "src/anyvit/configs/timm_names.json"
TRAINING = ("weight_init", "fix_init", "drop", "head_init_scale", "rope_jitter", "rope_rescale", "rope_shift", "device",
            "dtype", "dynamic_img", "head_init")  # fmt: skip
ACTS = ("gelu", "gelu_tanh", "quick_gelu", "silu")


class Recorded(Exception):
    """Carries a recorded call out of an entry point."""


def record(cls: Any, variant: str, pretrained: bool, *args: Any, **kwargs: Any) -> Any:
    raise Recorded(cls, kwargs)


def word(key: str, value: Any) -> Any:
    """A JSON word for a constructor's argument."""
    if key.endswith("norm_layer") and value is not None:
        made = value(8) if callable(value) else None
        kind = type(made).__name__.lower()
        return f"{kind}@{made.eps:g}" if made is not None and hasattr(made, "eps") else kind
    if key == "act_layer" and callable(value):
        return next((name for name in ACTS if get_act_layer(name) is value), value.__name__)
    if isinstance(value, functools.partial):
        return {"GluMlp": "SwiGLUPacked"}.get(value.func.__name__, value.func.__name__)
    if isinstance(value, type) or callable(value):
        return value.__name__
    return list(value) if isinstance(value, tuple) else value


def signature(cls: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of a constructor that say something about the architecture."""
    chain = [c for c in cls.__mro__ if c is not torch.nn.Module and "__init__" in vars(c) and c is not object]  # type: ignore[attr-defined]
    defaults: dict[str, Any] = {}
    for owner in reversed(chain):
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            if parameter.default is not inspect.Parameter.empty and not any(part in name for part in TRAINING):
                defaults[name] = word(name, parameter.default)
    return defaults


def entry(name: str) -> tuple[Any, dict[str, Any]] | None:
    """The class and the arguments of a registered name; None for names that stand for another one."""
    if model_entrypoint(name).__module__ not in sys.modules or model_entrypoint(name).__module__.endswith("_registry"):
        return None
    builders = [(module, module.build_model_with_cfg) for module in MODULES]
    try:
        for module in MODULES:
            module.build_model_with_cfg = record
        model_entrypoint(name)(pretrained=False)
    except Recorded as call:
        return call.args  # type: ignore[return-value]
    finally:
        for module, builder in builders:
            module.build_model_with_cfg = builder
    return None


def main() -> None:
    classes: dict[str, dict[str, Any]] = {}
    models: dict[str, list[Any]] = {}
    for module in MODULES:
        for name in sorted(_module_to_models[module.__name__.rsplit(".", 1)[-1]]):
            found = entry(name)
            if found is None:
                continue
            cls, kwargs = found
            defaults = classes.setdefault(cls.__name__, signature(cls))
            config = get_pretrained_cfg(name)
            if config is not None and config.fixed_input_size:
                kwargs.setdefault("img_size", config.input_size[-1])
            said = {key: word(key, value) for key, value in kwargs.items() if key in defaults}
            models[name] = [cls.__name__, {key: value for key, value in said.items() if value != defaults[key]}]
    table = {"timm": timm.__version__, "classes": classes, "models": models}
    lines = json.dumps(table, separators=(",", ":")).replace('],"', '],\n"')
    TARGET.write_text(lines + "\n")
    print(f"{len(models)} models, {len(lines)} bytes")


if __name__ == "__main__":
    main()
