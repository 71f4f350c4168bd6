"""AdaLN: what is known of a picture, such as its camera, shifts and scales the tokens after each norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument
from anyvit.model.layers import TwoLinear, choose
from anyvit.spec import Spec

CHUNKS: Mapping[str, int] = {"instantmesh": 4, "dit": 6}
"""Vectors per block: shift and scale of both branches; in "dit" a gate after each pair."""


class Modulation(NamedTuple):
    """What AdaLN does to one branch, each (B, 1, D); no gate in "instantmesh"."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None


def modulations(adaln: nn.Linear, condition: Tensor, kind: str) -> tuple[Modulation, Modulation]:
    """The modulation of the attention branch and of the MLP branch from a condition (B, D).

    Source: "instantmesh": github.com/TencentARC/InstantMesh@08822c5:src/models/encoder/dino.py ViTLayer;
    "dit": github.com/facebookresearch/DiT@ed81ce2:models.py DiTBlock
    """
    count = choose("condition", kind, CHUNKS)
    parts = adaln(F.silu(condition)).unsqueeze(1).chunk(count, dim=-1)  # (B, 1, D) each
    return Modulation(*parts[: count // 2]), Modulation(*parts[count // 2 :])


def modulate(x: Tensor, by: Modulation | None) -> Tensor:
    """Normed tokens (B, N, D), scaled and shifted."""
    return x if by is None else x * (1 + by.scale) + by.shift


def camera_embedder(spec: Spec) -> TwoLinear | None:
    """The file's own embedder of cameras, None where it has none."""
    if not spec.condition or not spec.condition_inputs:
        return None
    return TwoLinear(spec.condition_inputs, spec.embed_dim, spec.embed_dim, F.silu)


def embed_condition(spec: Spec, embedder: nn.Module | None, condition: Tensor | None, pictures: int) -> Tensor | None:
    """The embedded condition (B, D) of B pictures.

    Arguments:
        spec: the architecture.
        embedder: of cameras; None takes embedded vectors only.
        condition: (B, D) embedded, or (batch, views, inputs) cameras of batch · views = B pictures.
        pictures: B.

    Raises:
        BadArgument: a condition is missing, of another shape, or given to a model that takes none.
    """
    if spec.condition is None:
        if condition is not None:
            raise BadArgument("this model takes no condition", found=f"condition of shape {tuple(condition.shape)}")
        return None
    shapes = f"({pictures}, {spec.embed_dim}) embedded"
    if embedder is not None:
        shapes += f", or cameras (batch, views, {spec.condition_inputs}) with batch · views = {pictures}"
    if condition is None:
        raise BadArgument(
            "this model needs a condition", found=None, expected=shapes, remedy="vit(pixels, condition=cameras)"
        )
    cameras = embedder is not None and condition.ndim == 3 and condition.shape[-1] == spec.condition_inputs
    rows = condition.flatten(0, 1) if cameras else condition
    if rows.ndim != 2 or len(rows) != pictures or (not cameras and rows.shape[1] != spec.embed_dim):
        raise BadArgument("the condition has another shape", found=tuple(condition.shape), expected=shapes)
    rows = rows.to(next(embedder.parameters()).dtype) if cameras and embedder is not None else rows
    return embedder(rows) if cameras and embedder is not None else rows
