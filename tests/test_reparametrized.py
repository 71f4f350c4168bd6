"""Weights under a spectral norm, against torch's own parametrization and RADIO's variant of it written out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.toys import DEPTH, toy
from torch import nn
from torch.nn.utils import parametrizations

from anyvit.api import inspect, load
from anyvit.lazy import from_array
from anyvit.reparametrized import whole

G = torch.Generator().manual_seed(0)
EPS, ALPHA = 1e-6, 0.05


def normed(weight: torch.Tensor, parts: int, version: int | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What RADIO stores for one matrix, and the matrix that it computes with."""
    stored, made = {"original": weight}, []
    for number, piece in enumerate(weight.chunk(parts)):
        u, _, v = torch.linalg.svd(piece, full_matrices=False)
        u, v, scale = u[:, 0], v[0], torch.rand(1, 1, generator=G) + 0.5
        where = f"0.parts.{number}." if parts > 1 else "0."
        stored |= {where + "_u": u, where + "_v": v, where + "scale": scale}
        if version is not None:
            stored[where + "_sn_version"] = torch.tensor(version)
        factor = scale if version in (None, 1) else nn.functional.softplus(scale) + ALPHA
        made.append(piece * factor / (u @ piece @ v + EPS))
    return stored, torch.cat(made)


@pytest.mark.parametrize(("parts", "version"), [(1, 2), (1, 1), (1, None), (2, 2), (3, 2)])
def test_radio_multiplies_every_part_by_a_scale_of_its_own(parts: int, version: int | None) -> None:
    stored, expected = normed(torch.randn(12, 7, generator=G), parts, version)
    names = {f"x.fc.parametrizations.weight.{name}": from_array(t.numpy()) for name, t in stored.items()}
    made = whole({**names, "x.fc.bias": from_array(np.zeros(12, "float32"))}, {})
    assert set(made.tensors) == {"x.fc.weight", "x.fc.bias"} and set(made.sources["x.fc.weight"]) == set(names)
    assert np.allclose(made.tensors["x.fc.weight"].read(), expected, atol=1e-6)
    assert made.spread({"x.fc.weight": "carried"}) == dict.fromkeys(names, "carried")


def test_the_epsilon_of_its_arguments_is_used() -> None:
    stored, _ = normed(torch.randn(6, 5, generator=G), 1, 2)
    names = {f"x.parametrizations.weight.{name}": from_array(t.numpy()) for name, t in stored.items()}
    usual, large = (
        whole(names, {"args": {"spectral_reparam": asked}}).tensors["x.weight"].read() for asked in (True, {"eps": 1.0})
    )
    assert np.abs(usual).max() > np.abs(large).max() * 1.05


def test_torchs_own_spectral_norm() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(5, 6)).eval()
    names = {"a." + name: from_array(t.detach().numpy()) for name, t in layer.state_dict().items()}
    assert np.allclose(whole(names, {}).tensors["a.weight"].read(), layer.weight.detach(), atol=1e-6)


@torch.no_grad()
def test_a_file_of_spectral_norms_loads_as_the_weights_it_stands_for(tmp_path: Path) -> None:
    state = {name: torch.from_numpy(value) for name, value in toy().items()}
    stored, plain = dict(state), dict(state)
    for i in range(DEPTH):
        for name, parts in (("attn.qkv", 3), ("attn.proj", 1), ("mlp.fc1", 1), ("mlp.fc2", 1)):
            held, plain[f"blocks.{i}.{name}.weight"] = normed(stored.pop(f"blocks.{i}.{name}.weight"), parts, 2)
            stored |= {f"blocks.{i}.{name}.parametrizations.weight.{key}": value for key, value in held.items()}
    torch.save(stored, tmp_path / "normed.pth")
    torch.save(plain, tmp_path / "plain.pth")
    pixels = torch.randn(1, 3, 32, 32, generator=G)
    one, two = (load(tmp_path / f"{name}.pth")(pixels).tokens for name in ("normed", "plain"))
    assert torch.allclose(one, two, atol=1e-5)
    report = inspect(tmp_path / "normed.pth")
    assert set(report.fates) == set(stored) and set(report.fates.values()) == {"carried"}
    assert any(finding.kind == "folded" and "spectral" in finding.cause for finding in report.findings)
