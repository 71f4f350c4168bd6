"""The trials at which timm, transformers and the projects' own loaders were measured, replayed through anyvit.

Each id is a row of `shared/peers/measured.md`, section 6 (what was tried and what became of it there). Here the same
file, for the same user, ends equal to the source, or raises or reports the right cause. Damage that is tried on every
container, and prefixes, are in `test_trials.py`; payloads in `test_hostile.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from support import peers as tiny
from support.payloads import Call
from support.tiny import write
from support.truth import arrays, assert_close, case, location

import anyvit
from anyvit.errors import AnyvitError
from anyvit.report import Report

pytestmark = pytest.mark.usefixtures("peers")
PIXELS = tiny.pixels(16, 16)
SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 0}
ROWS: dict[str, Callable[[Path], None]] = {}
Replay = Callable[[Path], None]


def row(*ids: str) -> Callable[[Replay], Replay]:
    def keep(replay: Replay) -> Replay:
        for name in ids:
            assert name not in ROWS, name
            ROWS[name] = replay
        return replay

    return keep


def refused(says: str, act: Callable[[], Any]) -> None:
    with pytest.raises(AnyvitError) as caught:
        act()
    text = str(caught.value)
    assert re.search(says, text, re.IGNORECASE) and len(text) <= 2000, text


def told(report: Report | None, kind: str, says: str = "") -> None:
    assert report is not None
    found = [str(finding) for finding in report.of(kind)]
    assert any(re.search(says, text) for text in found), [str(finding) for finding in report.findings]


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def timm_vit(seed: int = 0, **more: Any) -> Any:
    import timm

    return tiny.shaken(timm.models.VisionTransformer(**{**SIZES, **more}), seed)


@torch.no_grad()
def tokens_of(model: Any, pixels: torch.Tensor = PIXELS) -> torch.Tensor:
    if hasattr(model, "forward_features"):
        return model.forward_features(pixels)
    found = model(pixels)
    return found.last_hidden_state if hasattr(found, "last_hidden_state") else found.tokens


def same(one: Any, two: Any, tolerance: float = 2e-5) -> None:
    tiny.assert_close(tokens_of(one), tokens_of(two), tolerance)


# (i), (xi): DINOv2's training checkpoint, blocks in chunks


@cache
def dinov2() -> Any:
    """What the weights compute: dinov2's blocks are timm's with LayerScale."""
    return timm_vit(init_values=1.0)


def teacher(chunks: int) -> dict[str, torch.Tensor]:
    """The teacher of a training checkpoint, 0 chunks as the hub has it."""
    state = {**tiny.snapshot(dinov2()), "mask_token": torch.zeros(1, 48)}
    if chunks:
        size = SIZES["depth"] // chunks
        state = {
            re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // size}.{m[1]}", n): t for n, t in state.items()
        }
    return {**under("backbone.", state), "dino_head.mlp.0.weight": torch.ones(8, 48)}


def hf_dinov2(**more: Any) -> Any:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=16, patch_size=4, **more
    )
    return tiny.shaken(Dinov2Model(config), 1)


@row("i.a", "i.b", "i.c")
def training_checkpoint_into_timm(folder: Path) -> None:
    target = timm_vit(1, init_values=1.0)
    anyvit.load_into(target, saved({"teacher": teacher(2)}, folder / "teacher_checkpoint.pth"), heads=4)
    same(target, dinov2())


@row("i.d", "i.e")
def training_checkpoint_in_both_chunkings(folder: Path) -> None:
    for chunks in (2, 0, 4):
        same(anyvit.load(saved({"teacher": teacher(chunks)}, folder / "teacher_checkpoint.pth"), heads=4), dinov2())


@row("i.f")
def fsdp_rank_file(folder: Path) -> None:
    both = {**under("teacher.", teacher(2)), **under("student.", {n: t + 1 for n, t in teacher(2).items()})}
    vit = anyvit.load(saved({"model": both, "iteration": 3}, folder / "model_0.rank_0.pth"), heads=4)
    same(vit, dinov2())
    told(vit.report, "weights", "teacher")


@row("i.g", "i.h")
def training_checkpoint_into_transformers(folder: Path) -> None:
    for path in (saved({"teacher": teacher(2)}, folder / "pytorch_model.bin"), folder / "model.safetensors"):
        if path.suffix == ".safetensors":
            write({n: t.numpy() for n, t in teacher(0).items()}, path)
        target = hf_dinov2()
        anyvit.load_into(target, folder, heads=4)
        same(target, dinov2())
        path.unlink()


@row("xi.bc0", "xi.bc0s", "xi.bc1", "xi.bc1s", "xi.bc4", "xi.bc4s")
def folk_advice(folder: Path) -> None:
    for chunks, says in (
        (0, "block 0 is missing|blocks? 0|unexplained|missing"),
        (1, ""),
        (4, ""),
        (2, "missing|unexplained"),
    ):
        state = {n.replace("backbone.", "").replace(".0.", "."): t for n, t in teacher(chunks).items()}
        if says:
            refused(says, lambda state=state: anyvit.load(state, heads=4))
            refused(says, lambda state=state: anyvit.load_into(timm_vit(1, init_values=1.0), state, heads=4))
        else:
            try:
                same(anyvit.load(state, heads=4), dinov2())
            except AnyvitError as error:
                assert re.search("missing|unexplained", str(error))


# (ii): InternViT


@row("ii.0", "ii.1", "ii.2", "ii.3", "ii.4", "ii.5", "ii.6", "ii.7")
def internvit(folder: Path) -> None:
    if not (SHARED / "cases").is_dir():
        pytest.skip("no truth cases")
    name = "internvit-c"
    entry = case(name)["io"][0]
    pixels, expected = torch.from_numpy(arrays(name)[entry["input"]]).float(), arrays(name)[entry["expect"]["tokens"]]
    with torch.no_grad():
        vit = anyvit.load(location(name))
        assert_close(vit(pixels).tokens, expected, "tokens")
        # timm's class norms queries and keys per head, this model over the full width: refused, not approximated.
        refused("qk_norm", lambda: anyvit.convert(location(name), folder / "a.safetensors", "timm"))
        from transformers import InternVLVisionConfig, InternVLVisionModel

        spec = vit.spec
        config = InternVLVisionConfig(
            hidden_size=spec.embed_dim, num_hidden_layers=spec.depth, num_attention_heads=spec.num_heads, norm_type="rms_norm",
            intermediate_size=spec.mlp_dim, image_size=spec.image_size, patch_size=spec.patch_size, use_qk_norm=True,
        )  # fmt: skip
        target = tiny.shaken(InternVLVisionModel(config), 2)
        try:
            anyvit.load_into(target, location(name))
            assert_close(target(pixels).last_hidden_state, expected, "transformers")
        except AnyvitError as error:
            assert re.search("norm|bias", str(error)), error


# (iii): OpenAI CLIP


@cache
def clip(quick: bool = True) -> Any:
    import open_clip

    vision = {"image_size": 16, "patch_size": 4, "width": 128, "layers": 3, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return tiny.shaken(open_clip.model.CLIP(32, vision, text, quick_gelu=quick), 3)


def openai(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A state dict as OpenAI's files give it: three sizes beside the weights."""
    sizes = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(8), "vocab_size": torch.tensor(50)}
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tiny.snapshot(clip()).items()}
    return {**state, **sizes}


def same_embedding(vit: Any, tolerance: float = 2e-5) -> None:
    with torch.no_grad():
        tiny.assert_close(vit(PIXELS).embedding, clip().encode_image(PIXELS), tolerance)


def timm_clip(act: str = "quick_gelu", **more: Any) -> Any:
    import timm

    sizes = {**SIZES, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 32, **more}
    layers = {"act_layer": act, "norm_layer": lambda width, **_: torch.nn.LayerNorm(width, eps=1e-5)}
    return tiny.shaken(timm.models.VisionTransformer(**sizes, pre_norm=True, **layers), 4)


@row("iii.a", "iii.n", "iii.l")
def openai_files(folder: Path) -> None:
    same_embedding(anyvit.load(saved(openai(), folder / "a.pt")))
    same_embedding(anyvit.load(saved(openai(torch.float16), folder / "half.pt")), 5e-3)
    (folder / "hf").mkdir()
    saved(openai(), folder / "hf" / "pytorch_model.bin")
    same_embedding(anyvit.load(folder / "hf"))


@row("iii.c", "iii.d", "iii.m", "iii.e3", "iii.k")
def openai_into_timm(folder: Path) -> None:
    """All of it, and the image tower alone; the projection becomes timm's head."""
    for state in (openai(), {n.removeprefix("visual."): t for n, t in openai().items() if n.startswith("visual.")}):
        target = timm_clip()
        anyvit.load_into(target, state, heads=2)
        with torch.no_grad():
            tiny.assert_close(target(PIXELS), clip().encode_image(PIXELS), 2e-5)


@row("iii.b", "iii.e", "iii.e2")
def quick_gelu_into_a_gelu_model(folder: Path) -> None:
    import open_clip

    vision = {"image_size": 16, "patch_size": 4, "width": 128, "layers": 3, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    path = saved(openai(), folder / "a.pt")
    for target in (open_clip.model.CLIP(32, vision, text), timm_clip("gelu")):
        told(anyvit.load_into(target, path), "differs", "gelu")


@row("iii.g", "iii.g2", "iii.h", "iii.i", "iii.j", "iii.j2")
def openai_at_another_size(folder: Path) -> None:
    path = saved(openai(), folder / "a.pt")
    for wanted, says in (
        ({"image_size": 24}, "pos"),
        ({"patch_size": 8}, "patch"),
        ({"patch_size": 8, "image_size": 32}, "patch"),
    ):
        told(anyvit.load(path, **wanted).report, "resized", says)
    target = timm_clip(img_size=24)
    report = anyvit.load_into(target, path)
    told(report, "resized", "pos")
    with torch.no_grad():
        ours = anyvit.load(path, image_size=24)(tiny.pixels(24, 24)).embedding
        tiny.assert_close(target(tiny.pixels(24, 24)), ours, 2e-5)
    # A picture twice as large, each pixel four times, under a kernel twice as large: FlexiViT's identity.
    wide = anyvit.load(path, patch_size=8, image_size=32)
    with torch.no_grad():
        out = wide(torch.nn.functional.interpolate(PIXELS, scale_factor=2, mode="bilinear")).embedding
        truth = clip().encode_image(PIXELS)
        assert (out - truth).norm() / truth.norm() < 0.2


@row("iii.o")
def openai_into_a_shallower_model(folder: Path) -> None:
    refused("blocks|depth", lambda: anyvit.load_into(timm_clip(depth=2), openai()))


# (iv): Google's npz


@cache
def plain() -> Any:
    return timm_vit(5, num_classes=10)


def google(folder: Path) -> Path:
    anyvit.convert(tiny.snapshot(plain()), folder / "a.npz", "google-npz", heads=4)
    return folder / "a.npz"


@row("iv.a")
def google_into_timm(folder: Path) -> None:
    target, peer = timm_vit(6, num_classes=10), timm_vit(7, num_classes=10)
    anyvit.load_into(target, google(folder))
    same(target, plain())
    peer.load_pretrained(str(folder / "a.npz"))
    same(peer, plain())


@row("iv.b", "iv.c", "iv.c2", "iv.h", "iv.j", "iv.k")
def google_and_timm_at_another_size(folder: Path) -> None:
    for path in (google(folder), write({n: t.numpy() for n, t in tiny.snapshot(plain()).items()}, folder / "a.pth")):
        for wanted, says in (
            ({"image_size": 24}, "pos"),
            ({"image_size": (16, 24)}, "pos"),
            ({"patch_size": 8}, "patch"),
        ):
            told(anyvit.load(path, heads=4, **wanted).report, "resized", says)
        target = timm_vit(8, img_size=24, num_classes=10)
        told(anyvit.load_into(target, path, heads=4), "resized", "pos")
        with torch.no_grad():
            out = anyvit.load(path, heads=4, image_size=24)(tiny.pixels(24, 24)).tokens
            # Google's own models run the tanh form of GELU, timm's class the other.
            off = 2e-2 if path.suffix == ".npz" else 2e-5
            tiny.assert_close(target.forward_features(tiny.pixels(24, 24)), out, off)


@row("iv.d", "iv.d2")
def another_number_of_classes(folder: Path) -> None:
    path = google(folder)
    for classes in (7, 21):
        told(anyvit.load(path, num_classes=classes).report, "new", "head")
        target = timm_vit(9, num_classes=classes)
        head = target.head.weight.detach().clone()
        told(anyvit.load_into(target, path), "new", "head")
        same(target, plain())
        assert torch.equal(target.head.weight, head)


@row("iv.e", "iv.f", "iv.i")
def another_depth_and_width(folder: Path) -> None:
    path = google(folder)
    for more, says in (
        ({"depth": 2}, "block|depth"),
        ({"depth": 5}, "block|depth"),
        ({"embed_dim": 96}, "width|wide|channels|shape"),
    ):
        target = timm_vit(10, num_classes=10, **more)
        before = tiny.snapshot(target)
        refused(says, lambda target=target: anyvit.load_into(target, path))
        assert all(torch.equal(t, before[n]) for n, t in target.state_dict().items())


@row("iv.g", "iv.g2")
def another_number_of_heads(folder: Path) -> None:
    told(anyvit.load_into(timm_vit(11, num_heads=2, num_classes=10), google(folder)), "differs", "heads|num_heads")
    path = write({n: t.numpy() for n, t in tiny.snapshot(plain()).items()}, folder / "a.pth")
    # Nothing in this file says it: the module's own count is computed with, and named.
    report = anyvit.load_into(timm_vit(11, num_heads=2, num_classes=10), path, heads=4)
    told(report, "differs", "heads")


# (vii), (n): names of transformers


@cache
def hf_vit() -> Any:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, image_size=16,
                       patch_size=4, layer_norm_eps=1e-6)  # fmt: skip
    return tiny.shaken(ViTModel(config, add_pooling_layer=False), 12)


def hub(folder: Path) -> Path:
    hf_vit().save_pretrained(folder / "hub")
    return folder / "hub"


def fresh_hf(pooler: bool = False) -> Any:
    from transformers import ViTModel

    return tiny.shaken(ViTModel(hf_vit().config, add_pooling_layer=pooler), 13)


@row("vii.a")
def timm_into_transformers(folder: Path) -> None:
    target = fresh_hf()
    anyvit.load_into(target, tiny.snapshot(timm_vit(14)), heads=4)
    same(target, timm_vit(14))


@row("vii.b", "vii.d", "vii.e", "n.f")
def both_spellings_of_transformers(folder: Path) -> None:
    for source in (hub(folder), hub(folder) / "model.safetensors", tiny.snapshot(hf_vit())):
        target = fresh_hf()
        anyvit.load_into(target, source, heads=4)
        same(target, hf_vit())
        same(anyvit.load(source, heads=4), hf_vit(), 1e-4)
    bare = write({n: t.numpy() for n, t in tiny.snapshot(hf_vit()).items()}, folder / "bare.safetensors")
    same(anyvit.load(bare, heads=4), hf_vit(), 1e-4)


@row("vii.b2")
def a_pooler_that_the_file_lacks(folder: Path) -> None:
    target = fresh_hf(pooler=True)
    report = anyvit.load_into(target, hub(folder))
    told(report, "new", "pooler")
    same(target, hf_vit())


@row("vii.c", "vii.c2", "vii.c3", "vii.c4")
def transformers_into_timm(folder: Path) -> None:
    target = timm_vit(15)
    anyvit.load_into(target, hub(folder))
    same(target, hf_vit())


@row("vii.f", "vii.g")
def configs_that_lack_or_lie(folder: Path) -> None:
    import json

    home = hub(folder)
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "layer_norm_eps"}))
    eps = anyvit.inspect(home).spec.facts["eps"]  # type: ignore[union-attr]
    assert eps.value == 1e-12 and "default" in eps.source
    (home / "config.json").write_text(json.dumps({**config, "num_attention_heads": 2}))
    heads = anyvit.inspect(home).spec.facts["num_heads"]  # type: ignore[union-attr]
    assert (heads.value, heads.how) == (2, "given") and "config.json" in heads.source


@row("n.a", "n.b", "n.c", "n.d", "n.e")
def fine_tuning_from_a_file_of_other_names(folder: Path) -> None:
    state = tiny.snapshot(timm_vit(16))
    for source in (hub(folder), under("model.", state), {"teacher": state}, state):
        target = timm_vit(17, num_classes=10)
        told(anyvit.load_into(target, source, heads=4), "new", "head")
        same(target, hf_vit() if isinstance(source, Path) else timm_vit(16), 1e-4)
    lacking = {n: t for n, t in state.items() if n != "blocks.2.attn.qkv.bias"}
    refused(r"blocks\.2\.attn\.qkv\.bias", lambda: anyvit.load_into(timm_vit(17, num_classes=10), lacking, heads=4))


# (v): prefixes of wrappers, in both spellings


@row("v.module._orig_mod.", "v._orig_mod.module.", "v.model.", "v.module.module.", "v._orig_mod.", "v.dinov2",
     "v.module._orig_mod.hf", "v.module.hf", "v._orig_mod.hf")  # fmt: skip
def prefixes(folder: Path) -> None:
    for prefix in ("module._orig_mod.", "_orig_mod.module.", "model.", "module.module.", "_orig_mod.", "module."):
        target = timm_vit(18)
        anyvit.load_into(target, under(prefix, tiny.snapshot(timm_vit(19))), heads=4)
        same(target, timm_vit(19))
        target = fresh_hf()
        anyvit.load_into(target, under(prefix, tiny.snapshot(hf_vit())), heads=4)
        same(target, hf_vit())


# (viii): DINOv2 with and without registers


def reg4(weights: int, **more: Any) -> Any:
    return timm_vit(weights, init_values=1.0, reg_tokens=4, no_embed_class=True, **more)


def hf_registers() -> Any:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=16, patch_size=4
    )
    return tiny.shaken(Dinov2WithRegistersModel(config), 20)


@row("viii.0", "viii.0b", "viii.0c", "viii.0d", "viii.d")
def dinov2_into_timm_and_transformers(folder: Path) -> None:
    """The official layout, mask token included; at another size every target is resized as the source would be."""
    path = saved(
        tiny.said(dinov2(), "dinov2") | {"mask_token": torch.zeros(1, 48)}, folder / "dinov2_vits14_pretrain.pth"
    )
    for target in (timm_vit(21, init_values=1.0), hf_dinov2()):
        anyvit.load_into(target, path, heads=4)
        same(target, dinov2())
    small = timm_vit(22, init_values=1.0, img_size=12)
    told(anyvit.load_into(small, path, heads=4), "resized", "pos")
    with torch.no_grad():
        out = anyvit.load(path, heads=4, image_size=12)(tiny.pixels(12, 12)).tokens
        tiny.assert_close(small.forward_features(tiny.pixels(12, 12)), out, 2e-5)
        # … and as it would at the forward pass
        tiny.assert_close(anyvit.load(path, heads=4)(tiny.pixels(12, 12)).tokens, out, 2e-5)


@row("viii.a", "viii.b", "viii.c", "viii.e")
def a_file_without_registers_into_models_with(folder: Path) -> None:
    state = tiny.snapshot(dinov2())
    for target in (reg4(23), hf_registers()):
        try:
            report = anyvit.load_into(target, state, heads=4)
        except AnyvitError as error:
            assert re.search("reg_token|register", str(error))
        else:
            told(report, "new", "reg")


@row("viii.f", "viii.g", "viii.h")
def a_file_with_registers(folder: Path) -> None:
    state = tiny.said(hf_registers(), "dinov2")
    target = hf_registers().apply(lambda part: None)
    for parameter in target.parameters():
        parameter.data.zero_()
    anyvit.load_into(target, state, heads=4)
    same(target, hf_registers())
    for target in (timm_vit(24, init_values=1.0), hf_dinov2()):
        refused("register|reg_token", lambda target=target: anyvit.load_into(target, state, heads=4))


# (ix): DINOv3


@cache
def hf_dinov3() -> Any:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, image_size=16,
                             patch_size=4, num_register_tokens=4)  # fmt: skip
    return tiny.shaken(DINOv3ViTModel(config), 25)


def timm_dinov3(bias: bool) -> Any:
    import timm

    name = "vit_small_patch16_dinov3_qkvb" if bias else "vit_small_patch16_dinov3"
    model = timm.create_model(name, img_size=16, patch_size=4, embed_dim=48, depth=3, num_heads=4, num_classes=0)
    return tiny.shaken(model, 26)


@row("ix.a", "ix.b", "ix.c", "ix.d", "ix.e", "ix.f", "ix.h")
def dinov3_between_three_spellings(folder: Path) -> None:
    original = tiny.said(hf_dinov3(), "dinov3")
    for source in (tiny.snapshot(hf_dinov3()), original):
        same(anyvit.load(source, heads=4), hf_dinov3())
        target = timm_dinov3(bias=True)
        anyvit.load_into(target, source, heads=4)
        same(target, hf_dinov3())
    target = hf_dinov3().__class__(hf_dinov3().config).eval()
    anyvit.load_into(target, original, heads=4)
    same(target, hf_dinov3())


@row("ix.g")
def biases_into_a_model_without(folder: Path) -> None:
    refused("bias", lambda: anyvit.load_into(timm_dinov3(bias=False), tiny.said(hf_dinov3(), "dinov3"), heads=4))


# (vi): InstantMesh's conditioned ViT


@row("vi.0", "vi.1", "vi.2", "vi.3", "vi.4")
def instantmesh(folder: Path) -> None:
    if not (SHARED / "cases").is_dir():
        pytest.skip("no truth cases")
    name = "instantmesh-a"
    for entry in case(name)["io"][:2]:
        from test_cases import run

        out = run(name, entry)
        for field, key in entry["expect"].items():
            assert_close(getattr(out, field), arrays(name)[key], field)


@row("vi.5", "vi.6")
def a_plain_file_conditioned(folder: Path) -> None:
    """The modulation starts at zero: the function is that of the plain model, whatever the camera."""
    state = tiny.snapshot(timm_vit(27))
    vit = anyvit.load(state, heads=4, condition=True)
    told(vit.report, "new", "modulation|adaln|AdaLN|condition")
    with torch.no_grad():
        conditioned = vit(PIXELS, condition=torch.randn(2, vit.spec.embed_dim)).tokens
    tiny.assert_close(conditioned, tokens_of(timm_vit(27)), 2e-5)


# (x): damage


def into(state: Mapping[str, Any], deep: bool = False) -> Report:
    """timm's and transformers' classes, filled from a file."""
    reports = [anyvit.load_into(target, dict(state), heads=4) for target in (timm_vit(28), fresh_hf())]
    return reports[1]


def sound() -> dict[str, torch.Tensor]:
    return tiny.snapshot(timm_vit(29))


QKV = "blocks.1.attn.qkv.weight"


@row("x.nan", "x.nanhf", "x.zero", "x.nan_unused")
def bad_values(folder: Path) -> None:
    state = sound()
    state[QKV][3, 5] = float("nan")
    told(into(state), "nan", re.escape(f"{QKV}[3, 5]"))
    told(into({**sound(), QKV: torch.zeros_like(state[QKV])}), "constant", re.escape(QKV))
    target = timm_vit(28)
    anyvit.load_into(target, {**sound(), "mask_token": torch.full((1, 48), float("nan"))}, heads=4)
    same(target, timm_vit(29))


@row("x.bf16", "x.bf16hf", "x.f64", "x.f64hf")
def other_element_types(folder: Path) -> None:
    """The module keeps its own element type."""
    for dtype, off in ((torch.bfloat16, 0.1), (torch.float64, 2e-5)):
        for target in (timm_vit(28), fresh_hf()):
            anyvit.load_into(target, {n: t.to(dtype) for n, t in sound().items()}, heads=4)
            assert {p.dtype for p in target.parameters()} == {torch.float32}
            same(target, timm_vit(29), off)


@row("x.extra1", "x.extra1hf", "x.miss1", "x.miss1hf", "x.int8", "x.int8hf", "x.transposed_rect", "x.transposed_recthf")
def what_shapes_show(folder: Path) -> None:
    told(into({**sound(), "extra": torch.ones(3)}), "outside", "extra")
    for target in (timm_vit(28), fresh_hf()):
        lacking = {n: t for n, t in sound().items() if n != "blocks.3.attn.qkv.bias"}
        refused(r"blocks\.3\.attn\.qkv\.bias", lambda lacking=lacking, t=target: anyvit.load_into(t, lacking, heads=4))
        narrow = {n: (t * 20).to(torch.int8) for n, t in sound().items()}
        refused("int8|quantised", lambda narrow=narrow, t=target: anyvit.load_into(t, narrow, heads=4))
        turned = {**sound(), "blocks.3.mlp.fc1.weight": sound()["blocks.3.mlp.fc1.weight"].T.contiguous()}
        refused("transposed", lambda turned=turned, t=target: anyvit.load_into(t, turned, heads=4))


@row("x.evil_timm", "x.evil_torch", "x.evil_hf", "x.evil_oc", "x.evil_d2", "x.evil_cl", "x.evil_ck", "x.evil_mi",
     "x.mi_plain", "x.mi_nest", "x.ck_nest")  # fmt: skip
def payloads_and_nesting(folder: Path) -> None:
    import os

    mark = folder / "ran"
    for content in (
        sound(),
        {"model": sound(), "epoch": 3},
        {"model": sound(), "args": Call(os.system, f"touch {mark}")},
    ):
        same(anyvit.load(saved(content, folder / "pytorch_model.bin"), heads=4), timm_vit(29))
    assert not mark.exists()


def cut(path: Path, share: float = 0.7) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@row("x.trunc_pth", "x.trunc_st", "x.trunc_hf", "x.hdr_bit", "x.hdr_len")
def cut_files_and_headers(folder: Path) -> None:
    refused("cut", lambda: anyvit.load(cut(saved(sound(), folder / "a.pth")), heads=4))
    path = write({n: t.numpy() for n, t in sound().items()}, folder / "a.safetensors")
    data = path.read_bytes()
    refused("cut", lambda: anyvit.load(cut(path), heads=4))
    home = hub(folder)
    cut(home / "model.safetensors")
    refused("cut", lambda: anyvit.load_into(fresh_hf(), home))
    for forged in (data.replace(b'"dtype"', b'"dtypf"', 1), (1 << 60).to_bytes(8, "little") + data[8:]):
        path.write_bytes(forged)
        refused("header|format", lambda: anyvit.load(path, heads=4))


@row("x.data_bit", "x.data_bit_pth")
def flipped_bits(folder: Path) -> None:
    for suffix, says in (("pth", "damaged"), ("safetensors", "damaged")):
        path = folder / f"a.{suffix}"
        saved(sound(), path) if suffix == "pth" else anyvit.convert(sound(), path, "timm", heads=4)
        data = bytearray(path.read_bytes())
        data[bytes(data).index(sound()[QKV].numpy().tobytes()) + 43] ^= 0x20
        path.write_bytes(data)
        refused(says, lambda path=path: anyvit.load(path, heads=4))
        refused(says, lambda path=path: anyvit.load_into(timm_vit(28), path, heads=4))
        refused(says, lambda path=path: anyvit.convert(path, folder / "out.npz", "timm", heads=4))
        assert not (folder / "out.npz").exists()
    # A file that records nothing shows a top bit of an exponent only by the value that it makes.
    path = write({n: t.numpy() for n, t in sound().items()}, folder / "b.safetensors")
    data = bytearray(path.read_bytes())
    data[bytes(data).index(sound()[QKV].numpy().tobytes()) + 43] ^= 0x40
    path.write_bytes(data)
    told(anyvit.load(path, heads=4).report, "outlier", re.escape(QKV))


@row("x.npz_missing", "x.npz_wrongperm", "x.npz_scalar", "x.npz_bcast", "x.npz_huge", "x.npz_huget", "x.npz_huge2",
     "x.npz_huge2t", "x.npz_mid", "x.npz_midt", "x.npz_bomb")  # fmt: skip
def google_npz_damaged(folder: Path) -> None:
    from test_hostile import archive, bomb, npy

    block = "Transformer/encoderblock_1/"
    sound = dict(np.load(google(folder)))
    out = block + "MultiHeadDotProductAttention_1/out/kernel"
    dense = block + "MlpBlock_3/Dense_0/kernel"
    for change, says in (
        ({dense: None}, "Dense_0/kernel"),
        ({out: np.ascontiguousarray(sound[out].transpose(2, 0, 1))}, "out/kernel"),
        ({block + "LayerNorm_0/bias": np.float32(1.0).reshape(())}, "LayerNorm_0/bias|norm1"),
        ({"Transformer/encoder_norm/scale": np.ones(1, "f4")}, "encoder_norm"),
    ):
        state = {name: value for name, value in {**sound, **change}.items() if value is not None}
        np.savez(folder / "b.npz", **state)
        refused(says, lambda: anyvit.load(folder / "b.npz"))
        refused(says, lambda: anyvit.load_into(timm_vit(28, num_classes=10), folder / "b.npz"))
    for shape, data in (("(40000000000,)", b""), ("(1099511627776, 1099511627776)", b""), ("(256, 256)", bytes(64))):
        (folder / "c.npz").write_bytes(archive({"embedding/kernel.npy": npy(shape, data=data)}))
        refused("size", lambda: anyvit.load(folder / "c.npz"))
    (folder / "c.npz").write_bytes(bomb(1 << 28, 1 << 28))
    refused("implausibly much", lambda: anyvit.load(folder / "c.npz"))


# Defects that shapes do not show: only trained weights tell them, and where not even those do, the original does.


@row("x.transposed", "x.transposedhf", "x.interleaved", "x.kqv", "x.kqv_all", "x.kqv_allhf")
def what_only_trained_weights_show(folder: Path) -> None:
    from test_trials import each_qkv, interleaved, kqv, trained, turned, vkq

    (folder / "sound").mkdir()
    original = trained(dict)(folder / "sound")
    for change, says in (
        (each_qkv(vkq), "v stands where"), (each_qkv(lambda v: interleaved(v, 2)), "interleaved"), (turned, "transposed"),
    ):  # fmt: skip
        found = [str(finding) for finding in anyvit.inspect(trained(change)(folder), deep=True).findings]
        assert any(re.search(says, text) for text in found if not text.startswith("assumed")), found
    # q and k enter attention alike: their exchange is told by comparison.
    swapped = trained(each_qkv(kqv))(folder)
    verdict = anyvit.verify(swapped, original)
    assert not verdict.ok and "q and k are swapped" in str(verdict)


@row("x.posflip")
def a_position_table_in_another_order(folder: Path) -> None:
    """Rows reversed are as smooth as before: comparison tells."""
    from test_trials import trained

    def flipped(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        table = state["pos_embed"]
        return {**state, "pos_embed": np.concatenate([table[:, :1], table[:, :0:-1]], axis=1)}

    (folder / "sound").mkdir()
    verdict = anyvit.verify(trained(flipped)(folder), trained(dict)(folder / "sound"))
    assert not verdict.ok and re.search("pos", str(verdict))


REPLAYS = {replay.__name__: replay for replay in ROWS.values()}


@pytest.mark.parametrize("name", REPLAYS)
def test_replay(tmp_path: Path, name: str) -> None:
    REPLAYS[name](tmp_path)


@needs_shared
def test_every_measured_row_is_replayed() -> None:
    text = (SHARED / "peers" / "measured.md").read_text()
    listed = re.findall(r"^\| ([^ |]+) \| ", text[text.index("### All trials") :], re.MULTILINE)
    assert sorted(set(listed) - {"case"}) == sorted(ROWS) and len(ROWS) == 159
