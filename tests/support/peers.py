"""Tiny random models and their weights in any dialect, for tests that compare outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from anyvit import fit
from anyvit.api import _opened
from anyvit.dialects import get
from anyvit.reading import Ask, understand
from anyvit.report import Report


def shaken(module: Any, seed: int = 0, std: float = 0.2) -> Any:
    """The module in eval mode, every parameter random, so that none rests at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


def snapshot(module: Any) -> dict[str, torch.Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def said(
    source: Any, name: str, prefix: str | None = None, *, chunks: int | None = None, **ask: Any
) -> dict[str, torch.Tensor]:
    """The weights of a module or mapping in a dialect's names and layout."""
    found = understand(_opened(source), Ask(**ask))
    assert found.spec is not None
    dialect = get(name)
    where = (dialect.root or dialect.tower) if prefix is None else prefix
    run = fit.express(found.tensors, found.spec, dialect, where, chunks=chunks).run
    return {key: torch.from_numpy(tensor.read().copy()) for key, tensor in run.tensors.items()}


def pixels(height: int, width: int, count: int = 2) -> torch.Tensor:
    """Random normalised pictures, (count, 3, height, width)."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, and not trivially so."""
    one, two = one.detach(), two.detach()
    assert one.shape == two.shape
    assert float(one.std()) > 1e-3
    assert float((one - two).abs().max()) <= tolerance * max(1.0, float(one.abs().max()))


def assert_accounted(report: Report, source: Mapping[str, Any], module: Any) -> None:
    """Every tensor of the file and of the module is in exactly one class."""
    assert set(report.fates) == set(source)
    targets = [trail.target for trail in report.trails]
    assert sorted(targets) == sorted(module.state_dict())
    kinds = {"carried", "resized", "folded", "new", "ignored", "outside"}
    assert {trail.fate for trail in report.trails} <= kinds
    used = {name for trail in report.trails for name in trail.sources}
    assert used <= set(source)
    assert {name for name, fate in report.fates.items() if fate == "carried"} == used


def state(
    *,
    width: int = 12,
    depth: int = 2,
    grid: tuple[int, int] = (3, 3),
    patch: int = 4,
    classes: int = 0,
    registers: int = 0,
    layer_scale: bool = False,
    cls: bool = True,
    cls_row: bool = True,
    qkv_bias: bool = True,
    pre_norm: bool = False,
    patch_bias: bool = True,
    gated: bool = False,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Random weights of a small ViT in timm's names (a gated MLP in DINOv2's)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * width
    rows = grid[0] * grid[1] + (cls and cls_row)
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width)} if cls else {}
    shapes |= {"pos_embed": (1, rows, width), "patch_embed.proj.weight": (width, 3, patch, patch)}
    shapes |= {"patch_embed.proj.bias": (width,)} if patch_bias else {}
    shapes |= {"reg_token": (1, registers, width)} if registers else {}
    shapes |= _pair("norm_pre", width) if pre_norm else {}
    for i in range(depth):
        block = f"blocks.{i}."
        shapes |= _pair(block + "norm1", width) | {block + "attn.qkv.weight": (3 * width, width)}
        shapes |= {block + "attn.qkv.bias": (3 * width,)} if qkv_bias else {}
        shapes |= _pair(block + "attn.proj", width, width) | _pair(block + "norm2", width)
        if gated:
            shapes |= _pair(block + "mlp.w12", 2 * hidden, width) | _pair(block + "mlp.w3", width, hidden)
        else:
            shapes |= _pair(block + "mlp.fc1", hidden, width) | _pair(block + "mlp.fc2", width, hidden)
        shapes |= {block + "ls1.gamma": (width,), block + "ls2.gamma": (width,)} if layer_scale else {}
    shapes |= _pair("norm", width) | (_pair("head", classes, width) if classes else {})
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def _pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
