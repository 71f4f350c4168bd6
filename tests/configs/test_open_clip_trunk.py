"""open_clip_config.json of timm's towers: open_clip's own constructor opens what convert writes, and it is read as given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="towers are built with torch")

from anyvit.api import convert, load  # noqa: E402
from anyvit.configs import open_clip, write  # noqa: E402
from anyvit.spec import Spec  # noqa: E402


@pytest.fixture(scope="module")
def build(peers: None) -> Any:
    return pytest.importorskip("open_clip.model")._build_vision_tower


def tower(build: Any, name: str, pool: str, proj: str | None, **more: Any) -> Any:
    torch.manual_seed(0)
    vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": 160, **more}
    made = build(24, vision).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


TOWERS = (
    ("test_vit", "token", "linear", {}), ("test_vit", "token", "linear", {"timm_proj_bias": True}),
    ("test_vit2", "avg", "mlp", {}), ("test_vit", "token", None, {}), ("test_vit2", "avg", "none", {}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "pool", "proj", "more"), TOWERS)
def test_open_clips_constructor_opens_what_is_written(
    build: Any, name: str, pool: str, proj: str | None, more: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = tower(build, name, pool, proj, **more)
    weights = {f"visual.{n}": t for n, t in source.state_dict().items()}
    convert(weights, tmp_path / "out", "open_clip-timm", heads=2, dialect="open_clip-timm")
    model = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    assert model["vision_cfg"]["timm_model_name"] == name
    written = load_file(tmp_path / "out" / "model.safetensors")
    opened = build(model["embed_dim"], model["vision_cfg"]).eval()
    opened.load_state_dict({n.removeprefix("visual."): t for n, t in written.items()})
    save_file(written, tmp_path / "out" / "model.safetensors")  # without our record: the config has to say it
    ours, pixels = load(tmp_path / "out"), torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected, out = source(pixels), ours(pixels)
        torch.testing.assert_close(opened(pixels), expected)
        torch.testing.assert_close(out.pooled if proj == "none" else out.embedding, expected, atol=1e-5, rtol=1e-5)
    for fact in ("num_heads", "eps", "pool", "act"):
        assert ours.spec.facts[fact].how == "given", fact


def test_a_model_without_a_registered_name_gets_no_config_and_is_told_why(tmp_path: Path) -> None:
    from support.peers import state

    report = convert(state(), tmp_path / "out", "open_clip-timm", heads=2)
    assert not (tmp_path / "out" / "open_clip_config.json").exists()
    (note,) = [str(f) for f in report.of("note") if "open_clip_config.json" in str(f)]
    assert "embed_dim" in note and "register_model" in note


def test_siglip_has_its_name_and_no_projection() -> None:
    spec = Spec(num_cls=0, pool="map", image_size=256, grid=(16, 16), projection="identity", pool_heads=12)
    names = ["pool.query", "pool.out.weight", "norm.weight"]
    model = write(spec, "open_clip-timm", names).files["open_clip_config.json"]["model_cfg"]
    assert model["embed_dim"] == 768
    assert model["vision_cfg"] == {
        "timm_model_name": "vit_base_patch16_siglip_256", "timm_model_pretrained": False, "timm_pool": "map",
        "timm_proj": "none", "image_size": 256,
    }  # fmt: skip
    given = open_clip.read({"model_cfg": model})
    assert {n: given.facts[n].value for n in ("pool", "num_heads", "act", "depth")} == {
        "pool": "map", "num_heads": 12, "act": "gelu", "depth": 12
    }  # fmt: skip
    for change, word in (({"eps": 1e-3}, "eps"), ({"act": "gelu_tanh"}, "act_layer")):
        other = write(replace(spec, **change), "open_clip-timm", names)  # timm's base and large run SigLIP with erf
        assert not other.files and word in other.notes[0]


def test_the_pool_of_a_name_is_not_changed_after_its_norms_are_made() -> None:
    """test_vit pools the class token and norms before; with a projection open_clip changes the pool only."""
    spec = Spec(
        embed_dim=64, depth=6, num_heads=2, mlp_dim=192, image_size=160, grid=(10, 10), pos_prefix=1, projection_dim=24,
        pool="avg", final_norm="fc_norm",
    )  # fmt: skip
    found = write(spec, "open_clip-timm", ["proj.weight", "fc_norm.weight", "embed.cls", "embed.pos_prefix"])
    assert not found.files and "global_pool" in found.notes[0]
