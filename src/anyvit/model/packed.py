"""Pictures of many sizes in one pass: their tokens one behind the other, so that cost follows the tokens.

Everything but attention looks at one token at a time and runs on all tokens as one matrix. Attention stays inside each
picture: one kernel for pictures of all lengths where the GPU has it, else one call for the pictures of each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from anyvit.errors import BadArgument
from anyvit.model.attention import Place
from anyvit.model.conditioning import Modulation, embed_condition
from anyvit.model.features import Features, check_pixels
from anyvit.model.rope import Turn

if TYPE_CHECKING:
    from anyvit.model.vit import Block, ViT


class Group(NamedTuple):
    """`count` pictures of one size, `length` tokens each, and where their tokens stand."""

    count: int
    length: int
    place: Place


class Packed(NamedTuple):
    """Where the tokens (1, ΣN, D) of pictures of many sizes stand, for one block.

    Arguments:
        groups: pictures of the same size, next to each other.
        turn: cosines and sines of all tokens; None without a rotary embedding.
        lengths: tokens of each picture, (B,).
        bounds: where each picture's tokens begin, and their sum, (B + 1,) int32.
    """

    groups: tuple[Group, ...]
    turn: Turn | None
    lengths: Tensor
    bounds: Tensor

    def parts(self, x: Tensor, axis: int = 1) -> list[Tensor]:
        """What lies along the tokens' axis, cut into groups."""
        return list(x.split([group.count * group.length for group in self.groups], axis))

    def spread(self, by: Modulation | None) -> Modulation | None:
        """A modulation of each picture (B, 1, D), for each of its tokens (1, ΣN, D)."""
        if by is None:
            return None
        size = sum(group.count * group.length for group in self.groups)

        def each(m: Tensor) -> Tensor:
            return m.squeeze(1).repeat_interleave(self.lengths, 0, output_size=size).unsqueeze(0)

        return Modulation(each(by.shift), each(by.scale), None if by.gate is None else each(by.gate))


def attend(block: Block, x: Tensor, place: Packed) -> Tensor:
    """A block's attention on packed tokens (1, ΣN, D); windows and attention biases take one size at a time."""
    attention = block.attn
    if block.window is not None or not attention.plain or place.groups[0].place.bias is not None:
        parts = []
        for group, part in zip(place.groups, place.parts(x), strict=True):
            alone = block.attend(part.squeeze(0).unflatten(0, (group.count, group.length)), group.place)
            parts.append(alone.flatten(0, 1))
        return torch.cat(parts).unsqueeze(0)
    q, k, v = attention.project(x)  # (1, h, ΣN, e) each
    q, k = attention.turned(q, place.turn), attention.turned(k, place.turn)
    return attention.join(inside(q, k, v, place))


def inside(q: Tensor, k: Tensor, v: Tensor, place: Packed) -> Tensor:
    """Attention of queries, keys and values (1, h, ΣN, e) that stays inside each picture."""
    if len(place.groups) > 1 and (kernel := _kernel(q)) is not None:
        longest = max(group.length for group in place.groups)
        flat = (t.squeeze(0).transpose(0, 1) for t in (q, k, v))  # (ΣN, h, e) each
        found = kernel(*flat, place.bounds, place.bounds, longest, longest)
        return found.transpose(0, 1).unsqueeze(0)
    parts = []
    for group, *three in zip(place.groups, *(place.parts(t, 2) for t in (q, k, v)), strict=True):
        alone = (t.squeeze(0).unflatten(1, (group.count, group.length)).transpose(0, 1) for t in three)
        parts.append(F.scaled_dot_product_attention(*alone).transpose(0, 1).flatten(1, 2))  # (h, count · N, e)
    return torch.cat(parts, 1).unsqueeze(0)


def _kernel(q: Tensor) -> Any:
    """FlashAttention over sequences of many lengths, where torch has it and it takes such tensors."""
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16) or q.shape[-1] % 8 or q.shape[-1] > 256:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@torch.no_grad()
def _bounds(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor(lengths, device=device)
    return sizes, F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)


def run(vit: ViT, pictures: Sequence[Tensor], condition: Tensor | None = None) -> list[Features]:
    """`ViT.packed`, see there."""
    order, shapes = _sorted(vit, pictures)
    if not order:
        return []
    vit.settled()
    condition = embed_condition(vit.spec, vit.condition, condition, len(order))
    condition = None if condition is None else condition[torch.tensor(order, device=condition.device)]
    tokens, grids, at = [], [], 0
    for count in shapes:
        x, grid = vit.embed(torch.cat([_batch(pictures[i]) for i in order[at : at + count]]))  # (count, N, D)
        tokens, grids, at = [*tokens, x], [*grids, grid], at + count
    places = _places(vit, tokens, grids)
    x = torch.cat([t.flatten(0, 1) for t in tokens]).unsqueeze(0)  # (1, ΣN, D)
    seen = [x]
    for block, place in zip(vit.blocks, places, strict=True):
        x = vit.step(block, x, place, condition)
        seen = [*seen, x][-vit.spec.pool_layers :]
    found: list[Features] = []
    for group, grid, *parts in zip(places[0].groups, grids, *map(places[0].parts, seen), strict=True):
        *earlier, last = (part.squeeze(0).unflatten(0, (group.count, group.length)) for part in parts)
        found += _rows(vit.finish(last, grid, earlier), group.count)
    return [found[place] for place in sorted(range(len(order)), key=order.__getitem__)]


def _batch(picture: Tensor) -> Tensor:
    return picture if picture.ndim == 4 else picture.unsqueeze(0)


def _sorted(vit: ViT, pictures: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Pictures of one size next to each other: their numbers, and how many there are of each size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        check_pixels(vit.spec, _batch(picture))
        if len(_batch(picture)) != 1:
            raise BadArgument(
                "packed takes single pictures",
                found=f"a batch of {len(picture)}",
                expected="(C, H, W) or (1, C, H, W) each",
                remedy="vit.packed(list(pixels))",
            )
        sizes.setdefault(tuple(picture.shape[-2:]), []).append(number)
    return [number for numbers in sizes.values() for number in numbers], [len(numbers) for numbers in sizes.values()]


def _places(vit: ViT, tokens: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> list[Packed]:
    """One place for each block."""
    device = tokens[0].device
    lengths, bounds = _bounds([x.shape[1] for x in tokens for _ in range(len(x))], device)
    apart = [vit.places(grid, device) for grid in grids]
    turns: dict[int, Turn | None] = {}
    places = []
    for of_block in zip(*apart, strict=True):
        groups = tuple(Group(len(x), x.shape[1], place) for x, place in zip(tokens, of_block, strict=True))
        first = id(of_block[0].turn)  # an axial embedding turns alike in all blocks
        if first not in turns:
            turns[first] = _joined(groups)
        places.append(Packed(groups, turns[first], lengths, bounds))
    return places


def _joined(groups: Sequence[Group]) -> Turn | None:
    """Cosines and sines of all tokens, each (ΣN, e) or (h, ΣN, e)."""
    if groups[0].place.turn is None:
        return None
    both = []
    for side in (0, 1):
        parts = [cast(Turn, g.place.turn)[side] for g in groups]
        both.append(torch.cat([torch.cat([part] * g.count, -2) for g, part in zip(groups, parts, strict=True)], -2))
    return both[0], both[1]


def _rows(features: Features, count: int) -> list[Features]:
    """Features of a batch, one picture each."""
    values: dict[str, Any] = {f.name: getattr(features, f.name) for f in fields(features)}
    found = []
    for i in range(count):
        row: dict[str, Any] = {n: v[i : i + 1] if isinstance(v, Tensor) else v for n, v in values.items()}
        found.append(Features(**row))
    return found
