"""A live module understood: recognised as a file would be, with what it computes, and how a file differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyvit.errors import BadArgument, NotAViT
from anyvit.lazy import Lazy
from anyvit.module import checkpoint_of, facts_of, real_names
from anyvit.reading import Ask, Reading, understand
from anyvit.report import Finding
from anyvit.spec import PLAIN, Fact, Spec

if TYPE_CHECKING:
    from torch import nn

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Target:
    """A module understood.

    Arguments:
        module: the module.
        reading: its names and shapes, read as if it were a file.
        real: the name that is recognised → the module's own.
        facts: what it computes, which its tensors do not say.
    """

    module: nn.Module
    reading: Reading
    real: Mapping[str, str]
    facts: Mapping[str, Fact]

    @property
    def tensors(self) -> Tensors:
        """Canonical name → the module's tensor."""
        return self.reading.tensors

    @property
    def spec(self) -> Spec:
        """Its architecture."""
        assert self.reading.spec is not None
        return self.reading.spec

    @property
    def all(self) -> dict[str, Lazy]:
        """Recognised name → tensor, everything that the module has."""
        return {name: self.reading.checkpoint.tensors[real] for name, real in self.real.items()}


def recognise_module(module: nn.Module) -> Target:
    """A module read as if it were a file: its dialect, prefix, canonical names and architecture.

    Raises:
        NotAViT: its names fit no known layout.
    """
    checkpoint = checkpoint_of(module)
    reading = understand(checkpoint)
    facts: dict[str, Fact] = {}
    if reading.match is not None:
        facts = facts_of(module, reading.match.prefix)
        if "grid" in facts and (reading.spec is None or reading.spec.grid != facts["grid"].value):
            reading = _with_grid(reading, facts["grid"].value)
    broken = [f for f in reading.findings if f.fatal and not _tolerable(f, reading)]
    if reading.match is None or reading.spec is None or broken:
        causes = "; ".join(dict.fromkeys(f.cause for f in broken[:3]))
        names = dict.fromkeys(n for f in broken for n in f.names)
        raise NotAViT(
            f"the names of the module {type(module).__name__} fit no known layout" + (f": {causes}" if causes else ""),
            names=tuple(names) or tuple(checkpoint.tensors)[:6],
            remedy="anyvit.load(…).state_dict() has the tensors by plain names; or describe these names in a Dialect",
        )
    spec = reading.spec
    for name, fact in facts.items():
        if name in ("eps", "act", "num_heads"):
            spec = spec.with_facts("given", fact.source, **{name: fact.value})
    return Target(module, replace(reading, spec=spec), real_names(checkpoint), facts)


def _with_grid(reading: Reading, grid: tuple[int, int]) -> Reading:
    assert reading.match is not None
    try:
        return understand(reading.checkpoint, Ask(dialect=reading.match.dialect, grid=grid))
    except BadArgument:
        return reading


def _tolerable(finding: Finding, reading: Reading) -> bool:
    """What would keep a file from being loaded and is no fault of a module: extra parts, and no final norm."""
    inside = reading.match is not None and finding.names and finding.kind == "unexplained"
    return bool(inside) or finding.names == ("norm.weight", "norm.bias") or not finding.names


FIELDS = {
    "depth": "depth", "embed_dim": "width", "mlp_dim": "width of the MLP", "num_registers": "registers",
    "ffn": "kind of MLP", "norm": "kind of norm", "qk_norm": "q/k norm", "pre_norm": "norm before block 0",
    "pos_embed": "positions", "num_cls": "class tokens", "dist_token": "distillation token",
    "final_norm": "final norm", "condition": "conditioning", "attn_norm": "norm inside attention",
    "mlp_norm": "norm inside the MLP", "patch_norm": "norm of the patches", "layer_scale": "LayerScale",
}  # fmt: skip
"""Spec fields that names and shapes tell, in words."""


def differences(spec: Spec, goal: Spec) -> list[str]:
    """In what two architectures differ, in words.

    Example:
        >>> differences(Spec(depth=12), Spec(depth=24))
        ['depth: 12 in the file, 24 in the module']
    """
    out = []
    for name, words in FIELDS.items():
        mine, theirs = getattr(spec, name), getattr(goal, name)
        if name == "ffn":
            mine, theirs = ("plain" if kind == "mlp" else "gated" for kind in (mine, theirs))
        if mine != theirs:
            out.append(f"{words}: {mine} in the file, {theirs} in the module")
    return out


def contradictions(spec: Spec, target: Target, fitted: Tensors) -> list[Finding]:
    """Where the module computes otherwise than the file's own project.

    Arguments:
        spec: the file's architecture.
        target: the module.
        fitted: the canonical tensors that the module gets.
    """
    findings = []
    for name, fact in target.facts.items():
        own: Any = getattr(spec, name, None)
        if name not in ("eps", "act", "num_heads", "pool") or (name == "act" and spec.ffn not in PLAIN):
            continue
        if name == "pool" and ("head.weight" not in fitted or spec.pool not in ("cls", "avg", "map")):
            continue
        same = abs(own - fact.value) < 1e-3 * own if name == "eps" else own == fact.value
        if not same:
            how = spec.facts[name].how if name in spec.facts else "assumed"
            cause = f"the module computes with {name} {fact.value}, the file's project with {own} ({how})"
            findings.append(Finding("differs", (name,), cause, f"build the module with {name}={own}"))
    return findings
