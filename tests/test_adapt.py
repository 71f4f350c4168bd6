"""Sizes, channels and classes of every project's files: at load, at the forward pass, and in what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are run")

from conftest import needs_shared  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from support import adapting  # noqa: E402
from support.toys import toy  # noqa: E402
from support.truth import arguments, case, cases, location, vit_of  # noqa: E402

import anyvit  # noqa: E402
from anyvit.api import convert, load  # noqa: E402
from anyvit.dialects import get  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

SUFFIX = {"torch": ".pth", "npz": ".npz"}
TWINS = ("dcp-p", "deit-c", "depth_anything-p", "dinov2-c", "dinov2-eps", "google-vit-c", "hf-vit-p", "ibot-p", "mae-p",
         "big-vision-vit-p", "flexivit-bigvision-a", "moco_v3-p", "onnx-p")  # fmt: skip
"""Cases whose layout and positions another case has too."""
NAMES = [name for name in cases() if name not in TWINS]
LOAD = ("weights", "heads", "resample", "grid")


def given(name: str) -> dict[str, Any]:
    return {key: value for key, value in arguments(case(name)["io"][0]).items() if key in LOAD}


def conditioned(vit: ViT) -> torch.Tensor | None:
    """A condition for two pictures, where the model takes one."""
    noise = torch.Generator().manual_seed(2)
    spec = vit.spec
    if not spec.condition:
        return None
    shape = (1, 2, spec.condition_inputs) if spec.condition_inputs else (2, spec.embed_dim)
    return torch.randn(shape, generator=noise)  # type: ignore[arg-type]


def pictures(vit: ViT, height: int, width: int) -> torch.Tensor:
    return torch.randn(2, vit.spec.in_chans, height, width, generator=torch.Generator().manual_seed(1))


def written(name: str, vit: ViT, folder: Path, **asked: Any) -> ViT:
    """The same changes made when converting to the file's own dialect, read back."""
    dialect = get(vit.spec.dialect)
    out = folder / ("out" + SUFFIX.get(dialect.container, ".safetensors"))
    wide = "float32" if name.startswith(("openai_clip", "internvit", "dcp")) else None
    report = anyvit.convert(location(name), out, to=dialect.name, dtype=wide, **given(name), **asked)
    told = {"heads": given(name)["heads"]} if "heads" in given(name) else {}
    if any("grid of the position table" in finding.cause for finding in report.of("note")):
        told["grid"] = vit.spec.grid
    return anyvit.load(out, **told)


@needs_shared
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_size_is_the_same_at_load_at_the_forward_pass_and_as_written(name: str, tmp_path: Path) -> None:
    plain = vit_of(name, {"load": given(name)})
    p, q = plain.spec.patch
    size, x, condition = (5 * p, 3 * q), pictures(plain, 5 * p, 3 * q), conditioned(plain)
    want = plain(x, condition).tokens
    loaded = anyvit.load(location(name), **given(name), image_size=size)
    assert loaded.spec.image_size == size or loaded.spec.grid is None
    assert torch.equal(loaded(x, condition).tokens, want)
    if plain.spec.grid is not None:
        assert any("resized" in f.kind for f in loaded.report.findings) and loaded.spec.grid == (5, 3)
    assert torch.equal(written(name, loaded, tmp_path, image_size=size)(x, condition).tokens, want)


@needs_shared
@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("openai_clip-c", "open_clip-c")])
def test_patch_and_channels_are_the_same_at_load_and_as_written(name: str, tmp_path: Path) -> None:
    plain = vit_of(name, {"load": given(name)})
    (p, q), condition = plain.spec.patch, conditioned(plain)
    patch = (p + 2, q + 2) if name.startswith("radio") else (p + 2, q + 4)
    asked = {"patch_size": patch, "image_size": (3 * patch[0], 4 * patch[1])}
    channels = {"in_chans": anyvit.Channels(4, bands=(2, None, 0, 1))} if plain.spec.in_chans == 3 else {}
    loaded = anyvit.load(location(name), **given(name), **asked, **channels)
    assert loaded.spec.patch == patch and loaded.spec.in_chans == (4 if channels else plain.spec.in_chans)
    x = pictures(loaded, *asked["image_size"])
    want = loaded(x, condition).tokens
    assert want.shape[1] == loaded.spec.num_prefix + 12
    try:
        back = written(name, loaded, tmp_path, **asked, **channels)
    except anyvit.AnyvitError as error:
        assert "in_chans" in str(error) and channels  # said by name, where a project's models take three channels only
        back, channels = written(name, loaded, tmp_path, **asked), {}
        want = anyvit.load(location(name), **given(name), **asked)(x[:, :3], condition).tokens
    assert torch.equal(back(x if channels else x[:, :3], condition).tokens, want)


@needs_shared
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_new_head_reads_what_is_pooled(name: str) -> None:
    plain = vit_of(name, {"load": given(name)})
    if plain.spec.pool == "none":
        with pytest.raises(BadArgument, match="pools nothing"):
            anyvit.load(location(name), **given(name), num_classes=3)
        return
    x, condition = pictures(plain, *(2 * side for side in plain.spec.patch)), conditioned(plain)
    after, before = anyvit.load(location(name), **given(name), num_classes=3)(x, condition), plain(x, condition)
    assert after.logits is not None and after.logits.shape == (2, 3) and not after.logits.any()
    assert torch.equal(after.tokens, before.tokens)
    assert (after.embedding is None) == (before.embedding is None)
    assert after.embedding is None or torch.equal(after.embedding, before.embedding)
    assert anyvit.load(location(name), **given(name), num_classes=0)(x, condition).logits is None


SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "patch_size": 4, "image_size": 12}
MAP: dict[str, Any] = {"num_cls": 0, "pool": "map", "pool_queries": 1, "pool_heads": 2, "pool_norms": ("mlp",),
                       "pool_mlp_dim": 32, "act": "gelu_tanh"}  # fmt: skip


def random(**options: Any) -> ViT:
    return adapting.drawn(Spec(**{**SMALL, **options}))


@torch.no_grad()
@pytest.mark.parametrize("bands", [1, 4, 12, 13])
@pytest.mark.parametrize(("dialect", "suffix", "options"), [
    ("radio", ".pth", {"num_registers": 2, "patch_bias": False}), ("timm-naflex", ".safetensors", {}),
    ("timm", ".safetensors", {}), ("dinov2", ".pth", {"layer_scale": True, "pos_prefix": 1}),
    ("hf-siglip2", "", MAP), ("hf-siglip2", ".safetensors", MAP), ("big_vision-naflex", ".npz", MAP),
    ("big_vision", ".npz", MAP), ("google-npz", ".npz", {"act": "gelu_tanh"}),
])  # fmt: skip
def test_any_number_of_bands_is_carried(dialect: str, suffix: str, options: Any, bands: int, tmp_path: Path) -> None:
    source, out = random(**options), tmp_path / f"out{suffix}"
    asked: dict[str, Any] = {"in_chans": bands, "patch_size": 6, "image_size": 18}
    report = anyvit.convert(source, out, to=dialect, **asked)
    told: Any = None
    if "naflex" in dialect and suffix == ".npz" and bands != 3:
        assert any("number of channels" in finding.cause for finding in report.of("note"))
        told = replace(get(dialect), sizes={"c": bands})
    want, back = anyvit.load(source, **asked), anyvit.load(out, heads=2, dialect=told)
    assert (back.spec.in_chans, back.spec.patch_size) == (bands, 6)
    adapting.close(back(pictures(want, 18, 18)).tokens, want(pictures(want, 18, 18)).tokens)


def test_what_rows_of_pixels_do_not_say_is_assumed(tmp_path: Path) -> None:
    anyvit.convert(random(**MAP), tmp_path / "out.npz", to="big_vision-naflex")
    report = anyvit.load(tmp_path / "out.npz", heads=2).report
    assert report is not None and report.spec is not None and report.spec.facts["in_chans"].how == "assumed"
    assert any("channels 3" in finding.cause for finding in report.of("assumed"))


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", ".safetensors", ".pth", ".npz"])
def test_a_grid_that_is_not_square_is_told_or_said_not_to_be(suffix: str, tmp_path: Path) -> None:
    out, to = tmp_path / f"out{suffix}", "google-npz" if suffix == ".npz" else "timm"
    source = random(act="gelu_tanh", pos_prefix=1)
    report = anyvit.convert(source, out, to=to, image_size=(20, 12))
    told = any("grid of the position table, 5 × 3" in finding.cause for finding in report.of("note"))
    assert told == (suffix == ".npz")
    if told:  # 16 rows are no square of 4 here, for Google's tables always have the row of the class token
        with pytest.raises(anyvit.AnyvitError, match="grid"):
            anyvit.load(out, heads=2)
    back = anyvit.load(out, heads=2, **({"grid": (5, 3)} if told else {}))
    want = anyvit.load(source, image_size=(20, 12))
    adapting.close(back(pictures(want, 20, 12)).tokens, want(pictures(want, 20, 12)).tokens)


def test_positions_of_big_vision_have_no_row_for_the_class_token(tmp_path: Path) -> None:
    import numpy as np

    anyvit.convert(random(act="gelu_tanh", pos_prefix=1), tmp_path / "out.npz", to="big_vision")
    with np.load(tmp_path / "out.npz") as file:
        assert next(file[name] for name in file.files if name.endswith("pos_embedding")).shape == (1, 9, 16)


@torch.no_grad()
@pytest.mark.parametrize("options", [
    {"pos_embed": "relpos"}, {"pos_embed": "relpos_shared"}, {"pos_embed": "learned+relpos", "num_cls": 0, "pool": "avg"},
    {"pos_embed": "learned+relpos_decomposed", "num_cls": 0, "pool": "none"},
    {"pos_embed": "learned+relpos_decomposed", "num_cls": 0, "pool": "none", "window": 2, "global_blocks": (1,)},
])  # fmt: skip
@pytest.mark.parametrize("size", [(20, 12), (8, 28), 32])
def test_relative_tables_follow_the_size(options: dict[str, Any], size: Any, tmp_path: Path) -> None:
    plain = random(**options)
    height, width = (size, size) if isinstance(size, int) else size
    x = pictures(plain, height, width)
    loaded = anyvit.load(plain, image_size=size)
    adapting.close(loaded(x).tokens, plain(x).tokens, 1e-6)
    assert any("relative position" in finding.cause for finding in loaded.report.of("resized"))
    anyvit.convert(plain, tmp_path / "out.safetensors", to="anyvit", image_size=size)
    back = anyvit.load(tmp_path / "out.safetensors")
    assert back.spec.grid == loaded.spec.grid and torch.equal(back(x).tokens, loaded(x).tokens)
    changes = anyvit.inspect(tmp_path / "out.safetensors").provenance["changes"]
    assert any(kind == "resized" and "relative position" in cause for kind, _, cause in changes)


def test_sizes_that_cannot_be() -> None:
    for asked, words in (({"image_size": 13}, "no multiple"), ({"image_size": (0, 12)}, "positive"),
                         ({"patch_size": "4"}, "an int or"), ({"patch_size": (2, 3, 4)}, "an int or")):  # fmt: skip
        with pytest.raises(BadArgument, match=words):
            anyvit.load(adapting.state(), heads=2, **asked)


def test_sixteen_bit_tables_are_resized_in_float32() -> None:
    half = {name: tensor.half() for name, tensor in adapting.state().items()}
    wide = {name: tensor.float() for name, tensor in half.items()}
    one, two = (anyvit.load(source, heads=2, image_size=20) for source in (half, wide))
    assert torch.equal(one.embed.pos, two.embed.pos)


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


@pytest.mark.parametrize("given", [{"image_size": "64"}, {"patch_size": "8"}, {"condition": "dit"}, {"condition": 16}])
def test_words_where_numbers_are_meant_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match=next(iter(given))) as caught:
        anyvit.load(toy(0), **given)
    assert repr(next(iter(given.values()))) in str(caught.value)
