"""The Vision Transformer on one page; every part is chosen by the Spec, none by the name of a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anyvit.errors import BadArgument
from anyvit.model import packed
from anyvit.model.attention import Attention, DifferentialAttention, Place, from_windows, to_windows
from anyvit.model.conditioning import CHUNKS, Modulation, camera_embedder, embed_condition, modulate, modulations
from anyvit.model.embed import Embed
from anyvit.model.features import Features, Preprocess, check_pixels
from anyvit.model.initial import initialise
from anyvit.model.layers import FFNS, choose, empty, linear, make_norm
from anyvit.model.packed import Packed
from anyvit.model.pool import AttentionPool, HeadNorm, Neck, Whiten, check_pool, pool_tokens, pooled_width, projection
from anyvit.model.positions import Grid, RelativeBias, kinds, native_grid, relative_index
from anyvit.model.rope import RotaryEmbedding
from anyvit.spec import Spec, pair

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    from anyvit.integrity import Check
    from anyvit.mapped import Mapped
    from anyvit.report import Report


def _constant(function: F) -> F:
    """Marks a method whose result torch.compile may keep; importing torch's own mark costs a second at every start.

    Source: torch/_dynamo/decorators.py assume_constant_result
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Block(nn.Module):
    """Attention and MLP, each with a norm before it (or after it) and added to its input.

    Side by side (`ffn="parallel_scaling"`) both read the block's input through one norm and share one LayerScale.
    """

    def __init__(self, spec: Spec, number: int) -> None:
        super().__init__()
        d, self.kind = spec.embed_dim, spec.condition
        self.post = choose("block_norm", spec.block_norm, {"pre": False, "post": True})
        self.window = None if number in spec.global_blocks else spec.window
        decomposed = "relpos_decomposed" in kinds(spec)
        native = None if not decomposed else (self.window, self.window) if self.window else native_grid(spec)
        parallel = spec.ffn == "parallel_scaling"
        self.attn = DifferentialAttention(spec, number) if spec.diff_attn else Attention(spec, native)
        self.norm1 = make_norm(spec, d)
        self.norm2, self.mlp = None if parallel else make_norm(spec, d), choose("ffn", spec.ffn, FFNS)(spec)
        self.ls1 = empty(d) if spec.layer_scale else None
        self.ls2 = empty(d) if spec.layer_scale and spec.mlp_layer_scale and not parallel else None
        self.adaln = linear(d, CHUNKS[self.kind] * d) if self.kind else None

    def forward(self, x: Tensor, place: Place | Packed, condition: Tensor | None = None) -> Tensor:
        first = second = None
        if self.adaln is not None and condition is not None and self.kind is not None:
            first, second = modulations(self.adaln, condition, self.kind)
            if isinstance(place, Packed):
                first, second = place.spread(first), place.spread(second)
        y = self.attend(self.before(x, self.norm1, first), place)  # (B, N, D)
        after = x + self.after(y, self.norm1, self.ls1, first)
        x, norm, scale = (after, self.norm2, self.ls2) if self.norm2 is not None else (x, self.norm1, self.ls1)
        y = self.mlp(self.before(x, norm, second))
        return after + self.after(y, norm, scale, second)

    def before(self, x: Tensor, norm: nn.Module, by: Modulation | None) -> Tensor:
        return x if self.post else modulate(norm(x), by)

    def after(self, y: Tensor, norm: nn.Module, scale: Tensor | None, by: Modulation | None) -> Tensor:
        y = modulate(norm(y), by) if self.post else y
        y = y if scale is None else y * scale
        return y if by is None or by.gate is None else y * by.gate

    def attend(self, x: Tensor, place: Place | Packed) -> Tensor:
        if isinstance(place, Packed):
            return packed.attend(self, x, place)
        if self.window is None:
            return self.attn(x, place)
        windows = to_windows(x, place.grid, self.window)  # (B · windows, size², D)
        windows = self.attn(windows, Place((self.window, self.window)))
        return from_windows(windows, place.grid, self.window)


class ViT(nn.Module):
    """A Vision Transformer as a Spec describes it.

    Names in its state dict are those of `anyvit.canon`, but queries, keys and values are one matrix `attn.qkv` (without
    a key bias its rows are zero), and a block's AdaLN vectors one `adaln`. `checkpointing = True` computes blocks again
    in the backward pass; `preprocess` makes the pixels of a picture.

    Arguments:
        spec: the architecture.

    Raises:
        BadArgument: the Spec asks for a part that the model does not have.

    Example:
        >>> from anyvit.spec import Spec
        >>> spec = Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, image_size=32, num_registers=3, pos_prefix=1)
        >>> out = ViT(spec).eval()(torch.zeros(1, 3, 48, 64))
        >>> out.grid, out.tokens.shape, out.cls.shape, out.patches.shape
        ((3, 4), torch.Size([1, 16, 32]), torch.Size([1, 32]), torch.Size([1, 12, 32]))
    """

    _report: Report | None
    _check: Check | None
    _mapped: Mapped | None
    _packs: bool

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        check_pool(spec)
        if spec.condition:
            choose("condition", spec.condition, CHUNKS)
        self.spec, self.checkpointing, self._report = spec, False, None
        self._check = self._mapped = None
        self._packs = False
        d, width = spec.embed_dim, pooled_width(spec)
        final = choose("final_norm", str(spec.final_norm), {"None": (), "norm": "n", "fc_norm": "f", "both": "nf"})
        size = pair(spec.image_size) if spec.image_size else None
        self.preprocess = Preprocess(spec.mean, spec.std, size, spec.patch, spec.crop_pct, spec.interpolation)
        self.embed = Embed(spec)
        self.relative = RelativeBias(spec) if hasattr(self.embed, "rel_pos") else None
        self.rope = RotaryEmbedding(spec, spec.rope) if spec.rope else None
        self.condition = camera_embedder(spec)
        self.blocks = nn.ModuleList(Block(spec, i) for i in range(spec.depth))
        self.norm = make_norm(spec, d) if "n" in final else None
        self.cls_norm = make_norm(spec, d) if spec.cls_norm else None
        self.pool = AttentionPool(spec) if spec.pool in ("map", "attn_pool") else None
        self.neck = Neck(spec, spec.neck_dim) if spec.neck_dim else None
        self.whiten = Whiten(d) if spec.whiten else None
        self.fc_norm = make_norm(spec, width) if "f" in final else None
        self.pre_logits = linear(width, spec.pre_logits_dim) if spec.pre_logits_dim else None
        width = spec.pre_logits_dim or width
        self.proj = projection(spec, width)
        self.head_norm = HeadNorm(width) if spec.head_norm else None
        self.head = linear(width, spec.num_classes) if spec.num_classes and width else None
        self.head_dist = linear(width, spec.num_classes) if self.head and spec.pool == "cls+dist" else None
        if not self.embed.patch.weight.is_meta:
            self.reset_parameters()

    @property
    def report(self) -> Report | None:
        """What became of each tensor when a file was loaded; None for a model that no file was loaded into.

        Waits for a check of the file's bytes that still runs.
        """
        if self._report is None or self._check is None:
            return self._report
        return self._report.adding(self._check.verdict())

    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Features:
        """All features of B pictures.

        Arguments:
            pixels: (B, C, H, W) normalised, in pixels; H and W are any multiples of the patch.
            condition: (B, D) embedded or (batch, views, inputs) cameras, for a conditioned model only.

        Returns:
            Features, see there for the shapes.

        Raises:
            BadArgument: another number of channels, sides that the patch does not divide, a condition missing or odd.
        """
        x, places, condition = self.start(pixels, condition)  # (B, N, D)
        seen = [x]
        for block, place in zip(self.blocks, places, strict=True):
            x = self.step(block, x, place, condition)
            seen = [*seen, x][-self.spec.pool_layers :]
        return self.finish(x, places[0].grid, seen[:-1])

    def layers(
        self, pixels: Tensor, blocks: Sequence[int], condition: Tensor | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens after some of the blocks.

        Arguments:
            pixels: see `forward`.
            blocks: numbers of blocks, counted from 1, in any order.
            condition: see `forward`.
            norm: whether the final norm is applied to them.

        Returns:
            (B, N, D) for each number, in the order asked for; later blocks are not run.

        Raises:
            BadArgument: a block that is not there, and as `forward`.

        Example:
            >>> from anyvit.spec import Spec
            >>> vit = ViT(Spec(embed_dim=32, depth=4, num_heads=2, mlp_dim=48, image_size=32))
            >>> [tuple(x.shape) for x in vit.layers(torch.zeros(1, 3, 32, 32), [2, 4])]
            [(1, 5, 32), (1, 5, 32)]
        """
        if isinstance(blocks, int) or any(not 1 <= i <= self.spec.depth for i in blocks):
            found = blocks if isinstance(blocks, int) else list(blocks)
            raise BadArgument("no such blocks", found=found, expected=f"a list of numbers from 1 to {self.spec.depth}")
        x, places, condition = self.start(pixels, condition)
        after: dict[int, Tensor] = {}
        for i in range(max(blocks, default=0)):
            x = self.step(self.blocks[i], x, places[i], condition)
            after[i + 1] = x
        return [self.normed(after[i]) if norm else after[i] for i in blocks]

    def packed(self, pictures: Sequence[Tensor], condition: Tensor | None = None) -> list[Features]:
        """All features of pictures of many sizes, in one pass without padding: cost follows the tokens.

        Arguments:
            pictures: (C, H, W) or (1, C, H, W) each, as the pixels of `forward`.
            condition: as for `forward`, in the order of the pictures.

        Returns:
            For each picture what `forward` gives for it alone, in the order given.

        Raises:
            BadArgument: a batch among the pictures, and as `forward`.

        Example:
            >>> from anyvit.spec import Spec
            >>> vit = ViT(Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, image_size=32)).eval()
            >>> [out.grid for out in vit.packed([torch.zeros(3, 32, 64), torch.zeros(3, 48, 16)])]
            [(2, 4), (3, 1)]
        """
        return packed.run(self, pictures, condition)

    def start(self, pixels: Tensor, condition: Tensor | None) -> tuple[Tensor, list[Place], Tensor | None]:
        """What the blocks take: tokens (B, N, D), one place per block, the embedded condition (B, D)."""
        self.settled()
        check_pixels(self.spec, pixels)
        if self._packs and not torch.compiler.is_compiling():
            from anyvit.acceleration import accelerate_when_used

            self._packs = not accelerate_when_used(self)
        condition = embed_condition(self.spec, self.condition, condition, len(pixels))
        x, grid = self.embed(pixels)
        return x, self.places(grid, x.device), condition

    @_constant
    def settled(self) -> bool:
        """Waits for the check of the file that the weights come from; under torch.compile, while it traces.

        Raises:
            FileError: the bytes are not those that were written, or not those that were loaded.
        """
        if self._check is not None:
            self._check.wait()
        if self._mapped is not None:
            self._mapped.check(self.parameters())
        return True

    def step(self, block: nn.Module, x: Tensor, place: Place | Packed, condition: Tensor | None) -> Tensor:
        """One block; with `checkpointing` its inside is computed again in the backward pass instead of kept."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, place, condition, use_reentrant=False)  # type: ignore[return-value]
        return block(x, place, condition)

    def finish(self, x: Tensor, grid: Grid, earlier: Sequence[Tensor] = ()) -> Features:
        """Norms, pool and heads on the last block's output (B, N, D); `earlier` are outputs before it, if the pool asks."""
        spec, normed = self.spec, self.normed(x)
        tokens = normed if spec.tokens_normed else x
        patches = tokens[:, spec.num_prefix :]
        pooled = pool_tokens(spec, normed if spec.pool_normed else x, grid, self.pool, self.neck)  # (B, D'), or None
        if earlier and pooled is not None:
            pooled = torch.cat([*(self.normed(y)[:, 0] for y in earlier), pooled], -1)
        pooled = self.fc_norm(pooled) if self.fc_norm is not None else pooled
        pooled = torch.tanh(self.pre_logits(pooled)) if self.pre_logits is not None else pooled
        return Features(
            tokens=tokens,
            prenorm=x,
            cls=tokens[:, 0] if spec.num_cls else None,
            registers=tokens[:, spec.num_prefix - spec.num_registers : spec.num_prefix] if spec.num_registers else None,
            patches=patches if self.whiten is None else self.whiten(patches),
            pooled=pooled,
            logits=self.classify(pooled, normed),
            embedding=self.project(pooled),
            grid=grid,
        )

    def normed(self, x: Tensor) -> Tensor:
        """All tokens after the final norm, where there is one before the pool."""
        if self.norm is None or self.cls_norm is None:
            return x if self.norm is None else self.norm(x)
        prefix, patches = x[:, : self.spec.num_prefix], x[:, self.spec.num_prefix :]
        return torch.cat((self.cls_norm(prefix), self.norm(patches)), 1)

    def project(self, pooled: Tensor | None) -> Tensor | None:
        """The embedding (B, E) in a joint space."""
        if self.spec.projection == "identity":
            return pooled
        return None if self.proj is None or pooled is None else self.proj(pooled)

    def classify(self, pooled: Tensor | None, normed: Tensor) -> Tensor | None:
        """Logits (B, C); with a distillation head the mean of both, each of its own token."""
        if self.head is None or pooled is None:
            return None
        if self.head_dist is not None:
            return (self.head(normed[:, 0]) + self.head_dist(normed[:, self.spec.num_cls])) / 2
        return self.head(pooled if self.head_norm is None else self.head_norm(pooled))

    def places(self, grid: Grid, device: torch.device) -> list[Place]:
        """Where the tokens stand, for each block."""
        turns = [None] * self.spec.depth if self.rope is None else self.rope(grid, device)
        index = bias = None
        if {"relpos", "relpos_shared"} & kinds(self.spec):
            index = relative_index(grid, self.spec.num_prefix > 0, device)  # (N, N)
        if self.relative is not None and index is not None:
            bias = self.relative(self.embed.rel_pos, index, grid)  # (1, h, N, N)
        if self.embed.rel_mlp is not None:
            bias = self.embed.rel_mlp(grid)  # (1, h, N, N)
        return [Place(grid, turn, index, bias) for turn in turns]

    def reset_parameters(self) -> None:
        """Draws the values that training from scratch starts with."""
        initialise(self)

    def extra_repr(self) -> str:
        s = self.spec
        return f"{s.depth} blocks of {s.embed_dim} channels, {s.num_heads} heads, patch {s.patch_size}"
