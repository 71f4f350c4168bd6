"""A live module understood: recognised as a file would be, with what it computes, and how a file differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyvit.errors import Ambiguous, AnyvitError, BadArgument, NotAViT
from anyvit.garbage import uncollected
from anyvit.lazy import Lazy
from anyvit.module import checkpoint_of, facts_of, real_names, submodule
from anyvit.reading import Ask, Reading, understand
from anyvit.report import Finding
from anyvit.rules import Dialect
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


@uncollected
def recognise_module(module: nn.Module, dialect: str | Dialect | None = None) -> Target:
    """A module read as if it were a file: its dialect, prefix, canonical names and architecture.

    Arguments:
        module: the module.
        dialect: the table of its names, or that table's name; None to recognise it.

    Raises:
        BadArgument: it is no module, or there is no such dialect.
        NotAViT: its names fit no known layout.
        Ambiguous: it holds several towers, and nothing says which one is meant.
    """
    from torch import nn

    if not isinstance(module, nn.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise BadArgument("a module is expected, an instance of torch.nn.Module", found=kind)
    checkpoint = checkpoint_of(module)
    reading = understand(checkpoint, Ask(dialect=dialect))
    facts: dict[str, Fact] = {}
    if reading.match is not None:
        facts = facts_of(module, reading.match.prefix)
        if "grid" in facts and (reading.spec is None or reading.spec.grid != facts["grid"].value):
            reading = _with_grid(reading, facts["grid"].value)
    broken = [f for f in reading.findings if f.fatal and not _tolerable(f, reading)]
    if reading.match is None or reading.spec is None or broken:
        raise _unknown(module, broken, tuple(checkpoint.tensors))
    spec = reading.spec
    for name, fact in facts.items():
        if name in ("eps", "act", "num_heads"):
            spec = spec.with_facts("given", fact.source, **{name: fact.value})
    return Target(module, replace(reading, spec=spec), real_names(checkpoint), facts)


def _unknown(module: nn.Module, broken: list[Finding], there: tuple[str, ...]) -> AnyvitError:
    """The error of a module that cannot be filled as a whole."""
    towers = [f for f in broken if f.kind == "ambiguous" and f.remedy and f.remedy.startswith("weights=")]
    if towers and len(towers) == len(broken):
        names = towers[0].names
        return Ambiguous(
            f"the module {type(module).__name__} holds several image towers, and nothing says which one is meant",
            names=names, remedy=f"anyvit.load_into({part(names[0])}, …)",
        )  # fmt: skip
    causes = "; ".join(dict.fromkeys(f.cause for f in broken[:3]))
    names = tuple(dict.fromkeys(n for f in broken for n in f.names))
    return NotAViT(
        f"the names of the module {type(module).__name__} fit no known layout" + (f": {causes}" if causes else ""),
        names=names or there[:6],
        remedy='anyvit.load_into(module, …, to="draft") reads names that are spelt otherwise by words and shapes',
    )


def part(prefix: str) -> str:
    """The expression for a part of a module.

    Example:
        >>> part("student.0.")
        'module.get_submodule("student.0")'
    """
    return f'module.get_submodule("{prefix.rstrip(".")}")'


def _with_grid(reading: Reading, grid: tuple[int, int]) -> Reading:
    assert reading.match is not None
    try:
        return understand(reading.checkpoint, Ask(dialect=reading.match.dialect, grid=grid))
    except BadArgument:
        return reading


def _tolerable(finding: Finding, reading: Reading) -> bool:
    """What would keep a file from being loaded and is no fault of a module: extra parts, LoRA's too, and no final norm."""
    if finding.kind == "not a ViT" and reading.spec is not None and finding.names:
        return all("lora_" in name for name in finding.names)
    inside = reading.match is not None and finding.names and finding.kind == "unexplained"
    return bool(inside) or finding.names == ("norm.weight", "norm.bias") or not finding.names


FIELDS = {
    "depth": "depth", "embed_dim": "width", "mlp_dim": "width of the MLP", "num_registers": "registers",
    "ffn": "kind of MLP", "norm": "kind of norm", "qk_norm": "q/k norm", "pre_norm": "norm before block 0",
    "pos_embed": "positions", "num_cls": "class tokens", "dist_token": "distillation token",
    "final_norm": "final norm", "condition": "conditioning", "attn_norm": "norm inside attention",
    "mlp_norm": "norm inside the MLP", "patch_norm": "norm of the patches", "layer_scale": "LayerScale",
    "qkv_bias": "biases of q, k and v",
}  # fmt: skip
"""Spec fields that names and shapes tell, in words."""


BIASED = {True: "all three", "qv": "q and v", False: "none"}
"""Which of q, k and v have biases, in words."""


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
        if name == "qkv_bias":
            mine, theirs = (BIASED.get(kind, kind) for kind in (mine, theirs))
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
    from anyvit.guesses import line

    match = target.reading.match
    tower = submodule(target.module, match.prefix if match else "")
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
            findings.append(Finding("differs", (name,), cause, line(tower, name, own)))
    return findings
