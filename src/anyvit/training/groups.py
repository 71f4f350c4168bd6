"""Which parameters are trained, and at which rate: parts frozen, rates by depth, new parameters at their own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyvit.canon import block_of
from anyvit.errors import BadArgument
from anyvit.model import ViT

UNUSED = ("embed.mask",)
"""Parameters that features do not use and that therefore never learn."""
HEADS = ("head.", "head_dist.")
BEHIND = ("norm.", "cls_norm.", "fc_norm.", "pool.", "neck.", "pre_logits.", "proj.", *HEADS)
"""Parts behind the blocks."""
NEW_RATE = 10.0
"""Rate of new parameters over that of the others, unless one is given."""


@dataclass(frozen=True)
class Group:
    """Parameters of one rate.

    Arguments:
        names: of the parameters.
        lr: their learning rate at its height.
        weight_decay: theirs.
        layer: 0 for the embedding, n for block n - 1, depth + 1 for what is behind the blocks; None for new parameters.
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float
    layer: int | None

    def __str__(self) -> str:
        where = "new" if self.layer is None else f"layer {self.layer}"
        return f"{where}: {len(self.names)} tensors, lr {self.lr:.3g}, weight decay {self.weight_decay:g}"


def model_of(vit: Any) -> ViT:
    """A ViT itself, or the one that `load` makes of a file."""
    if isinstance(vit, ViT):
        return vit
    from anyvit.api import load

    return load(vit)


def new_parameters(vit: ViT, said: Sequence[str] | None = None) -> frozenset[str]:
    """Names of parameters that no file has filled, wholly or in part, as the caller or the model's report and Spec tell.

    A head, AdaLN and its embedder, added registers or class tokens, a patch kernel for other channels.

    Arguments:
        vit: a model; one without a report has no new parameters.
        said: beginnings of their names, by the caller; None asks the report.
    """
    if said is not None:
        return frozenset(n for n, _ in vit.named_parameters() if n.startswith(tuple(said)))
    report, facts = vit.report, vit.spec.facts
    if report is None:
        return frozenset()
    names = {re.sub(r"\.adaln\.\w+\.", ".adaln.", t.target) for t in report.trails if t.fate == "new"}
    names |= {n for f in report.of("new") for n in f.names if n.startswith("embed.")}
    if "in_chans" in facts and facts["in_chans"].source == "the argument in_chans=":
        names.add("embed.patch.weight")
    if vit.head is not None and not vit.head.weight.detach().any(1).all():
        names |= {n for n, _ in vit.named_parameters() if n.startswith(HEADS)}
    return frozenset(names & {n for n, _ in vit.named_parameters()})


def chosen(vit: ViT, train: str | Sequence[str], new: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the parameters that are trained, in the model's order; those without `requires_grad` never are.

    Arguments:
        vit: the model.
        train: "all"; "head" the classifier; "new" what is new; "last:N" the last N blocks, all behind them and what is
            new; or beginnings of names, as in ("blocks.11.", "head.").
        new: names of new parameters.

    Raises:
        BadArgument: another word, or nothing is left to be trained.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=3, num_heads=2, mlp_dim=48, image_size=32, num_classes=2))
        >>> chosen(vit, "head")
        ('head.weight', 'head.bias')
    """
    names = [n for n, p in vit.named_parameters() if p.requires_grad and n not in UNUSED]
    picked = tuple(n for n in names if _picks(vit, train, n, new))
    if not picked:
        usual = "all of them have requires_grad=False" if train == "all" else None
        raise BadArgument("nothing is left to be trained", found=f"train={train!r}", usual=usual)
    return picked


def _picks(vit: ViT, train: str | Sequence[str], name: str, new: Collection[str]) -> bool:
    if not isinstance(train, str):
        return name.startswith(tuple(train))
    if train == "all":
        return True
    if train == "head":
        return name.startswith(HEADS)
    if train == "new":
        return name in new
    found = re.fullmatch(r"last:(\d+)", train)
    if found is None:
        expected = '"all", "head", "new", "last:N", or beginnings of names'
        raise BadArgument("train says which parameters are trained", found=train, expected=expected)
    block = block_of(name)
    last = block is not None and block >= vit.spec.depth - int(found[1])
    return last or name in new or name.startswith(BEHIND)


def layer_of(name: str, depth: int) -> int:
    """0 for the embedding, n for block n - 1, depth + 1 for what is behind the blocks.

    Example:
        >>> [layer_of(n, 12) for n in ("embed.pos", "blocks.0.norm1.weight", "blocks.11.ls1", "norm.bias")]
        [0, 1, 12, 13]
    """
    block = block_of(name)
    if block is not None:
        return block + 1
    return 0 if name.startswith(("embed.", "rope.")) else depth + 1


def groups(
    vit: ViT,
    names: Sequence[str],
    *,
    lr: float,
    new: Collection[str] = (),
    new_lr: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 0.0,
) -> tuple[Group, ...]:
    """Parameters by rate: lr · layer_decay^(depth + 1 - layer), and new ones at their own.

    Vectors (norms, biases, LayerScale), tokens and position tables have no weight decay.

    Arguments:
        vit: the model.
        names: of the parameters that are trained.
        lr: of what is behind the blocks.
        new: names of new parameters.
        new_lr: theirs; None for ten times lr.
        layer_decay: factor from one layer to the one before it.
        weight_decay: of matrices.

    Source: facebookresearch/mae@efb2a80: util/lr_decay.py param_groups_lrd
    """
    parameters, depth = dict(vit.named_parameters()), vit.spec.depth
    found: dict[tuple[float, float, int | None], list[str]] = {}
    for name in names:
        layer = None if name in new else layer_of(name, depth)
        top = NEW_RATE * lr if new_lr is None else new_lr
        rate = top if layer is None else lr * layer_decay ** (depth + 1 - layer)
        decay = weight_decay if _decays(name, parameters[name]) else 0.0
        found.setdefault((rate, decay, layer), []).append(name)
    ordered = sorted(found.items(), key=lambda item: (item[0][2] is None, item[0][2] or 0, -item[0][1]))
    return tuple(Group(tuple(some), *key) for key, some in ordered)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and name.endswith("weight")


def optimizer(vit: ViT, grouped: Sequence[Group], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW over groups, in their order; `base` of each is its rate at its height."""
    parameters = dict(vit.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [parameters[n] for n in g.names], "lr": g.lr, "weight_decay": g.weight_decay, "base": g.lr}
            for g in grouped
        ],
        betas=betas,
    )


@contextlib.contextmanager
def only(vit: ViT, names: Collection[str]) -> Iterator[None]:
    """A block in which only some parameters are trained; which ones were before is restored behind it.

    The key bias of a model that has none stays zero: our fused bias has rows for it, which would learn.

    Arguments:
        vit: the model.
        names: of the parameters.
    """
    before = {name: p.requires_grad for name, p in vit.named_parameters()}
    hooks = []
    for name, parameter in vit.named_parameters():
        parameter.requires_grad_(name in names)
        if name in names and name.endswith("attn.qkv.bias") and vit.spec.qkv_bias == "qv":
            hooks.append(parameter.register_hook(_without_key))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in vit.named_parameters():
            parameter.requires_grad_(before[name])
            parameter.grad = None


def _without_key(gradient: Tensor) -> Tensor:
    rows = len(gradient) // 3
    return torch.cat((gradient[:rows], torch.zeros_like(gradient[:rows]), gradient[2 * rows :]))
