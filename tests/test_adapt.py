"""Changes on purpose: what they compute is kept in float32, whatever the file stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.toys import toy

from anyvit.api import convert, load

CHANGES: list[dict[str, Any]] = [{"image_size": 48}, {"image_size": (24, 40)}, {"patch_size": 4}, {"in_chans": 4}]


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    state = {name: torch.from_numpy(value).to(request.param) for name, value in toy(classes=5).items()}
    torch.save(state, tmp_path / "narrow.pth")
    torch.save({name: value.float() for name, value in state.items()}, tmp_path / "wide.pth")
    return tmp_path


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@torch.no_grad()
def test_a_16_bit_file_gives_what_its_widened_weights_give(narrow: Path, changes: dict[str, Any]) -> None:
    one, two = (load(narrow / f"{name}.pth", **changes) for name in ("narrow", "wide"))
    for (name, value), expected in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_convert_stores_what_the_file_stored(narrow: Path) -> None:
    kept = torch.load(narrow / "narrow.pth")["pos_embed"].dtype
    convert(narrow / "narrow.pth", narrow / "out.safetensors", "timm", image_size=48, patch_size=4, in_chans=4)
    assert {tensor.dtype for tensor in load_file(narrow / "out.safetensors").values()} == {kept}
    convert(narrow / "narrow.pth", narrow / "out32.safetensors", "timm", image_size=48, dtype="float32")
    exact = load(narrow / "wide.pth", image_size=48).embed.pos
    assert torch.equal(load_file(narrow / "out32.safetensors")["pos_embed"][0, 1:], exact)
