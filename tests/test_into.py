"""Filling modules: all is accounted for, refusals change nothing, shapes are adapted, types are the module's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from support import modules  # noqa: E402
from support import peers as tiny  # noqa: E402

import anyvit  # noqa: E402
from anyvit import containers, into  # noqa: E402
from anyvit.api import load, load_into  # noqa: E402
from anyvit.containers.files import LocalFile  # noqa: E402
from anyvit.errors import BadArgument, FileError, Incomplete, NotAViT, Unsayable  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.target import differences  # noqa: E402
from anyvit.torch_io import fill_from  # noqa: E402


def dino(seed: int = 5, **options: Any) -> Any:
    return tiny.shaken(modules.Dino(**options), seed, std=0.3)


def refused(module: Any, source: Any, error: type[Exception], **options: Any) -> Exception:
    """The error of a fill, which must leave the module as it was."""
    before = tiny.snapshot(module)
    with pytest.raises(error) as info:
        load_into(module, source, heads=2, **options)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return info.value


def finding(report: Any, kind: str, word: str = "") -> Any:
    found = [f for f in report.of(kind) if word in str(f)]
    assert found, f"no {kind} finding with {word!r} in {[str(f) for f in report.findings]}"
    return found[0]


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
@pytest.mark.parametrize("told", ["dinov2", "dinov2-chunked", "timm", "hf-dinov2", "teacher"])
def test_a_dino_module_computes_what_the_source_computes(chunks: int, told: str) -> None:
    source = dino(depth=4)
    weights: Any = source.state_dict()
    if told == "teacher":
        weights = {"teacher": {f"backbone.{n}": t for n, t in weights.items()}, "student": {}, "iteration": 3}
    elif told != "dinov2":
        weights = tiny.said(source, told, "", chunks=3 if "chunked" in told else None)
    target = dino(6, depth=4, chunks=chunks)
    load_into(target, weights, heads=2)
    tiny.assert_close(target(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))


def test_every_tensor_of_file_and_module_is_in_one_class() -> None:
    source = {**tiny.state(classes=5), "extra.weight": torch.ones(3)}
    target = dino()
    report = load_into(target, source, heads=2)
    tiny.assert_accounted(report, source, target)
    assert report.fates["head.weight"] == "ignored"
    assert report.fates["extra.weight"] == "unexplained"
    fates = {trail.target: trail.fate for trail in report.trails}
    assert fates["mask_token"] == "new"
    assert fates["blocks.0.attn.qkv.weight"] == "carried"
    assert fates["blocks.1.ls1.gamma"] == "new"


def test_the_names_of_a_compiled_module_are_its_own() -> None:
    source, target = dino(), modules.Holder(model=modules.Holder(_orig_mod=dino(6)))
    report = load_into(target, source.state_dict(), heads=2)
    tiny.assert_accounted(report, source.state_dict(), target)
    tiny.assert_close(target.model._orig_mod(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))


def test_a_missing_backbone_tensor_is_named_and_nothing_changes() -> None:
    source = tiny.state()
    del source["norm.weight"], source["norm.bias"]
    error = refused(dino(), source, Incomplete, dialect="timm")
    assert "norm.weight" in str(error)


def test_a_refusal_carries_the_report() -> None:
    error = refused(dino(depth=3), tiny.state(depth=2, layer_scale=True), Incomplete)
    report = error.report  # type: ignore[attr-defined]
    assert report is not None and not report.ok
    (found,) = [f for f in report.findings if f.fatal]
    assert found.kind == "missing" and any("blocks.2." in name for name in found.names)
    assert "depth: 2 in the file, 3 in the module" in found.cause
    json.loads(report.to_json())


def test_another_depth_is_refused_with_its_cause() -> None:
    error = refused(dino(depth=3), tiny.state(depth=2), Incomplete)
    assert "depth: 2 in the file, 3 in the module" in str(error)
    assert "blocks.2.norm1.weight" in str(error)
    error = refused(dino(depth=2), tiny.state(depth=3), Unsayable)
    assert "depth: 3 in the file, 2 in the module" in str(error)


def test_another_width_is_refused_with_its_cause() -> None:
    error = refused(dino(width=16), tiny.state(width=12), Incomplete)
    assert "width: 12 in the file, 16 in the module" in str(error)


@pytest.mark.parametrize(("has", "wants", "error"), [(2, 0, Unsayable), (0, 2, Incomplete), (2, 3, Incomplete)])
def test_registers_that_differ_are_refused_with_their_cause(has: int, wants: int, error: type[Exception]) -> None:
    raised = refused(dino(registers=wants), tiny.state(registers=has), error)
    assert f"registers: {has} in the file, {wants} in the module" in str(raised)


def test_a_gated_mlp_does_not_fit_a_plain_one() -> None:
    error = refused(dino(), tiny.state(gated=True), Incomplete)
    assert "kind of MLP: gated in the file, plain in the module" in str(error)


def test_names_without_a_layout_are_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    refused(module, tiny.state(), NotAViT)


def test_layer_scale_that_the_module_lacks_is_folded() -> None:
    source, target = dino(scaled=True), dino(6, scaled=False)
    report = load_into(target, source.state_dict(), heads=2)
    finding(report, "folded", "LayerScale was folded")
    fates = {trail.target: trail.fate for trail in report.trails}
    assert fates["blocks.0.attn.proj.weight"] == "folded"
    tiny.assert_close(target(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))


def test_layer_scale_that_the_file_lacks_is_one() -> None:
    source, target = dino(scaled=False), dino(6, scaled=True)
    report = load_into(target, source.state_dict(), heads=2)
    finding(report, "folded", "LayerScale of ones")
    assert torch.equal(target.blocks[1].ls2.gamma, torch.ones(12))
    assert torch.equal(target(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))


def test_a_position_table_without_a_row_for_cls_is_unfolded() -> None:
    source = tiny.state(cls_row=False, grid=(4, 4))
    target = dino(grid=(4, 4))
    report = load_into(target, source, heads=2)
    finding(report, "folded", "0 → 1, with zeros")
    assert not target.pos_embed[0, 0].any()
    assert torch.equal(target.pos_embed[0, 1:], source["pos_embed"][0])


def test_shapes_are_adapted_and_said() -> None:
    source = tiny.state(grid=(4, 4))
    target = dino(patch=2, grid=(3, 5))
    report = load_into(target, source, heads=2)
    finding(report, "resized", "patch kernel 4 × 4 → 2 × 2")
    finding(report, "resized", "position table 4 × 4 → 3 × 5")
    fates = {trail.target: trail.fate for trail in report.trails}
    assert fates["pos_embed"] == fates["patch_embed.proj.weight"] == "resized"


def test_other_channels_are_adapted_and_said() -> None:
    target = dino()
    target.patch_embed.proj = torch.nn.Conv2d(5, 12, 4, 4)
    report = load_into(target, tiny.state(), heads=2)
    finding(report, "resized", "3 → 5 channels")


@pytest.mark.parametrize("init", [None, "zeros"])
def test_a_head_that_the_file_lacks(init: str | None) -> None:
    with_head = load(tiny.state(classes=4), heads=2)
    before = with_head.head.weight.detach().clone()
    report = load_into(with_head, tiny.state(seed=3), heads=2, init=init)
    said = finding(report, "new", "head.weight")
    assert set(said.names) == {"head.weight", "head.bias"}
    expected = before if init is None else torch.zeros_like(before)
    assert torch.equal(with_head.head.weight, expected)


def test_a_head_in_a_place_that_is_only_read_is_filled() -> None:
    target, source = dino(), tiny.state(classes=4)
    target.head = torch.nn.Linear(12, 4)
    report = load_into(target, source, heads=2)
    assert torch.equal(target.head.weight, source["head.weight"])
    tiny.assert_accounted(report, source, target)


def test_a_head_of_another_size_is_left_and_named() -> None:
    module = load(tiny.state(classes=4), heads=2)
    before = module.head.weight.detach().clone()
    report = load_into(module, tiny.state(classes=6, seed=3), heads=2)
    assert "(6, 12) in the file, (4, 12) in the module" in str(finding(report, "ignored", "head.weight"))
    assert torch.equal(module.head.weight, before)


def test_init_is_none_or_zeros() -> None:
    refused(dino(), tiny.state(), BadArgument, init="ones")


def test_the_module_keeps_its_types() -> None:
    target = dino().to(torch.bfloat16)
    load_into(target, tiny.state(), heads=2)
    assert {tensor.dtype for tensor in target.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(target.norm.weight, tiny.state()["norm.weight"].bfloat16())


def test_the_module_keeps_its_parameters_and_shares_nothing_with_the_source() -> None:
    target, source = dino(), tiny.state()
    before = {name: id(parameter) for name, parameter in target.named_parameters()}
    load_into(target, source, heads=2)
    assert {name: id(parameter) for name, parameter in target.named_parameters()} == before
    source["norm.weight"].zero_()
    assert target.norm.weight.detach().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_files_are_read_straight_into_the_module(
    dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    containers.save({n: from_array(t.numpy(), n) for n, t in tiny.state().items()}, path)
    plain, straight = dino().to(dtype), dino().to(dtype)
    straight.norm.weight = torch.nn.Parameter(straight.norm.weight.detach().repeat(2)[::2])
    load_into(plain, path, heads=2)
    read: list[Any] = []
    monkeypatch.setattr(into, "WHOLE", 0)
    monkeypatch.setattr(into, "fill_from", lambda lazy, *rest: read.append(lazy) or fill_from(lazy, *rest))
    load_into(straight, path, heads=2)
    assert all(torch.equal(t, straight.state_dict()[n]) for n, t in plain.state_dict().items())
    assert bool(read) == (dtype == torch.float32)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("check", ["beside", "off"])
def test_a_large_file_that_breaks_off(suffix: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file has checksums, they are taken before anything is changed; else the error says what is left."""
    path, module = tmp_path / f"a.{suffix}", dino()
    containers.save({n: from_array(t.numpy(), n) for n, t in tiny.state().items()}, path)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    monkeypatch.setattr(into, "WHOLE", 0)
    monkeypatch.setattr("anyvit.deep.settle", lambda found, **_: found)
    read, count = LocalFile.read_into, 0

    def broken(file: LocalFile, offset: int, room: memoryview) -> None:
        nonlocal count
        count += 1
        if count > 5:
            raise FileError("the disk is gone")
        read(file, offset, room)

    monkeypatch.setattr(LocalFile, "read_into", broken)
    with pytest.raises(FileError, match="the disk is gone") as caught:
        load_into(module, path, heads=2, check=check)
    changed = any(not torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert changed == (suffix == "safetensors" or check == "off")
    assert ("filled in part" in str(caught.value)) == changed


def test_large_files_are_looked_at_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {n: t.numpy().copy() for n, t in tiny.state().items()}
    state["blocks.0.mlp.fc1.weight"][3, 2] = np.nan
    containers.save({n: from_array(t, n) for n, t in state.items()}, tmp_path / "a.safetensors")
    monkeypatch.setattr(into, "WHOLE", 0)
    size, read, count = (tmp_path / "a.safetensors").stat().st_size, LocalFile.read_into, 0

    def counted(file: LocalFile, offset: int, room: memoryview) -> None:
        nonlocal count
        count += len(room)
        read(file, offset, room)

    monkeypatch.setattr(LocalFile, "read_into", counted)
    monkeypatch.setattr("anyvit.deep.settle", lambda found, **_: found)
    monkeypatch.setattr("anyvit.deep.odd_blocks", lambda *_: ())
    report = load_into(dino(), tmp_path / "a.safetensors", heads=2, check="beside")
    assert [f.cause for f in report.of("nan")] == [
        f"NaN or infinite values: blocks.0.mlp.fc1.weight[3, 2] = nan (1 of {state['blocks.0.mlp.fc1.weight'].size} values)"
    ]
    assert 0.9 * size < count < 1.2 * size


def test_a_module_on_meta_is_filled() -> None:
    source = dino()
    with torch.device("meta"):
        target = modules.Dino()
    load_into(target, source.state_dict(), heads=2)
    assert not any(tensor.is_meta for tensor in target.state_dict().values())
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in target.parameters())
    tiny.assert_close(target(tiny.pixels(12, 12)), source(tiny.pixels(12, 12)))
    source.norm.weight.data.zero_()
    assert target.norm.weight.detach().any()


def test_a_buffer_on_meta_that_nobody_can_compute_is_refused() -> None:
    with torch.device("meta"):
        target = modules.Dino()
        target.norm.register_buffer("table", torch.ones(3), persistent=False)
    with pytest.raises(Incomplete, match=r"norm\.table"):
        load_into(target, tiny.state(layer_scale=True), heads=2)
    assert target.norm.weight.is_meta


def test_modulation_that_the_file_lacks_is_zero_and_changes_nothing() -> None:
    source = tiny.shaken(modules.ConditionedViT(), 1, 0.3)
    plain = {name: t for name, t in source.state_dict().items() if "adaLN" not in name}
    target = tiny.shaken(modules.ConditionedViT(), 2, 0.3)
    condition = torch.randn(2, 12)
    assert not torch.allclose(target(tiny.pixels(12, 12), condition), target(tiny.pixels(12, 12)))
    report = load_into(target, plain, heads=2)
    finding(report, "new", "adaLN_modulation")
    tiny.assert_accounted(report, plain, target)
    conditioned = target(tiny.pixels(12, 12), condition)
    assert torch.equal(conditioned, target(tiny.pixels(12, 12)))
    tiny.assert_close(conditioned, source(tiny.pixels(12, 12)))


def test_modulation_of_unknown_names_is_zero_too() -> None:
    target = dino()
    for block in target.blocks:
        block.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(12, 48))
    report = load_into(target, tiny.state(), heads=2)
    assert not any(p.any() for n, p in target.named_parameters() if "adaLN" in n)
    finding(report, "new", "adaLN_modulation")
    tiny.assert_accounted(report, tiny.state(), target)


def test_unknown_parts_of_a_module_are_left_and_named() -> None:
    target = dino()
    target.blocks[0].adapter = torch.nn.Linear(12, 12)
    before = target.blocks[0].adapter.weight.detach().clone()
    report = load_into(target, tiny.state(), heads=2)
    finding(report, "new", "blocks.0.adapter.weight")
    assert torch.equal(target.blocks[0].adapter.weight, before)


def test_a_text_tower_that_both_have_is_carried() -> None:
    source, target = modules.Clip(), modules.Clip()
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in source.state_dict().items()}
    report = load_into(target, weights, heads=2)
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in target.state_dict().items())
    tiny.assert_accounted(report, weights, target)
    assert set(report.fates.values()) == {"carried"}
    assert not report.of("outside")


def test_a_text_tower_that_the_file_lacks_is_listed() -> None:
    source, target = modules.Clip(), modules.Clip()
    weights = {n: t for n, t in source.state_dict().items() if n.startswith("visual.")}
    before = target.ln_final.weight.detach().clone()
    report = load_into(target, weights, heads=2)
    said = finding(report, "outside", "beside the image tower")
    assert "token_embedding.weight" in said.names
    assert torch.equal(target.ln_final.weight, before)
    assert torch.equal(target.visual.proj, source.visual.proj)


def test_what_a_module_computes_otherwise_is_said_and_never_raised() -> None:
    target = dino(heads=3)
    for part in target.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-3
    report = load_into(target, tiny.state(), heads=2)
    assert {f.names for f in report.of("differs")} == {("eps",), ("num_heads",)}
    assert report.ok


def test_our_own_model_takes_any_dialect() -> None:
    first = load(tiny.state(classes=4), heads=2)
    second = load(tiny.state(classes=4, seed=9), heads=2)
    load_into(second, tiny.said(tiny.state(classes=4), "hf-vit", heads=2))
    assert torch.equal(first(tiny.pixels(12, 12)).logits, second(tiny.pixels(12, 12)).logits)


def test_differences_are_told_in_words() -> None:
    assert differences(Spec(), Spec()) == []
    assert differences(Spec(ffn="swiglu"), Spec(ffn="swiglu_fused")) == []
    assert differences(Spec(norm="rmsnorm"), Spec()) == ["kind of norm: rmsnorm in the file, layernorm in the module"]


def test_the_public_verb_is_exported() -> None:
    assert anyvit.load_into is load_into


def test_what_would_fill_another_count_of_tokens_is_told_and_does() -> None:
    error = refused(dino(registers=3), tiny.state(layer_scale=True), Incomplete)
    assert "registers=3" in str(error)
    report = load_into(dino(registers=3), tiny.state(layer_scale=True), heads=2, registers=3)
    finding(report, "new", "3 registers are new")
