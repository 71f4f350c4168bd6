"""Writing: every way there and back is exact, what cannot be said is refused or told, and files are as promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the weights are made with torch")

from support.modules import Clip  # noqa: E402
from support.peers import assert_close, pixels, said, state  # noqa: E402
from support.saying import rotary  # noqa: E402

from anyvit import containers, saying  # noqa: E402
from anyvit.api import convert, inspect, load  # noqa: E402
from anyvit.errors import BadArgument, FileError, Unsayable  # noqa: E402
from anyvit.lazy import Checkpoint  # noqa: E402


def finding(report: Any, kind: str, word: str = "") -> Any:
    found = [f for f in report.of(kind) if word in str(f)]
    assert found, f"no {kind} finding with {word!r} in {[str(f) for f in report.findings]}"
    return found[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ""])
def test_every_container_holds_the_same(suffix: str, tmp_path: Path) -> None:
    source = state(classes=4)
    convert(source, tmp_path / f"out{suffix}", "timm", heads=2)
    opened = containers.open_checkpoint(tmp_path / f"out{suffix}").tensors
    assert {n: t.shape for n, t in opened.items()} == {n: tuple(t.shape) for n, t in source.items()}
    assert all(np.array_equal(opened[n].read(), t.numpy()) for n, t in source.items())


@pytest.mark.parametrize("out", ["a.safetensors", "a.npz", "a.pth", "folder"])
def test_the_same_twice_is_the_same_bytes(out: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        convert(state(classes=4), tmp_path / name / out, "hf-vit", heads=2)
    one, two = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()}
        for name in ("one", "two")
    )
    assert one and one == two


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_a_file_can_be_written_over_its_source(suffix: str, tmp_path: Path) -> None:
    source, path = state(classes=4), tmp_path / f"x{suffix}"
    convert(source, path, "timm", heads=2)
    convert(path, path, "hf-vit", heads=2)
    assert inspect(path).match.dialect.name == "hf-vit"
    convert(path, path, "timm", heads=2)
    opened = containers.open_checkpoint(path).tensors
    assert all(np.array_equal(opened[n].read(), t.numpy()) for n, t in source.items())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_can_be_written_over_its_source(tmp_path: Path) -> None:
    source, out = state(classes=4), tmp_path / "out"
    convert(source, out, "hf-vit", heads=2)
    convert(out, out, "timm")
    assert inspect(out).match.dialect.name == "timm"
    opened = containers.open_checkpoint(out).tensors
    assert all(np.array_equal(opened[n].read(), t.numpy()) for n, t in source.items())


def test_a_folder_is_replaced_by_shards_and_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for size in (None, 4000, None):
        convert(state(classes=4), out, "hf-vit", heads=2, shard_size=size)
        weights = sorted(path.name for path in out.glob("*.safetensors*"))
        assert (weights == ["model.safetensors"]) == (size is None)
        assert inspect(out).ok
    assert json.loads((out / "config.json").read_text())["architectures"] == ["ViTForImageClassification"]


def test_a_refusal_names_the_tensors_and_writes_nothing(tmp_path: Path) -> None:
    for out in ("out", "out.npz"):
        with pytest.raises(Unsayable, match="reg_token") as error:
            convert(state(registers=3), tmp_path / out, "google-npz", heads=2)
        assert "google-npz has no words for 1 tensors" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_the_targets_models_always_have_is_insisted_on(tmp_path: Path) -> None:
    with pytest.raises(Unsayable, match="its models always have") as error:
        convert(state(cls=False), tmp_path / "x", "dinov2", heads=2)
    assert "embed.cls" in str(error.value)
    with pytest.raises(Unsayable, match=r"embed\.norm\.weight"):
        convert(state(), tmp_path / "x", "openai-clip", heads=2)


def test_rotary_positions_are_not_lost_in_silence(tmp_path: Path) -> None:
    source = Checkpoint(saying.say(rotary(), "dinov3").tensors, "torch")
    for to in ("mmpretrain", "timm-naflex", "hf-vit"):
        for out in ("x", "x.safetensors"):
            with pytest.raises(Unsayable, match=r"rope|embed\.pos"):
                convert(source, tmp_path / out, to, heads=3, dialect="dinov3")
    assert not list(tmp_path.iterdir())


def test_a_text_tower_is_not_written_and_that_is_said(tmp_path: Path) -> None:
    report = convert(Clip().state_dict(), tmp_path / "out.safetensors", "openai-clip", heads=2)
    said = finding(report, "outside", "only the image tower is written")
    assert any("token_embedding" in name for name in said.names)
    assert all(n.startswith("visual.") for n in containers.open_checkpoint(tmp_path / "out.safetensors").tensors)
    assert report.fates["token_embedding.weight"] == "outside"
    assert report.fates["visual.conv1.weight"] == "carried"


def test_every_tensor_of_the_source_is_in_one_class(tmp_path: Path) -> None:
    source = {**state(classes=4, layer_scale=True), "stray": torch.ones(2)}
    report = convert(source, tmp_path / "out.npz", "google-npz", heads=2)
    assert set(report.fates) == set(source)
    written = containers.open_checkpoint(tmp_path / "out.npz").tensors
    assert {trail.target for trail in report.trails} == set(written)
    used = {name for trail in report.trails for name in trail.sources}
    assert {name for name, fate in report.fates.items() if fate == "carried"} == used
    fates = {trail.target: trail.fate for trail in report.trails}
    assert fates["Transformer/encoderblock_0/MlpBlock_3/Dense_1/kernel"] == "folded"
    assert fates["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"] == "carried"


def test_a_mean_projection_becomes_a_classifier_and_back(tmp_path: Path) -> None:
    clip = {n: t for n, t in Clip().state_dict().items() if n.startswith("visual.")}
    report = convert(clip, tmp_path / "timm", "timm", heads=2)
    finding(report, "folded", "projection became a classifier")
    opened = containers.open_checkpoint(tmp_path / "timm").tensors
    assert opened["head.weight"].shape == (7, 12)
    assert not opened["head.bias"].read().any()
    for to in ("openai-clip", "hf-clip"):
        convert(tmp_path / "timm", tmp_path / to, to)
        convert(tmp_path / to, tmp_path / f"{to}.pth", "openai-clip")
        back = torch.load(tmp_path / f"{to}.pth", weights_only=True)
        assert set(back) == set(clip)
        assert all(torch.equal(back[name], tensor) for name, tensor in clip.items())


def test_a_classifier_that_would_be_fed_otherwise_is_left_out(tmp_path: Path) -> None:
    source = {**state(classes=4), "pre_logits.fc.weight": torch.randn(12, 12), "pre_logits.fc.bias": torch.randn(12)}
    for to in ("timm", "hf-vit"):
        report = convert(source, tmp_path / to, to, heads=2)
        finding(report, "unsayable", "would be fed otherwise")
        assert not any("head" in n or "classifier" in n for n in containers.open_checkpoint(tmp_path / to).tensors)
    assert "pooler.dense.weight" in containers.open_checkpoint(tmp_path / "hf-vit").tensors
    convert(source, tmp_path / "x.npz", "google-npz", heads=2)
    assert {"head/kernel", "pre_logits/kernel"} <= set(containers.open_checkpoint(tmp_path / "x.npz").tensors)


def test_a_probes_norm_is_folded_into_its_classifier(tmp_path: Path) -> None:
    source = state()
    source |= {"head.0.running_mean": torch.randn(12), "head.0.running_var": torch.rand(12) + 0.5,
               "head.0.num_batches_tracked": torch.tensor(3), "head.1.weight": torch.randn(4, 12),
               "head.1.bias": torch.randn(4)}  # fmt: skip
    report = convert(source, tmp_path / "out", "timm", heads=2)
    finding(report, "folded", "norm before the classifier")
    one, two = load(source, heads=2), load(tmp_path / "out")
    assert_close(two(pixels(12, 12)).logits, one(pixels(12, 12)).logits)


def test_what_a_config_cannot_say_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    torch.save(state(classes=4), tmp_path / "timm" / "pytorch_model.bin")
    config = {"architecture": "vit_base_patch16_224", "num_classes": 4, "global_pool": "avg",
              "model_args": {"global_pool": "avg", "fc_norm": False, "num_heads": 2}}  # fmt: skip
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    report = convert(tmp_path / "timm", tmp_path / "out", "hf-vit")
    said = finding(report, "unsayable", "pool avg")
    assert said.remedy is not None and "pool='avg'" in said.remedy
    assert report.ok


def test_what_a_reader_of_bare_tensors_assumes_is_told(tmp_path: Path) -> None:
    report = convert(state(), tmp_path / "out.npz", "google-npz", heads=2)
    assert "gelu_tanh" in str(finding(report, "unsayable", "act gelu"))
    report = convert(state(), tmp_path / "out.safetensors", "hf-vit", heads=2)
    assert "1e-12" in str(finding(report, "unsayable", "eps"))
    report = convert(state(), tmp_path / "out", "hf-vit", heads=2)
    assert not report.of("unsayable")


def test_the_type_that_is_asked_for_is_stored(tmp_path: Path) -> None:
    convert(state(), tmp_path / "x.safetensors", "timm", heads=2, dtype="bfloat16")
    assert {t.dtype for t in containers.open_checkpoint(tmp_path / "x.safetensors").tensors.values()} == {"bfloat16"}
    with pytest.raises(BadArgument, match="floating-point"):
        convert(state(), tmp_path / "x.safetensors", "timm", heads=2, dtype="int8")


def test_new_tensors_have_the_type_of_the_file(tmp_path: Path) -> None:
    source = {name: tensor.bfloat16() for name, tensor in state(qkv_bias=False, cls_row=False).items()}
    convert(source, tmp_path / "x.safetensors", "hf-dinov2", heads=2)
    assert {t.dtype for t in containers.open_checkpoint(tmp_path / "x.safetensors").tensors.values()} == {"bfloat16"}


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        convert(state(), tmp_path / "no" / "x.safetensors", "timm", heads=2)
    with pytest.raises(BadArgument, match=r"\.onnx"):
        convert(state(), tmp_path / "x.onnx", "timm", heads=2)
    with pytest.raises(BadArgument, match="shard_size is for a folder"):
        convert(state(), tmp_path / "x.npz", "timm", heads=2, shard_size=100)
    with pytest.raises(BadArgument, match="shard_size is a number of bytes"):
        convert(state(), tmp_path / "x", "timm", heads=2, shard_size=0)
    with pytest.raises(BadArgument, match="no dialect"):
        convert(state(), tmp_path / "x", "tim", heads=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is a file"):
        convert(state(), tmp_path / "file", "timm", heads=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def computed_positions() -> dict[str, Any]:
    """A big_vision model that computes its sine-cosine positions, without a class token."""
    arrays = said(state(classes=4, cls=False), "big_vision", heads=2)
    return {name: array for name, array in arrays.items() if "pos_embedding" not in name}


@pytest.mark.parametrize("to", ["timm", "big_vision", "google-npz", "anyvit"])
def test_positions_that_a_project_computes_are_stored_for_others(to: str, tmp_path: Path) -> None:
    source = computed_positions()
    vit = load(source, image_size=16)
    assert vit.spec.pos_embed == "sincos_unstored"
    convert(source, tmp_path / "out", to, image_size=16)
    again = load(tmp_path / "out")
    assert_close(again(pixels(16, 16)).tokens, vit(pixels(16, 16)).tokens)
    assert ("embed.pos" in again.state_dict()) == (to != "big_vision")


def test_a_table_of_computed_positions_needs_a_size(tmp_path: Path) -> None:
    with pytest.raises(Unsayable, match="image_size=224"):
        convert(computed_positions(), tmp_path / "out.safetensors", "timm")
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_read_as_what_it_was_written_as(tmp_path: Path) -> None:
    """Where several dialects explain the names equally well, the record says which it is."""
    for name in ("dino", "mae", "timm", "deit", "dinov2", "hf-vit", "instantmesh"):
        convert(state(), tmp_path / f"{name}.safetensors", name, heads=2)
        report = inspect(tmp_path / f"{name}.safetensors")
        assert report.ok and report.match is not None
        assert report.match.dialect.name == name


def test_no_final_norm_that_the_record_tells_is_no_fault(tmp_path: Path) -> None:
    source = {name: tensor for name, tensor in state(layer_scale=True).items() if not name.startswith("norm.")}
    convert(source, tmp_path / "out.safetensors", "deit", heads=2)
    assert load(tmp_path / "out.safetensors").spec.final_norm is None


@pytest.mark.parametrize(("to", "rows"), [("beit", 10), ("hf-beit", 10), ("moco", 10), ("ibot", 10), ("big_vision", 9)])
@pytest.mark.parametrize("have", [True, False])
def test_position_tables_have_the_rows_that_the_target_has(to: str, rows: int, have: bool, tmp_path: Path) -> None:
    convert(state(cls_row=have), tmp_path / "out.safetensors", to, heads=2)
    tensors = containers.open_checkpoint(tmp_path / "out.safetensors").tensors
    assert [t.shape[1] for n, t in tensors.items() if "pos" in n and len(t.shape) == 3] == [rows]


def test_adaptations_come_before_the_writing(tmp_path: Path) -> None:
    report = convert(state(classes=4), tmp_path / "x", "hf-vit", heads=2, image_size=20, num_classes=0, in_chans=1)
    assert {trail.fate for trail in report.trails} == {"carried", "resized"}
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["image_size"], config["num_channels"], config["architectures"]) == (20, 1, ["ViTModel"])
