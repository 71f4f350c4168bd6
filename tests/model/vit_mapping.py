"""Other libraries' names in the model's own words: compact tables for the parity tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Rules = Sequence[tuple[str, str | None]]

IN_BLOCK: Rules = (
    (r"norm([12])\.(\w+)", r"norm\1.\2"),
    (r"attn\.(qkv|q_norm|k_norm|norm)\.(weight|bias)", r"attn.\1.\2"),
    (r"attn\.([qkv])_(?:proj\.)?(weight|bias)", r"attn.\1.\2"),
    (r"attn\.(?:proj|out_proj)\.(\w+)", r"attn.out.\1"),
    (r"attn\.(rel_pos_[hw])", r"attn.\1"),
    (r"attn\.(?:rel_pos\.)?relative_position_bias_table", "attn.rel_pos"),
    (r"attn\.relative_position_index", None),
    (r"attn\.qkv\.bias_mask", None),
    (r"(?:gamma_|ls)([12])(?:\.gamma|\.lambda1)?", r"ls\1"),
    (r"mlp\.(fc1|fc2|norm)\.(\w+)", r"mlp.\1.\2"),
    (r"mlp\.fc1_g\.(\w+)", r"mlp.gate.\1"),
    (r"mlp\.fc1_x\.(\w+)", r"mlp.up.\1"),
)


def later(digit: re.Match[str]) -> str:
    """The group number of a rule inside a block, where the block's number is the first group."""
    return str(int(digit[0]) + 1)


TIMM: Rules = (
    (r"patch_embed\.proj\.(\w+)", r"embed.patch.\1"),
    (r"(cls|reg|dist|mask)_token", r"embed.\1"),
    (r"pos_embed", "embed.table"),
    (r"norm_pre\.(\w+)", r"embed.norm.\1"),
    *((rf"blocks\.(\d+)\.{a}", b and r"blocks.\1." + re.sub(r"(?<=\\)\d", later, b)) for a, b in IN_BLOCK),
    (r"(norm|fc_norm|head|head_dist)\.(\w+)", r"\1.\2"),
    (r"rope\.freqs", "rope.freqs"),
    (r"rel_pos_bias\.relative_position_bias_table", "embed.rel_pos"),
    (r"attn_pool\.latent", "pool.query"),
    (r"attn_pool\.(q|kv|norm|mlp\.fc1|mlp\.fc2)\.(\w+)", r"pool.\1.\2"),
    (r"attn_pool\.proj\.(\w+)", r"pool.out.\1"),
    (r"neck\.0\.(\w+)", r"neck.conv1.\1"), (r"neck\.1\.(\w+)", r"neck.norm1.\1"),
    (r"neck\.2\.(\w+)", r"neck.conv2.\1"), (r"neck\.3\.(\w+)", r"neck.norm2.\1"),
)  # fmt: skip
MHA: Rules = (
    (r"class_embedding", "embed.cls"), (r"positional_embedding", "embed.table"), (r"proj", "proj.weight.T"),
    (r"conv1\.(\w+)", r"embed.patch.\1"), (r"ln_pre\.(\w+)", r"embed.norm.\1"), (r"ln_post\.(\w+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.out.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"attn_pool\.(?:probe|query)", "pool.query"), (r"attn_pool\.attn\.in_proj_(\w+)", r"pool.qkv.\1"),
    (r"attn_pool\.attn\.([qkv])_proj_weight", r"pool.\1.weight"), (r"attn_pool\.ln_q\.(\w+)", r"pool.norm_q.\1"),
    (r"attn_pool\.ln_k\.(\w+)", r"pool.norm_kv.\1"),
    (r"attn_pool\.attn\.out_proj\.(\w+)", r"pool.out.\1"), (r"attn_pool\.layernorm\.(\w+)", r"pool.norm.\1"),
    (r"attn_pool\.mlp\.c_fc\.(\w+)", r"pool.mlp.fc1.\1"), (r"attn_pool\.mlp\.c_proj\.(\w+)", r"pool.mlp.fc2.\1"),
)  # fmt: skip


def translate(state: Mapping[str, Tensor], *rules: Rules, prefix_rows: int = 0, drop: str = "$^") -> dict[str, Tensor]:
    """A state dict under the model's names; a name that no rule reads is an error."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if re.match(drop, name):
            continue
        for pattern, target in (rule for table in rules for rule in table):
            match = re.fullmatch(pattern, name)
            if match:
                if target is not None:
                    out[match.expand(target)] = value.detach().float()
                break
        else:
            raise KeyError(name)
    return fused(out, prefix_rows)


def fused(state: dict[str, Tensor], prefix_rows: int) -> dict[str, Tensor]:
    """Joins and cuts what the model keeps in other pieces."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".")
        if name == "embed.table":
            rows = value.reshape(-1, value.shape[-1])
            out["embed.pos"] = rows[prefix_rows:]
            out.update({"embed.pos_prefix": rows[:prefix_rows]} if prefix_rows else {})
        elif name in ("embed.cls", "embed.reg", "pool.query"):
            out[name] = value.reshape(-1, value.shape[-1])
        elif name in ("embed.dist", "embed.mask"):
            out[name] = value.flatten()
        elif name.endswith(".T"):
            out[name[:-2]] = value.T
        elif stem.endswith(("pool.kv", "pool.qkv")):
            letters = stem.rsplit(".", 1)[1]
            out.update({f"pool.{p}.{last}": part for p, part in zip(letters, value.chunk(len(letters)), strict=True)})
        elif re.fullmatch(r"blocks\.\d+\.attn\.[qkv]\.\w+", name):
            base = stem[:-1]
            q = state[f"{base}q.{last}"]
            out[f"{base}qkv.{last}"] = torch.cat([state.get(f"{base}{p}.{last}", torch.zeros_like(q)) for p in "qkv"])
        elif stem.endswith("gate_up"):
            gate, up = value.chunk(2)
            out.update({f"{stem[:-3]}.{last}": gate, f"{stem[:-7]}up.{last}": up})
        else:
            out[name] = value
    return out


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random and none constant, so that no mix-up can hide; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            one = (value.ndim == 1 and name.endswith("weight")) or "gamma" in name or "lambda" in name
            value.copy_(
                1 + 0.2 * noise if one else noise / max(1, value.shape[-1]) ** 0.5 if value.ndim > 1 else 0.2 * noise
            )
    return module.eval()


def picture(height: int, width: int, batch: int = 2, channels: int = 3, seed: int = 1) -> Tensor:
    """Normalised pixels (batch, channels, height, width)."""
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor | None, expected: Tensor) -> None:
    """Asserts equality to float noise, and that the expected values could tell a mistake."""
    assert found is not None and found.shape == expected.shape, (None if found is None else found.shape, expected.shape)
    size = max(1.0, float(expected.abs().max()))
    error = float((found - expected).abs().max())
    assert error <= 2e-5 * size, f"max |Δ| {error:.2e} of max {size:.2f}"
    assert float(expected.std()) > 1e-2
