"""Position tables at the grid of the picture: absolute, relative (BEiT) and decomposed (SAM)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyvit import resample
from anyvit.errors import BadArgument
from anyvit.model.layers import linear
from anyvit.spec import Spec, pair

Grid = tuple[int, int]
"""Rows and columns of patches."""


class Memo:
    """The last results made of a table, used again only while the table holds the values they were made of.

    The values are compared, not a version counter: an update through `.data`, as moving averages do it, leaves the
    counter as it was. Copies and pickles of a model start with an empty memo.
    """

    room = 4

    def __init__(self) -> None:
        self.kept: dict[Hashable, tuple[Tensor | None, Any]] = {}

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        return Memo, ()

    def __call__(self, table: Tensor | None, key: Hashable, make: Callable[[], Any]) -> Any:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or (table is not None and table.is_meta):
            return make()
        found = self.kept.pop(key, None)
        if found is None or not _same(found[0], table):
            found = (None if table is None else table.detach().clone(), make())
        while len(self.kept) >= self.room:
            self.kept.pop(next(iter(self.kept)))
        self.kept[key] = found
        return found[1]


def _same(old: Tensor | None, new: Tensor | None) -> bool:
    if old is None or new is None:
        return old is new
    return old.device == new.device and old.dtype == new.dtype and torch.equal(old, new)


def native_grid(spec: Spec) -> Grid:
    """Rows and columns that the position tables of a Spec are for.

    Raises:
        BadArgument: neither `grid` nor `image_size` says it.

    Example:
        >>> native_grid(Spec(image_size=(224, 112), patch_size=16))
        (14, 7)
    """
    if spec.grid is not None:
        return pair(spec.grid)
    if spec.image_size is None:
        raise BadArgument("a position table needs its grid", found="grid=None, image_size=None", remedy="grid=(14, 14)")
    height, width = pair(spec.image_size)
    return height // spec.patch[0], width // spec.patch[1]


KINDS = frozenset({
    "learned", "sincos", "sincos_unstored", "rope", "relpos", "relpos_shared", "relpos_decomposed", "none",
    "relpos_mlp", "relpos_mlp_shared",
})  # fmt: skip


def kinds(spec: Spec) -> frozenset[str]:
    """The kinds of positions that a Spec adds up.

    Raises:
        BadArgument: a kind that the model does not have.

    Example:
        >>> sorted(kinds(Spec(pos_embed="learned+rope")))
        ['learned', 'rope']
    """
    found = frozenset(spec.pos_embed.split("+"))
    if not found <= KINDS:
        raise BadArgument("the model has no such positions", found=spec.pos_embed, expected=", ".join(sorted(KINDS)))
    return found


def stored(spec: Spec) -> bool:
    """Whether there is a table of absolute positions among the weights."""
    return bool({"learned", "sincos"} & kinds(spec))


def wide(table: Tensor) -> Tensor:
    """A table in at least float32: resampling at 16 bits costs more than the resampling itself."""
    return table if table.dtype in (torch.float32, torch.float64) else table.float()


class Resampled:
    """Makes a position table fit a grid with the recipe of its source."""

    def __init__(self, spec: Spec) -> None:
        self.recipe = resample.resolve(spec.resample)
        self.memo = Memo()

    def __call__(self, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """The table (h·w, d) of the grid `old` at the grid `new`, in at least float32."""
        if old == new:
            return table
        return self.memo(table, new, lambda: resample.positions(wide(table), old, new, self.recipe))


def sincos(grid: Grid, width: int, kind: str, device: torch.device) -> Tensor:
    """The sine-cosine table (h·w, width) that big_vision and AIMv2 compute and do not store."""
    return torch.from_numpy(resample.sincos2d(*grid, width, kind=kind)).to(device, torch.float32)


def relative_index(grid: Grid, cls: bool, device: torch.device | None = None) -> Tensor:
    """Which row of a relative table holds the bias of query i and key j, (N, N).

    A table has (2h-1)·(2w-1) rows, then with a class token three more: cls to patch, patch to cls, cls to cls.

    Source: github.com/microsoft/unilm@768a3c8:beit/modeling_finetune.py Attention

    Example:
        >>> relative_index((1, 2), cls=True)
        tensor([[5, 3, 3],
                [4, 1, 0],
                [4, 2, 1]])
    """
    height, width = grid
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1  # (h·w, h·w)
    right = columns[:, None] - columns[None, :] + width - 1
    index = down * (2 * width - 1) + right
    if not cls:
        return index
    count = (2 * height - 1) * (2 * width - 1)
    index = F.pad(F.pad(index, (0, 0, 1, 0), value=count), (1, 0, 0, 0), value=count + 1)
    corner = torch.zeros_like(index)
    corner[0, 0] = 1
    return index + corner


def relative_rows(grid: Grid, cls: bool) -> int:
    """Rows of a relative table for a grid."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3 * cls


class RelativeBias:
    """Reads the attention bias of a grid out of a relative table."""

    def __init__(self, spec: Spec) -> None:
        self.native, self.cls, self.method = native_grid(spec), spec.num_prefix > 0, spec.rel_resample
        self.memo = Memo()

    def __call__(self, table: Tensor, index: Tensor, grid: Grid) -> Tensor:
        """The bias (1, h, N, N) of a table (s, h)."""
        if grid != self.native:
            table = self.memo(table, grid, lambda: self._resized(table, grid))
        return table[index].permute(2, 0, 1).unsqueeze(0)

    def _resized(self, table: Tensor, grid: Grid) -> Tensor:
        extra = 3 if self.cls else 0
        return resample.relative_table(wide(table), self.native, grid, self.method, extra=extra)


class RelativeMlp(nn.Module):
    """The attention bias of a grid, computed by a small MLP from the offsets between patches; prefix tokens have none.

    Source: timm 1.0.31: layers/pos_embed_rel.py RelPosMlp, gen_relative_log_coords

    Arguments:
        spec: the architecture.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.prefix, self.swin = spec.num_prefix, spec.rel_mlp_log == "swin"
        hidden = spec.rel_mlp_dim or 0
        self.fc1, self.fc2 = linear(2, hidden), linear(hidden, spec.num_heads, not self.swin)

    def forward(self, grid: Grid) -> Tensor:
        """The bias (1, h, N, N)."""
        device = self.fc1.weight.device
        x = self.fc2(F.relu(self.fc1(self.offsets(grid).to(device, self.fc1.weight.dtype))))  # (s, h)
        bias = x[relative_index(grid, False, device)].permute(2, 0, 1)  # (h, h·w, h·w)
        bias = 16 * torch.sigmoid(bias) if self.swin else bias
        return F.pad(bias, (self.prefix, 0, self.prefix, 0)).unsqueeze(0)

    def offsets(self, grid: Grid) -> Tensor:
        """Offsets in rows and columns on a logarithmic scale, (s, 2)."""
        down, right = (torch.arange(1.0 - size, size) for size in grid)
        if self.swin:
            down, right = (8 * x / max(size - 1, 1) for x, size in zip((down, right), grid, strict=True))
        x = torch.cartesian_prod(down, right)  # (s, 2)
        return x.sign() * (torch.log2(1 + x.abs()) / 3 if self.swin else torch.log1p(x.abs()))


def decomposed_bias(q: Tensor, down: Tensor, right: Tensor, grid: Grid) -> Tensor:
    """SAM's bias of queries (B, h, N, e) before scaling, from one table (s, e) per axis: (B, h, N, N).

    Source: github.com/facebookresearch/segment-anything@dca509f:segment_anything/modeling/image_encoder.py
    add_decomposed_rel_pos
    """
    rows, columns = (_offsets(table, size).to(q.dtype) for table, size in zip((down, right), grid, strict=True))
    q = q.unflatten(2, grid)  # (B, h, rows, columns, e)
    bias_down = torch.einsum("bhyxe,yke->bhyxk", q, rows)
    bias_right = torch.einsum("bhyxe,xke->bhyxk", q, columns)
    bias = bias_down.unsqueeze(-1) + bias_right.unsqueeze(-2)  # (B, h, rows, columns, rows, columns)
    return bias.flatten(4).flatten(2, 3)


def _offsets(table: Tensor, size: int) -> Tensor:
    """The rows of a one-axis table for query i and key j, (size, size, e)."""
    if table.shape[0] != 2 * size - 1:
        table = resample.decomposed(wide(table), size)
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]
