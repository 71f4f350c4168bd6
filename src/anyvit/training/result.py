"""What a fine-tuning run did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyvit.model import ViT
from anyvit.report import Finding
from anyvit.training.groups import Group


@dataclass(frozen=True)
class Result:
    """What a run did.

    Arguments:
        vit: the model, trained in place, in eval mode.
        losses: of each step, from the first of the run on.
        accuracy: fraction of the validation pictures that are told right, by step; empty without validation.
        groups: what was trained, at which rate.
        steps: how many, all in all.
        resumed: the step that this call began with.
        classes: names of the classes, where the data has some.
        findings: what to know.
        out: the folder with the model; None where nothing was written.
        seconds: of this call.
    """

    vit: ViT
    losses: tuple[float, ...]
    accuracy: dict[int, float]
    groups: tuple[Group, ...]
    steps: int
    resumed: int = 0
    classes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    out: Path | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.steps} steps" + (f", resumed at {self.resumed}" if self.resumed else "")]
        if self.losses:
            lines[0] += f"; loss {self.losses[0]:.4g} → {self.losses[-1]:.4g}"
        if self.accuracy:
            lines.append(f"accuracy on the validation pictures: {list(self.accuracy.values())[-1]:.2%}")
        lines += [f"  {group}" for group in self.groups] + [str(finding) for finding in self.findings]
        return "\n".join([*lines, f"written to {self.out}"] if self.out else lines)

    def as_dict(self) -> dict[str, Any]:
        """All but the model as plain values."""
        rest = {n: v for n, v in vars(self).items() if n not in ("vit", "groups", "findings")}
        rest |= {"groups": [vars(g) for g in self.groups], "findings": [vars(f) for f in self.findings]}
        return {**rest, "out": None if self.out is None else str(self.out)}
