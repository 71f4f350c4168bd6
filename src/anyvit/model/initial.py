"""The values that training from scratch starts with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anyvit import resample
from anyvit.model.positions import kinds, native_grid
from anyvit.model.rope import RotaryEmbedding
from anyvit.spec import Spec

STD = 0.02
"""Standard deviation of weights, cut off at two absolute units.

Source: github.com/google-research/vision_transformer and timm's vision_transformer.py init_weights_vit_timm
"""

LAYER_SCALE = 1e-5
"""Source: github.com/facebookresearch/dinov2@b8931f7:dinov2/configs/ssl_default_config.yaml layerscale"""


@torch.no_grad()
def initialise(vit: nn.Module) -> None:
    """Draws every parameter of a ViT anew.

    Weights come from a truncated normal distribution. Biases, decomposed relative positions, the mask token and AdaLN
    are zero, so that "instantmesh" conditioning starts as none. Stored sine-cosine tables are computed.

    Arguments:
        vit: the model; its random numbers come from torch's global generator.
    """
    spec: Spec = vit.spec  # type: ignore[assignment]
    for module in vit.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm, RotaryEmbedding)):
            module.reset_parameters()
    for name, tensor in (*vit.named_parameters(), *vit.named_buffers()):
        _set(name, tensor, spec)


def _set(name: str, tensor: Tensor, spec: Spec) -> None:
    last = name.rsplit(".", 1)[-1]
    if name == "embed.pos" and "sincos" in kinds(spec):
        tensor.copy_(torch.from_numpy(resample.sincos2d(*native_grid(spec), spec.embed_dim, kind="mae")))
    elif name.startswith("embed.pos_prefix") and "sincos" in kinds(spec):
        nn.init.zeros_(tensor)
    elif last in ("cls", "dist", "reg", "pos", "pos_prefix", "query", "rel_pos"):
        nn.init.trunc_normal_(tensor, std=STD)
    elif (
        last in ("rel_pos_h", "rel_pos_w")
        or name in ("embed.mask", "head_norm.mean", "whiten.mean")
        or ".adaln." in name
    ):
        nn.init.zeros_(tensor)
    elif last.startswith("lambda_"):
        nn.init.zeros_(tensor) if tensor.ndim == 0 else nn.init.normal_(tensor, std=0.1)
    elif last in ("ls1", "ls2"):
        nn.init.constant_(tensor, LAYER_SCALE)
    elif name == "whiten.weight":
        nn.init.eye_(tensor)
    elif name == "head_norm.var":
        nn.init.ones_(tensor)
