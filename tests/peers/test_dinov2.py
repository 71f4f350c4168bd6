"""DINOv2's own layout: training checkpoints with chunked blocks, teachers under prefixes, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.modules import Dino  # noqa: E402
from support.peers import assert_accounted, assert_close, pixels, shaken, state  # noqa: E402

from anyvit.api import convert, inspect, load_into  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402

DEPTH = 5


def dino(seed: int = 0, **options: Any) -> Any:
    return shaken(Dino(depth=DEPTH, **options), seed, 0.3)


def look() -> torch.Tensor:
    return pixels(12, 12)


def training_checkpoint(model: Any) -> dict[str, Any]:
    """What DINOv2's training writes: teacher and student with their heads, optimizer, iteration."""
    weights = model.state_dict()
    heads = {"dino_head.mlp.0.weight": torch.ones(3, 12), "dino_head.last_layer.weight_v": torch.ones(4, 3)}
    teacher = {f"backbone.{name}": tensor for name, tensor in weights.items()} | heads
    student = {f"module.{name}": tensor + 1 for name, tensor in teacher.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(12)}}, "param_groups": [{"lr": 0.1}]}
    return {"teacher": teacher, "student": student, "optimizer": optimizer, "iteration": 3}


@pytest.mark.parametrize("chunks", [0, 1, 2, 4])
def test_a_teacher_checkpoint_fills_any_chunking(chunks: int, tmp_path: Path) -> None:
    source, target = dino(chunks=2), dino(1, chunks=chunks)
    torch.save(training_checkpoint(source), tmp_path / "teacher_checkpoint.pth")
    report = load_into(target, tmp_path / "teacher_checkpoint.pth", heads=2)
    assert_close(target(look()), source(look()))
    assert report.match is not None and report.match.prefix == "teacher.backbone."
    assert {report.fates[name] for name in report.fates if name.startswith("student.")} == {"outside"}
    assert report.fates["teacher.dino_head.mlp.0.weight"] == "outside"
    assert {trail.fate for trail in report.trails} == {"carried"}


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5])
def test_chunks_are_cut_as_dinov2_cuts_them(chunks: int, tmp_path: Path) -> None:
    source = dino()
    convert(source.state_dict(), tmp_path / "chunked.pth", "dinov2-chunked", chunks=chunks, heads=2)
    written = torch.load(tmp_path / "chunked.pth", weights_only=True)
    target = dino(1, chunks=chunks)
    target.load_state_dict(written, strict=True)
    assert torch.equal(target(look()), source(look()))
    convert(tmp_path / "chunked.pth", tmp_path / "flat.pth", "dinov2", heads=2)
    back = torch.load(tmp_path / "flat.pth", weights_only=True)
    assert set(back) == set(source.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("chunks", [0, 6, -1])
def test_a_number_of_chunks_that_does_not_exist(chunks: int, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="between 1 and the depth"):
        convert(dino().state_dict(), tmp_path / "x.pth", "dinov2-chunked", chunks=chunks, heads=2)
    assert not list(tmp_path.iterdir())


def test_chunks_are_for_chunked_dialects(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="dinov2 has none"):
        convert(dino().state_dict(), tmp_path / "x.pth", "dinov2", chunks=2, heads=2)


def test_registers_and_a_gated_mlp_go_there_and_back(tmp_path: Path) -> None:
    source = {**state(depth=3, registers=2, gated=True, layer_scale=True)}
    source["register_tokens"] = source.pop("reg_token")
    source["mask_token"] = torch.ones(1, 12)
    convert(source, tmp_path / "hf", "hf-dinov2-with-registers", heads=2)
    assert inspect(tmp_path / "hf").spec.num_registers == 2
    convert(tmp_path / "hf", tmp_path / "back.pth", "dinov2")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == set(source)
    assert all(torch.equal(back[name], tensor) for name, tensor in source.items())


def test_a_mask_token_that_the_target_wants_is_zero(tmp_path: Path) -> None:
    report = convert(state(), tmp_path / "out.pth", "dinov2", heads=2)
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert not written["mask_token"].any()
    assert any("mask_token" in str(f) or "embed.mask" in str(f) for f in report.of("folded"))
    target = Dino(scaled=False)
    target.load_state_dict(written, strict=True)
    report = load_into(target, tmp_path / "out.pth", heads=2)
    assert_accounted(report, written, target)
