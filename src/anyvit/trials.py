"""One layer of our ViT, run on what a side fed into it, with one fact changed at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from anyvit.errors import AnyvitError
from anyvit.model import ViT
from anyvit.model.conditioning import embed_condition
from anyvit.model.features import check_pixels
from anyvit.spec import Spec
from anyvit.watching import Trace

TIMES = 3.0
"""How many times nearer a guess must come than no change."""

LAST_PLACE = 2.0**-22
"""Difference, as a fraction of the largest value, below which nothing counts as nearer."""


@dataclass(frozen=True)
class Guess:
    """One fact changed.

    Arguments:
        fact: the Spec's field, "pixels" for what happens before the patches, "" for no change.
        value: its value.
        changes: Spec fields to change.
        pixels: (mean, std) to normalise pictures by, or "bgr".
    """

    fact: str = ""
    value: Any = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    pixels: Any = None

    def on(self, stated: Mapping[str, Any]) -> Guess:
        """The same change to a model of other facts."""
        return replace(self, changes={**stated, **self.changes})


@dataclass
class Trial:
    """A layer as our ViT computes it from a side's own input; what was run is kept.

    Arguments:
        weights: state dict of our ViT.
        spec: its architecture.
        layer: the name of the layer.
        traces: what both sides computed.
        pixels: (B, C, H, W).
        condition: (B, D) or None.
        tolerance: the largest difference from one layer's rounding.
    """

    weights: Mapping[str, Tensor]
    spec: Spec
    layer: str
    traces: tuple[Trace, Trace]
    pixels: Tensor
    condition: Tensor | None
    tolerance: float
    done: dict[tuple[int, str], Tensor | None] = field(default_factory=dict)

    def distance(self, guess: Guess, side: int) -> float:
        """The largest difference between a guess's layer and that of side 0 or 1; inf where it gives none."""
        key = side, repr((sorted(guess.changes.items(), key=str), guess.pixels))
        if key not in self.done:
            self.done[key] = self._run(guess, side)
        found, target = self.done[key], self.traces[side][self.layer][:1]
        if found is None or found.shape != target.shape:
            return float("inf")
        worst = float((found - target).abs().max())
        return worst if worst == worst else float("inf")

    def settled(self, group: Iterable[Guess], own: Mapping[str, Any], side: int) -> Guess | None:
        """The guess that gives a side's layer; `Guess()` where none comes clearly nearer; None where none fits.

        Where a side's own facts give its layer up to rounding, another that comes nearer still does so by chance.
        """
        plain = self.distance(Guess().on(own), side)
        if plain <= self.tolerance:
            return Guess()
        best = min(group, key=lambda guess: self.distance(guess.on(own), side))
        near = self.distance(best.on(own), side)
        step = LAST_PLACE * float(self.traces[side][self.layer].abs().max())
        if plain <= TIMES * max(near, step):
            best, near = Guess(), plain
        return best if near <= self.tolerance else None

    @torch.no_grad()
    def _run(self, guess: Guess, side: int) -> Tensor | None:
        try:
            vit = piece(self.weights, replace(self.spec, **guess.changes), self._number())
            kind = vit.embed.patch.weight
            pixels = prepared(self.pixels[:1], guess.pixels).to(kind.device)
            check_pixels(vit.spec, pixels)
            return self._layer(vit, pixels, side, kind).to("cpu", torch.float32)
        except (AnyvitError, RuntimeError, TypeError, ValueError):
            return None

    def _number(self) -> int:
        """The block that is needed."""
        number = self.layer.partition("blocks.")[2]
        return int(number) if number else 0

    def _layer(self, vit: ViT, pixels: Tensor, side: int, kind: Tensor) -> Tensor:
        if self.layer == "embed":
            return vit.embed(pixels)[0]
        before = "embed" if self.layer == "blocks.0" else f"blocks.{self._number() - 1}"
        if not self.layer.startswith("blocks."):
            before = f"blocks.{self.spec.depth - 1}"
        x = self.traces[side][before][:1].to(kind.device, kind.dtype)
        grid = (pixels.shape[2] // vit.spec.patch[0], pixels.shape[3] // vit.spec.patch[1])
        if not self.layer.startswith("blocks."):
            return getattr(vit.finish(x, grid), self.layer)
        condition = self.condition
        if condition is not None:
            condition = embed_condition(vit.spec, vit.condition, condition[:1].to(kind.device), 1)
        return vit.blocks[0](x, vit.places(grid, x.device)[0], condition)


def piece(weights: Mapping[str, Tensor], spec: Spec, number: int) -> ViT:
    """Our ViT with one block alone, sharing the weights.

    Arguments:
        weights: state dict of the whole ViT.
        spec: its architecture.
        number: of the block.

    Raises:
        RuntimeError: the weights do not fit the Spec.
    """
    whole = (0,) if number in spec.global_blocks else ()
    with torch.device("meta"):
        vit = ViT(replace(spec, depth=1, global_blocks=whole))
    wanted, block = vit.state_dict(), f"blocks.{number}."
    state = {name: tensor for name, tensor in weights.items() if name in wanted and not name.startswith("blocks.")}
    state |= {"blocks.0." + n[len(block) :]: tensor for n, tensor in weights.items() if n.startswith(block)}
    if "rope.freqs" in state:
        state["rope.freqs"] = state["rope.freqs"][:, number : number + 1]
    vit.load_state_dict(state, strict=True, assign=True)
    return vit.eval()


def prepared(pixels: Tensor, how: Any) -> Tensor:
    """Pictures as a module may change them before the patches."""
    if how is None:
        return pixels
    if how == "bgr":
        return pixels.flip(1)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in how)
    return (pixels - mean) / std
