"""The tokens and the position table of an exported Vision Transformer: constants without names, named by their use.

What is joined to the patches before the first linear is a cls token or registers; what is added to them is the position
table. Where the exporter cut the table in two (its cls rows, and its grid, which a Resize follows), both are joined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

from anyvit.containers.onnx_proto import Model, Node
from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy, computed, concat, reshape, split


class Style(NamedTuple):
    """How an ecosystem names what it adds to the patches, by its patch convolution.

    Arguments:
        patch: pattern of the convolution's weight.
        cls: the cls token.
        pos: the position table.
        reg: registers.
        dist: a second token for distillation.
        flat: whether these tensors have no batch axis.
    """

    patch: str
    cls: str
    pos: str
    reg: str = ""
    dist: str = ""
    flat: bool = False


STYLES = (
    Style(r"patch_embeddings(\.projection)?\.weight", "cls_token", "position_embeddings", "register_tokens",
          "distillation_token"),
    Style(r"patch_embed\.proj\.weight", "cls_token", "pos_embed", "reg_token", "dist_token"),
    Style(r"patch_embedding\.weight", "class_embedding", "position_embedding.weight", flat=True),
    Style(r"conv1\.weight", "class_embedding", "positional_embedding", flat=True),
    Style(r"conv_proj\.weight", "class_token", "encoder.pos_embedding"),
)  # fmt: skip
"""transformers' ViTs, timm and the research repositories, transformers' CLIP and SigLIP, OpenAI CLIP, torchvision."""
ROOT_NAMES = frozenset(
    name for style in STYLES for name in (style.cls, style.pos, style.reg, style.dist) if name and "." not in name
) | {"register_tokens", "storage_tokens", "mask_token", "proj", "logit_scale", "logit_bias"}
"""Names without a dot that are a module's own."""

REPEAT_LIMIT = 16 << 20
"""Longest constant in bytes that is read to see whether it repeats itself."""
PARTS_LIMIT = 16
"""Most constants that a table is put together from."""
_SAME_DATA = {
    "Reshape", "Transpose", "Cast", "Resize", "Slice", "Squeeze", "Unsqueeze", "Identity", "Expand", "Flatten", "Split",
}  # fmt: skip
"""Operations whose result holds the values of their first input."""


def tables(
    model: Model, constants: Mapping[str, Lazy], free: set[str], known: Mapping[str, Lazy]
) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
    """Tokens and position tables of every tower.

    Arguments:
        model: the graph.
        constants: all constants by name.
        free: those that have no name yet.
        known: names that are given already.

    Yields:
        The name, the tensor, and the constants that it is made of.
    """
    for patch in model.nodes:
        weight = patch.inputs[1] if patch.op == "Conv" and len(patch.inputs) > 1 else ""
        found = _style(weight, patch.owner) if weight in constants else None
        if found is not None and len(constants[weight].shape) == 4:
            style, prefix = found
            distilled = "deit" in patch.owner.lower() or any("dist" in name for name in known)
            style = style if distilled else style._replace(dist="")
            tower = _Tower(style, prefix, constants[weight].shape[0], constants, free)
            yield from (given for given in tower.follow(model, patch) if given[0] not in known)


def _style(weight: str, owner: str) -> tuple[Style, str] | None:
    """The style whose patch convolution this is, and what stands before it; `owner` is the class of the whole model."""
    for style in STYLES:
        match = re.search(rf"(?:^|\.)({style.patch})$", weight)
        if match:
            if style.reg == "reg_token" and owner and not owner.startswith("timm."):
                style = style._replace(reg="storage_tokens" if "dinov3" in owner.lower() else "register_tokens")
            return style, weight[: match.start(1)]
    return None


class _Tower:
    """Follows the patches from their convolution to the first linear."""

    def __init__(self, style: Style, prefix: str, width: int, constants: Mapping[str, Lazy], free: set[str]) -> None:
        self.style, self.prefix, self.width = style, prefix, width
        self.constants, self.free = constants, free
        self.patches: set[str] = set()
        self.holds: dict[str, tuple[str, ...]] = {}
        self.given: set[str] = set()

    def follow(self, model: Model, patch: Node) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
        """Yields what is joined or added to the patches."""
        self.patches.update(patch.outputs)
        for node in model.nodes:
            if not any(value in self.patches for value in node.inputs):
                self.carry(node)
            elif node.op in ("MatMul", "Gemm"):
                return
            elif node.op != "Shape":
                if node.op == "Concat":
                    yield from self.tokens(node)
                elif node.op in ("Add", "SkipLayerNormalization"):
                    yield from self.positions(node)
                self.patches.update(node.outputs)

    def carry(self, node: Node) -> None:
        """Remembers which nameless constants the values of a node without patches hold."""
        inputs = node.inputs if node.op == "Concat" else node.inputs[:1] if node.op in _SAME_DATA else ()
        held = tuple(name for value in inputs for name in self.held(value))
        if 0 < len(held) <= PARTS_LIMIT:
            self.holds.update(dict.fromkeys(node.outputs, held))

    def held(self, value: str) -> tuple[str, ...]:
        if value in self.holds:
            return self.holds[value]
        return (value,) if value in self.free and rows(self.constants[value], self.width) is not None else ()

    def tokens(self, node: Node) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
        """Constants in a Concat with patches: cls first, then a second cls token or registers."""
        found = [
            (name, table)
            for value in node.inputs
            if value not in self.patches
            for name in self.held(value)
            if (table := rows(self.constants[name], self.width)) is not None
        ]
        for name, table in found:
            kind = "reg"
            if table.shape[0] == 1 and not self.given & {"cls", "reg"}:
                kind = "cls"
            elif table.shape[0] == 1 and self.style.dist and len(found) == 2:
                kind = "dist"
            yield from self.give(kind, table, (name,))

    def positions(self, node: Node) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
        """Constants that are added to the patches, their rows joined."""
        names = tuple(name for value in node.inputs if value not in self.patches for name in self.held(value))
        parts = [part for name in names if (part := rows(self.constants[name], self.width)) is not None]
        if parts and sum(part.shape[0] for part in parts) > 1:
            yield from self.give("pos", concat(parts), names)

    def give(self, kind: str, table: Lazy, names: tuple[str, ...]) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
        name = getattr(self.style, kind)
        if not name or kind in self.given:
            return
        self.given.add(kind)
        count, width = table.shape
        shape = (1, count, width)
        if self.style.flat:
            shape = (width,) if kind == "cls" else (count, width)
        yield self.prefix + name, reshape(table, shape), names


def rows(lazy: Lazy, width: int) -> Lazy | None:
    """A constant as rows of one token each, (n, width); None where it cannot be.

    A table may have been folded further: laid out as a grid (1, h, w, width), or with the channels first as Resize
    takes it, (1, width, h, w).
    """
    shape = lazy.shape
    if not lazy.dtype.startswith(("float", "bfloat")) or len(shape) > 4 or prod(shape) % width or not prod(shape):
        return None
    if len(shape) == 4 and shape[0] == 1 and shape[1] == width and shape[3] != width:
        turned = (1, *shape[2:], width)
        lazy = computed(turned, lazy.dtype, lambda array: array.transpose(0, 2, 3, 1), [lazy])
        shape = turned
    if len(shape) == 3 and shape[0] > 1 and shape[2] == width and _repeats(lazy):
        lazy = split(lazy, (1, shape[0] - 1))[0]
        shape = lazy.shape
    if shape[-1:] != (width,) or (len(shape) > 2 and shape[0] != 1):
        return None
    return reshape(lazy, (prod(shape) // width, width))


def _repeats(lazy: Lazy) -> bool:
    """Whether all rows of the first axis are equal: a token that was repeated for each picture of a fixed batch."""
    if lazy.nbytes > REPEAT_LIMIT:
        return False
    try:
        array = lazy.read()
    except AnyvitError:
        return False
    return bool((array == array[:1]).all())
