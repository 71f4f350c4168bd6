"""Load any Vision Transformer checkpoint, from any ecosystem, into any model: proven right, or a clear reason why not.

The verbs: `inspect`, `load`, `load_into`, `convert`, `verify`, `build`, `accelerate`, `dialects`, `draft`; on a loaded model
`effect`, `finetune`, `overfit_check`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "inspect": "anyvit.api",
    "load": "anyvit.api",
    "load_into": "anyvit.api",
    "convert": "anyvit.api",
    "draft": "anyvit.api",
    "verify": "anyvit.verification",
    "build": "anyvit.construct",
    "accelerate": "anyvit.acceleration",
    "Verification": "anyvit.verification",
    "effect": "anyvit.effects",
    "Effect": "anyvit.effects",
    "finetune": "anyvit.training.loop",
    "overfit_check": "anyvit.training.overfit",
    "OverfitCheck": "anyvit.training.overfit",
    "camera": "anyvit.cameras",
    "pluecker": "anyvit.cameras",
    "AdaLN": "anyvit.adaln",
    "Channels": "anyvit.channels",
    "ClassMap": "anyvit.heads",
    "Resample": "anyvit.resample",
    "Dialect": "anyvit.rules",
    "Rule": "anyvit.rules",
    "Report": "anyvit.report",
    "Finding": "anyvit.report",
    "Spec": "anyvit.spec",
    "Fact": "anyvit.spec",
    "AnyvitError": "anyvit.errors",
    "ViT": "anyvit.model",
    "Features": "anyvit.model",
}
"""Public name → module; modules are imported when a name is first used, so that `import anyvit` costs nothing."""

if TYPE_CHECKING:
    from anyvit.acceleration import accelerate
    from anyvit.adaln import AdaLN
    from anyvit.api import convert, draft, inspect, load, load_into
    from anyvit.cameras import camera, pluecker
    from anyvit.channels import Channels
    from anyvit.construct import build
    from anyvit.effects import Effect, effect
    from anyvit.errors import AnyvitError
    from anyvit.heads import ClassMap
    from anyvit.model import Features, ViT
    from anyvit.report import Finding, Report
    from anyvit.resample import Resample
    from anyvit.rules import Dialect, Rule
    from anyvit.spec import Fact, Spec
    from anyvit.training.loop import finetune
    from anyvit.training.overfit import OverfitCheck, overfit_check
    from anyvit.verification import Verification, verify

    def dialects() -> tuple[Dialect, ...]:
        """All dialects, each a table of names and layouts."""
        ...


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from anyvit.garbage import uncollected

    if name == "dialects":
        return uncollected(import_module)("anyvit.dialects")
    if name in _WHERE:
        return getattr(uncollected(import_module)(_WHERE[name]), name)
    raise AttributeError(f"module 'anyvit' has no attribute {name!r}")


__all__ = [
    "AdaLN", "AnyvitError", "Channels", "ClassMap", "Dialect", "Effect", "Fact", "Features", "Finding", "OverfitCheck",
    "Report", "Resample", "Rule", "Spec", "Verification", "ViT", "accelerate", "build", "camera", "convert", "dialects",
    "draft", "effect", "finetune", "inspect", "load", "load_into", "overfit_check", "pluecker", "verify",
]  # fmt: skip
