"""The small parts: linear, norm, activation and the MLPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument
from anyvit.spec import Spec

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid form of GELU that OpenAI's CLIP was trained with.

    Source: github.com/openai/CLIP@d05afc4:clip/model.py QuickGELU
    """
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, which is flax's default."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "relu": F.relu,
}


def choose(field: str, value: Any, choices: Mapping[str, T]) -> T:
    """The choice that a field of the Spec names.

    Raises:
        BadArgument: the model has no such part.

    Example:
        >>> choose("act", "gelu_tanh", ACTIVATIONS).__name__
        'gelu_tanh'
    """
    if value not in choices:
        raise BadArgument(f"the model has no {field} of this kind", found=value, expected=", ".join(choices))
    return choices[value]


@cache
def _undrawn(kind: type[nn.Module]) -> type[nn.Module]:
    """A layer's class without its own drawing of values."""
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})


def bare(kind: type[M], *args: Any, **kwargs: Any) -> M:
    """A layer whose values are not drawn yet: `ViT.reset_parameters` or a checkpoint sets them.

    As `torch.nn.utils.skip_init`, without its way over the meta device and back, which costs more than the layer.
    """
    layer = _undrawn(kind)(*args, **kwargs)
    layer.__class__ = kind
    return cast(M, layer)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer whose values are not drawn yet."""
    return bare(nn.Linear, inputs, outputs, bias=bias)


def empty(*shape: int) -> nn.Parameter:
    """A parameter whose values are not drawn yet."""
    return nn.Parameter(torch.empty(*shape))


def make_norm(spec: Spec, width: int, kind: str | None = None) -> nn.Module:
    """The norm of a Spec over the last `width` channels; `kind` where it is not the one of the blocks."""
    kind = kind or spec.norm
    if kind == "layernorm":
        return nn.LayerNorm(width, eps=spec.eps, bias=spec.norm_bias)
    return choose("norm", kind, {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm})(width, eps=spec.eps)


class Mlp(nn.Module):
    """Two matrices with an activation between, and a norm before the second where the Spec has one."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.act = choose("act", spec.act, ACTIVATIONS)
        self.fc1 = linear(spec.embed_dim, spec.mlp_dim, spec.mlp_bias)
        self.norm = make_norm(spec, spec.mlp_dim) if spec.mlp_norm else nn.Identity()
        # timm's differential parallel block has one output bias for both branches, which attn.out carries.
        one = spec.ffn == "parallel_scaling" and spec.diff_attn is not None
        self.fc2 = linear(spec.mlp_dim, spec.embed_dim, spec.mlp_bias and not one)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))  # (B, N, M)
        return self.fc2(self.norm(x))  # (B, N, D)


class GatedMlp(nn.Module):
    """Three matrices: act(gate) · up, then down (SwiGLU where the activation is SiLU).

    Source: Shazeer 2020, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.act = choose("act", spec.act, ACTIVATIONS)
        self.gate = linear(spec.embed_dim, spec.mlp_dim, spec.mlp_bias)
        self.up = linear(spec.embed_dim, spec.mlp_dim, spec.mlp_bias)
        self.norm = make_norm(spec, spec.mlp_dim) if spec.mlp_norm else nn.Identity()
        self.down = linear(spec.mlp_dim, spec.embed_dim, spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.gate(x)) * self.up(x)  # (B, N, M)
        return self.down(self.norm(x))  # (B, N, D)


FFNS: Mapping[str, type[nn.Module]] = {
    "mlp": Mlp,
    "parallel_scaling": Mlp,
    "swiglu": GatedMlp,
    "swiglu_fused": GatedMlp,
    "glu_fused": GatedMlp,
}


class TwoLinear(nn.Module):
    """fc1, an activation, fc2: the MLP of a pool, a projection or a camera embedder."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, act: Callable[[Tensor], Tensor], bias: bool = True
    ) -> None:
        super().__init__()
        self.act = act
        self.fc1 = linear(inputs, hidden)
        self.fc2 = linear(hidden, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
