"""A classifier for a model that is in memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from anyvit.heads import width
from anyvit.model import ViT
from anyvit.model.layers import linear
from anyvit.report import Finding, Trail


def give_head(vit: ViT, classes: int) -> Finding | None:
    """A classifier of zeros for so many classes, in place; one of as many classes stays.

    Arguments:
        vit: the model; its head, Spec and report change.
        classes: how many.

    Returns:
        What to say of a new head; None where the model's own stays.

    Raises:
        BadArgument: the model pools nothing that a classifier could read.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=1, num_heads=2, mlp_dim=48, image_size=32))
        >>> give_head(vit, 5).kind, vit(torch.zeros(1, 3, 32, 32)).logits.shape
        ('new', torch.Size([1, 5]))
    """
    spec = vit.spec
    if classes == spec.num_classes:
        return None
    inputs, like = width(spec), next(vit.parameters())
    vit.head, vit.head_norm = _zero(inputs, classes, like), None
    vit.head_dist = _zero(inputs, classes, like) if spec.pool == "cls+dist" else None
    names = [n for n, _ in vit.named_parameters() if n.startswith(("head.", "head_dist."))]
    was = f"in place of the one of {spec.num_classes}" if spec.num_classes else "where there was none"
    cause = f"a head of {classes} classes starts at zero, {was}"
    finding = Finding("new", tuple(names), cause, "expected: it is being trained")
    vit.spec = spec.with_facts("given", "the classes of the data", num_classes=classes, head_norm=False)
    if (report := vit.report) is not None:
        trails = [t for t in report.trails if not t.target.startswith(("head.", "head_dist.", "head_norm."))]
        trails += [Trail(name, (), "new") for name in names]
        vit._report = replace(report.adding([finding]), spec=vit.spec, trails=tuple(trails))
    return finding


def _zero(inputs: int, outputs: int, like: torch.Tensor) -> nn.Linear:
    made = linear(inputs, outputs).to(like.device, like.dtype)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made
