"""How far two correct programs may be apart: rounding by depth and element type, and the noise that models show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit.report import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from anyvit.sides import Side
    from anyvit.watching import Trace


@dataclass(frozen=True)
class LayerDiff:
    """How far two models are apart after one layer.

    Arguments:
        name: "embed" (tokens before block 0), "blocks.N" (after block N), "tokens", "pooled", "logits", "embedding".
        max_abs: the largest difference; inf where shapes differ or values are not finite.
        relative_rms: root mean square of the difference over that of b's values.
        cosine: between all values of both.
        tolerance: the largest difference that rounding explains here.
        ok: whether `max_abs` is within it.
    """

    name: str
    max_abs: float
    relative_rms: float
    cosine: float
    tolerance: float
    ok: bool


class Noise:
    """How far two correct programs may be apart.

    Rounding moves each layer's values by at most c · √(depth + 1) · max|x|, where c = 16 · 2⁻²⁴ + 4 · u; u is the unit
    roundoff of the coarser side, 16 covers float32 sums in another order, and roundings add up as a random walk does.
    Where that does not suffice, the models' own noise is measured: each is run again one picture at a time with
    attention written out, and four times the largest change is allowed, up to 256 times what rounding does: what moves
    more than that is no rounding, but dropout or a batch norm.

    Arguments:
        a, b: the sides.
        traces: what they computed.
        pixels: (B, C, H, W).
        condition: (B, D) or None.

    Source: c was measured on timm, transformers, open_clip and anyvit running the same weights: docs of `verify`.
    """

    measured_times = 4
    most_times = 256

    def __init__(self, a: Side, b: Side, traces: tuple[Trace, Trace], pixels: Tensor, condition: Tensor | None) -> None:
        from anyvit.sides import coarsest

        self.sides, self.traces, self.pixels, self.condition = (a, b), traces, pixels, condition
        self.dtype = coarsest(a.dtype, b.dtype)
        self.depth = max(len(a.blocks), len(b.blocks))
        self.seen: list[dict[str, float]] = []

    @property
    def step(self) -> float:
        """c of the formula above."""
        from anyvit.sides import UNITS

        return 16 * UNITS["float32"] + 4 * UNITS[self.dtype]

    def tolerance(self, name: str, x: Tensor, y: Tensor) -> float:
        """The largest difference that rounding explains after a layer."""
        number = name.partition("blocks.")[2]
        after = int(number) + 1 if number else 0 if name == "embed" else self.depth + 1
        largest = min(float(x.abs().max()), float(y.abs().max()))
        floor = self.step * math.sqrt(after + 1) * largest if math.isfinite(largest) else 0.0
        noise = max((seen.get(name, 0.0) for seen in self.seen), default=0.0)
        return max(floor, min(self.measured_times * noise, self.most_times * floor))

    def layer(self, name: str, x: Tensor, y: Tensor) -> LayerDiff:
        """Both values of one layer, compared."""
        import torch

        if x.shape != y.shape or not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
            return LayerDiff(name, math.inf, math.inf, 0.0, 0.0, False)
        x, y, limit = x.double(), y.double(), self.tolerance(name, x, y)
        delta = x - y
        worst, scale = float(delta.abs().max()), float(y.norm())
        away = float(delta.norm())
        relative = away / scale if scale else math.inf if away else 0.0
        lengths = float(x.norm()) * scale
        cosine = 1.0 if not away else min(1.0, float((x * y).sum()) / lengths) if lengths else 0.0
        return LayerDiff(name, worst, relative, cosine, limit, worst <= limit)

    def measure(self) -> list[Finding]:
        """Runs both sides again with sums in another order; says which side gives other values by more than rounding."""
        from anyvit.watching import run_again

        findings: list[Finding] = []
        seen: list[dict[str, float]] = []
        self.seen = []
        for side, before in zip(self.sides, self.traces, strict=True):
            changes = {
                n: _change(before[n], x) for n, x in run_again(side, self.pixels, self.condition).items() if n in before
            }
            unsteady = [n for n, x in changes.items() if x > self.most_times * self.tolerance(n, before[n], before[n])]
            if unsteady:
                name = unsteady[0]
                cause = f"{side.name} gives other values when it is run again: {name} moves by {changes[name]:.1e}"
                findings.append(
                    Finding("noise", (), f"{cause}; something in it is drawn by chance, or hangs on the batch")
                )
            seen.append(changes)
        self.seen = seen
        return findings

    @property
    def text(self) -> str:
        """The tolerance in words."""
        base = f"{self.step:.1e} · √(depth + 1) · max|x| ({self.dtype})"
        why = "correct programs differ because sums run in another order"
        if not self.seen:
            return f"{base}; {why}"
        largest = max((change for seen in self.seen for change in seen.values()), default=0.0)
        return (
            f"{base}, or {self.measured_times} times the models' own noise where that is more; {why}: one picture at a "
            f"time and with plain attention they move by at most {largest:.1e}"
        )


def _change(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return 0.0
    change = float((before - after).abs().max())
    return change if math.isfinite(change) else 0.0
