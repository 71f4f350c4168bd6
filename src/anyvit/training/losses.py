"""The default loss, what it asks of labels, and the accuracy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyvit.errors import BadArgument
from anyvit.model import Features, ViT
from anyvit.training.data import Examples, batch

Loss = Callable[[Features, Tensor], Tensor]
"""Features of a batch and its labels → a scalar."""


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises BadArgument for labels that are no numbers of classes."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if labels.is_floating_point() or len(wrong):
        usual = "classes counted from 1" if len(wrong) and int(wrong.max()) == classes else None
        found = "numbers with a fraction" if labels.is_floating_point() else sorted(set(wrong.tolist()))[:5]
        raise BadArgument(
            "labels out of range", found=found, expected=f"whole numbers from 0 to {classes - 1}", usual=usual
        )


def cross_entropy(features: Features, labels: Tensor) -> Tensor:
    """The default loss, of logits (B, C) and labels (B,).

    Raises:
        BadArgument: the model has no classifier, or a label has no class.
    """
    if features.logits is None:
        raise BadArgument("the model has no classifier, so there are no logits", remedy="classes=… or loss=…")
    check_labels(labels, features.logits.shape[1])
    return F.cross_entropy(features.logits.float(), labels)


@torch.no_grad()
def accuracy(vit: ViT, some: Examples, size: int, device: Any = "cpu", autocast: Any = None) -> float:
    """The fraction of pictures whose largest logit is that of their label.

    Arguments:
        vit: a model with a classifier; its mode is kept.
        some: the pictures.
        size: of a batch.
        device: where the model lies.
        autocast: makes the context to compute in.
    """
    training, right = vit.training, 0
    vit.eval()
    for start in range(0, len(some), size):
        x = batch([some[n] for n in range(start, min(start + size, len(some)))], vit.spec)
        with contextlib.nullcontext() if autocast is None else autocast():
            logits = vit(x.pixels.to(device), None if x.condition is None else x.condition.to(device)).logits
        assert logits is not None
        right += int((logits.argmax(1).cpu() == x.label).sum())
    vit.train(training)
    return right / len(some)
