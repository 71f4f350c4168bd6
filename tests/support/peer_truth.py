"""What a peer's own module says of its architecture, in the words of `Spec`."""

from __future__ import annotations

from typing import Any

from torch import nn

HARD = ("embed_dim", "depth", "num_heads", "patch_size", "mlp_dim", "num_registers", "qkv_bias", "layer_scale", "pre_norm",
        "norm", "ffn", "qk_norm")  # fmt: skip
"""Fields that names and shapes (or a lineage) must tell."""
SOFT = ("eps", "act")
"""Fields that no tensor holds."""


ACTS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "QuickGELUActivation": "quick_gelu",
        "GELUActivation": "gelu", "PytorchGELUTanh": "gelu_tanh", "SiLUActivation": "silu", "GELUTanhActivation": "gelu_tanh"}  # fmt: skip


def truth_of(model: nn.Module) -> dict[str, Any]:
    """The architecture of a timm, open_clip or torchvision image tower."""
    name = type(model).__module__
    if name.startswith("open_clip") and hasattr(model, "trunk"):
        return truth_of(model.trunk)
    if name.startswith("open_clip"):
        return _open_clip(model)
    if name.startswith("torchvision"):
        return _torchvision(model)
    return _timm(model)


def act_of(module: Any) -> str:
    """The activation's name in the words of `Spec`."""
    name = type(module).__name__ if isinstance(module, nn.Module) else module.__name__
    if name == "GELU" and getattr(module, "approximate", "none") == "tanh":
        return "gelu_tanh"
    return ACTS.get(name, name)


def norm_of(module: nn.Module) -> str:
    return "rmsnorm" if "rms" in type(module).__name__.lower() else "layernorm"


def _timm(model: Any) -> dict[str, Any]:
    model = getattr(model, "encoder", model)
    block = model.blocks[0]
    twins = hasattr(block, "attns")
    parallel = not hasattr(block, "attn") and not twins
    attn = block.attns[0].attn if twins else block if parallel else block.attn
    mlp = block.ffns[0].mlp if twins else None if parallel else block.mlp
    norm = block.attns[0].norm if twins else block.in_norm if parallel else block.norm1
    embed = getattr(model, "embeds", None) or model.patch_embed
    patch = tuple(embed.patch_size)
    return {
        "embed_dim": model.embed_dim, "depth": len(model.blocks), "num_heads": attn.num_heads,
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        "mlp_dim": _parallel_mlp(block) if parallel else mlp.fc2.in_features,
        "num_registers": next((t.shape[1] for n, t in model.named_parameters() if n.endswith("reg_token")), 0), "qkv_bias": _qkv_bias(attn), "qk_norm": _qk_norm(attn),
        "layer_scale": _scaled(block, twins), "pre_norm": not isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity),
        "norm": norm_of(norm), "eps": norm.eps, "act": act_of(block.mlp_act if parallel else mlp.act),
        "ffn": "parallel_scaling" if parallel else "mlp_x2" if twins else _ffn(mlp),
    }  # fmt: skip


def _parallel_mlp(block: Any) -> int:
    """Inputs of the MLP's last matrix, which may be one with the output projection."""
    if hasattr(block, "mlp_out_proj"):
        return block.mlp_out_proj.in_features
    return block.out_proj.in_features - block.num_heads * block.head_dim * (2 if type(block).__name__[0] == "D" else 1)


def _qkv_bias(attn: Any) -> bool | str:
    if getattr(attn, "q_bias", None) is not None:
        return "qv"
    if getattr(attn, "qkv", None) is not None:
        return attn.qkv.bias is not None
    if hasattr(attn, "in_proj"):
        return attn.in_proj.bias is not None
    biases = [getattr(attn, f"{part}_proj").bias is not None for part in "qkv"]
    return "qv" if biases == [True, False, True] else all(biases)


def _qk_norm(attn: Any) -> bool | str:
    norm = getattr(attn, "q_norm", None)
    if norm is None or isinstance(norm, nn.Identity):
        return False
    return "full" if norm.weight.shape[0] == attn.num_heads * attn.head_dim and attn.num_heads > 1 else "head"


def _scaled(block: Any, twins: bool) -> bool:
    if twins:
        return not isinstance(block.attns[0].ls, nn.Identity)
    found = getattr(block, "gamma_1", None) if not hasattr(block, "ls1") else block.ls1
    found = block.ls if hasattr(block, "ls") else found
    return found is not None and not isinstance(found, nn.Identity)


def _ffn(mlp: Any) -> str:
    name = type(mlp).__name__
    return {"Mlp": "mlp", "GluMlp": "glu_fused", "SwiGLU": "swiglu"}.get(name, name)


def _open_clip(model: Any) -> dict[str, Any]:
    block = model.transformer.resblocks[0]
    mlp = block.mlp
    weight = model.conv1.weight
    return {
        "embed_dim": weight.shape[0], "depth": len(model.transformer.resblocks),
        "num_heads": block.attn.num_heads, "patch_size": weight.shape[2], "mlp_dim": mlp.c_proj.in_features,
        "num_registers": 0, "qkv_bias": block.attn.in_proj_bias is not None, "qk_norm": False,
        "layer_scale": not isinstance(block.ls_1, nn.Identity), "pre_norm": not isinstance(model.ln_pre, nn.Identity),
        "norm": "layernorm", "eps": block.ln_1.eps, "act": act_of(mlp.gelu), "ffn": "mlp",
    }  # fmt: skip


def _torchvision(model: Any) -> dict[str, Any]:
    block = model.encoder.layers[0]
    return {
        "embed_dim": model.hidden_dim, "depth": len(model.encoder.layers), "num_heads": block.num_heads,
        "patch_size": model.patch_size, "mlp_dim": block.mlp[3].in_features, "num_registers": 0, "qkv_bias": True,
        "qk_norm": False, "layer_scale": False, "pre_norm": False, "norm": "layernorm", "eps": block.ln_1.eps,
        "act": act_of(block.mlp[1]), "ffn": "mlp",
    }  # fmt: skip
