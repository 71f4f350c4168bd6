"""What a module is to get from a file, before anything is changed: refusals with the line that mends them, grids, towers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from support import modules  # noqa: E402
from support import peers as tiny  # noqa: E402
from support.evidence_models import position_table  # noqa: E402

import anyvit  # noqa: E402
from anyvit import plan  # noqa: E402
from anyvit.api import load_into  # noqa: E402
from anyvit.errors import Ambiguous, AnyvitError, BadArgument  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402


def dino(seed: int = 5, **options: Any) -> Any:
    return tiny.shaken(modules.Dino(**options), seed, std=0.3)


def test_gates_that_the_file_lacks_are_open() -> None:
    parts = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")
    names = [f"blocks.0.adaln.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    goal = {n: from_array(np.full((2, 2) if n.endswith("weight") else (2,), 7.0, "float32"), n) for n in names}
    made, findings = plan._with_modulation({}, goal)
    assert {n for n, t in made.items() if t.read().any()} == {"blocks.0.adaln.gate1.bias", "blocks.0.adaln.gate2.bias"}
    assert len(findings) == 1


def test_what_is_optional() -> None:
    assert plan.optional("fc_norm.weight")
    assert plan.optional("pool.mlp.fc1.bias")
    assert not plan.optional("norm.weight")
    assert not plan.optional("blocks.0.attn.k.bias")


@pytest.mark.parametrize("grid", [(2, 8), (3, 5)])
def test_a_file_fills_the_module_that_it_was_saved_from_whatever_its_grid(grid: tuple[int, int]) -> None:
    """16 rows are 4 × 4 too, and 3 × 5 with a row for cls are 16 rows."""
    source, target = dino(1, grid=grid), dino(2, grid=grid)
    report = load_into(target, source.state_dict(), heads=2)
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in target.state_dict().items())
    (said,) = [f for f in report.of("assumed") if "position table" in f.cause]
    assert "4 × 4" in said.cause and said.remedy == "grid=(4, 4)"
    assert not report.of("resized")


def test_a_table_that_shows_its_grid_is_believed_against_the_module() -> None:
    sizes = {"width": 48, "heads": 2}
    source, target = dino(1, grid=(16, 16), **sizes), dino(2, grid=(8, 32), **sizes)
    state = {**source.state_dict(), "pos_embed": torch.from_numpy(position_table(1, 16, 16, width=48)[None])}
    report = load_into(target, state, heads=2)
    assert [f.cause for f in report.of("resized")] and "16 × 16 → 8 × 32" in report.of("resized")[0].cause


def test_the_other_reading_is_had_by_grid() -> None:
    report = load_into(dino(2, grid=(2, 8)), dino(1, grid=(2, 8)).state_dict(), heads=2, grid=(4, 4))
    assert "4 × 4 → 2 × 8" in report.of("resized")[0].cause


def test_towers_of_a_module_that_are_not_filled_are_named() -> None:
    both = torch.nn.ModuleDict({"student": dino(1), "teacher": dino(2)})
    before = tiny.snapshot(both["student"])
    source = dino(3).state_dict()
    (said,) = load_into(both, source, heads=2).of("weights")
    assert said.names == ("student.",) and said.remedy == 'anyvit.load_into(module.get_submodule("student"), …)'
    assert all(torch.equal(both["student"].state_dict()[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(both["teacher"].state_dict()[name], tensor) for name, tensor in source.items())
    both["student"] = both["teacher"]
    assert not load_into(both, source, heads=2).of("weights")


def test_towers_that_nothing_tells_apart_are_asked_for() -> None:
    both = torch.nn.ModuleDict({"left": dino(1), "right": dino(2)})
    with pytest.raises(Ambiguous, match="several image towers") as caught:
        load_into(both, dino(3).state_dict(), heads=2)
    assert caught.value.remedy == 'anyvit.load_into(module.get_submodule("left"), …)'


class Lora(torch.nn.Module):
    """A linear layer as PEFT wraps it."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_a_module_that_peft_has_wrapped_is_filled() -> None:
    target, source = dino(1), dino(2)
    for block in target.blocks:
        block.attn.qkv = Lora(block.attn.qkv)
        torch.nn.init.zeros_(block.attn.qkv.lora_B["default"].weight)
    report = load_into(target, source.state_dict(), heads=2)
    assert torch.equal(target(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))
    (said,) = report.of("new")
    assert "lora_A.default.weight" in str(said.names)


def test_a_lora_adapter_in_a_file_is_still_refused() -> None:
    state = {**dino(1).state_dict(), "blocks.0.attn.qkv.lora_A.weight": torch.ones(2, 12)}
    with pytest.raises(AnyvitError, match="LoRA"):
        load_into(dino(2), state, heads=2)


@pytest.mark.parametrize("wrong", [{"a": 1}, "model.pth", modules.Dino, None])
def test_what_is_no_module_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(BadArgument, match="a module is expected"):
        load_into(wrong, dino(1).state_dict())


@pytest.mark.usefixtures("peers")
def test_a_refusal_has_the_line_that_builds_the_right_module(tmp_path: Any) -> None:
    import timm

    sizes: dict[str, Any] = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    path = tmp_path / "with space.pth"
    torch.save(tiny.shaken(timm.models.VisionTransformer(depth=3, **sizes), 1).state_dict(), path)
    target = timm.models.VisionTransformer(depth=2, **sizes)
    with pytest.raises(AnyvitError) as caught:
        load_into(target, path, heads=2)
    remedy = caught.value.remedy or ""
    assert remedy.startswith('anyvit.build("timm:')
    built = eval(remedy, {"anyvit": anyvit})
    assert len(built.blocks) == 3
