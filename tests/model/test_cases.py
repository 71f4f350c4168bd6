"""The model against outputs that other projects' own code computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from conftest import SHARED, needs_shared
from model.vit_mapping import MHA, TIMM, close, fused, translate
from torch import Tensor

from anyvit.model import ViT
from anyvit.spec import Rope, Spec

pytestmark = needs_shared

SMALL = Spec(embed_dim=128, num_heads=2, mlp_dim=512, image_size=64)


def spec(**values: Any) -> Spec:
    return Spec(**{**SMALL.values(), **values})


def weights(file: str, *keys: str) -> dict[str, Tensor]:
    path = SHARED / "cases" / file
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=False)
    for key in keys:
        state = state[key]
    return state


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def build(spec: Spec, state: Mapping[str, Tensor]) -> ViT:
    with torch.device("meta"):
        vit = ViT(spec)
    vit.load_state_dict(state, strict=True, assign=True)
    return vit.eval()


def check(case: str, vit: ViT, entries: Mapping[str, Mapping[str, str]], **call: Any) -> None:
    arrays = np.load(SHARED / "cases" / case / "io.npz")
    for pixels, expected in entries.items():
        with torch.no_grad():
            out = vit(torch.from_numpy(arrays[pixels]), **call)
        for field, array in expected.items():
            close(getattr(out, field), torch.from_numpy(arrays[array]))


def test_sam() -> None:
    state = under("image_encoder.", weights("sam-p/sam_vit_b_01ec64.pth"))
    lin = ((r"blocks\.(\d+)\.mlp\.lin([12])\.(\w+)", r"blocks.\1.mlp.fc\2.\3"),)
    vit = build(
        spec(depth=4, image_size=80, num_cls=0, pos_embed="learned+relpos_decomposed", window=3, global_blocks=(1, 3),
             final_norm=None, pool="none", neck_dim=32),
        translate(state, lin, TIMM),
    )  # fmt: skip
    arrays = np.load(SHARED / "cases/sam-p/io.npz")
    pixels = torch.from_numpy(arrays["x_80x80"])
    with torch.no_grad():
        out = vit(pixels)
        close(out.patches, torch.from_numpy(arrays["native.trunk"]))
        close(vit.neck(out), torch.from_numpy(arrays["native.neck"]))
        close(vit.layers(pixels, [1])[0], torch.from_numpy(arrays["native.block0"]))


def test_croco() -> None:
    state = weights("croco-p/CroCo_V2_ViTBase_SmallDecoder.pth", "model")
    state = {name.removeprefix("enc_"): value for name, value in state.items()}
    vit = build(
        spec(depth=3, num_cls=0, pos_embed="rope", rope=Rope(base=100.0), pool="none"),
        translate(state, TIMM, drop="dec|mask_token|prediction_head"),
    )
    entries = {"x_64x64": "native", "x_96x96": "bigger", "x_48x80": "nonsquare"}
    check("croco-p", vit, {x: {"tokens": f"{n}.tokens", "prenorm": f"{n}.blocks"} for x, n in entries.items()})


def test_pe() -> None:
    vit = build(
        spec(depth=3, patch_size=14, image_size=70, eps=1e-5, pre_norm=True, patch_bias=False, pos_embed="learned+rope",
             pos_prefix=1, rope=Rope(layout="interleaved", first="column", coords="index1"), resample="pe",
             pool="attn_pool", pool_heads=8, pool_queries=1, pool_norms=("mlp",), pool_mlp_dim=512, projection_dim=64),
        translate(under("visual.", weights("pe-p/PE-Core-L14-336.pt")), MHA, prefix_rows=1),
    )  # fmt: skip
    outputs = {"tokens": "features_norm", "prenorm": "features", "pooled": "attn_pool", "embedding": "encode_image"}
    entries = {"x_70x70": "native", "x_98x98": "bigger", "x_56x84": "nonsquare"}
    check("pe-p", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})


def test_eva_clip() -> None:
    rules = (
        (r"blocks\.(\d+)\.attn\.inner_attn_ln\.(\w+)", r"blocks.\1.attn.norm.\2"),
        (r"blocks\.(\d+)\.mlp\.w1\.(\w+)", r"blocks.\1.mlp.gate.\2"),
        (r"blocks\.(\d+)\.mlp\.w2\.(\w+)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.mlp\.w3\.(\w+)", r"blocks.\1.mlp.down.\2"),
        (r"blocks\.(\d+)\.mlp\.ffn_ln\.(\w+)", r"blocks.\1.mlp.norm.\2"),
        (r"head\.(\w+)", r"proj.\1"),
    )
    state = under("visual.", weights("eva_clip-p/EVA02_CLIP_B_psz16_s8B.pt"))
    vit = build(
        spec(depth=3, mlp_dim=341, act="silu", ffn="swiglu", qkv_bias="qv", attn_norm=True, mlp_norm=True, pos_prefix=1,
             pos_embed="learned+rope", rope=Rope(layout="interleaved", coords="scaled", reference=16), resample="eva",
             projection_dim=64, projection_bias=True),
        translate(state, rules, TIMM, prefix_rows=1, drop=r".*rope\.freqs_"),
    )  # fmt: skip
    entries = {"x_64x64": "native", "x_96x96": "bigger"}
    outputs = {"prenorm": "blocks", "pooled": "pooled", "embedding": "encode_image"}
    check("eva_clip-p", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})


def test_radio() -> None:
    state = under("base_model.", weights("radio-p/radio-v2.5-b_half.pth.tar", "state_dict"))
    token = state.pop("patch_generator.cls_token.token")
    state["cls_token"], state["reg_token"] = token[:4], token[4:]
    kernel = state.pop("patch_generator.embedder.weight")
    state["patch_embed.proj.weight"] = kernel.unflatten(1, (3, 16, 16))
    state["pos_embed"] = state.pop("patch_generator.pos_embed")
    vit = build(
        spec(depth=3, image_size=128, num_cls=4, num_registers=4, patch_bias=False, final_norm=None, summary=(0, 1, 2),
             resample="radio"),
        translate(state, TIMM),
    )  # fmt: skip
    entries = {"x_64x64": "native", "x_112x112": "bigger", "x_48x80": "nonsquare", "x_128x128": "table"}
    outputs = {"tokens": "tokens", "patches": "features", "registers": "registers"}
    check("radio-p", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})
    check("radio-p", vit, {"x_64x64": {"pooled": "native.summary"}})


HF = (
    (r"embeddings\.cls_token", "embed.cls"),
    (r"embeddings\.position_embeddings", "embed.table"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"embed.patch.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(q|k|v)\w+\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.out.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.adaLN_modulation\.1\.(\w+)", r"blocks.\1.adaln.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"camera_embedder\.0\.(\w+)", r"condition.fc1.\1"),
    (r"camera_embedder\.2\.(\w+)", r"condition.fc2.\1"),
)


def instantmesh() -> ViT:
    state = under("lrm_generator.encoder.", weights("instantmesh-a/instant_nerf_base.ckpt", "state_dict"))
    state = {name.removeprefix("model."): value for name, value in state.items()}
    return build(
        spec(depth=4, eps=1e-12, pos_prefix=1, pool="none", condition="instantmesh", condition_inputs=16,
             resample="dino"),
        translate(state, HF, prefix_rows=1),
    )  # fmt: skip


def test_instantmesh_cameras_and_embedded_vectors() -> None:
    vit = instantmesh()
    arrays = np.load(SHARED / "cases/instantmesh-a/io.npz")
    camera, embedded = (torch.from_numpy(arrays[name]) for name in ("camera", "adaln_input"))
    entries = {
        f"pixels_{n}x{n}": {"tokens": f"{name}_pixels.last_hidden_state"}
        for n, name in ((64, "native"), (96, "bigger"))
    }
    check("instantmesh-a", vit, entries, condition=camera)
    check("instantmesh-a", vit, {"pixels_64x64": {"tokens": "native_pixels_emb.last_hidden_state"}}, condition=embedded)


def test_internvit_6b() -> None:
    state = under("vision_model.", weights("internvit-c/model.safetensors"))
    rules = (
        (r"embeddings\.class_embedding", "embed.cls"), (r"embeddings\.position_embedding", "embed.table"),
        (r"embeddings\.patch_embedding\.(\w+)", r"embed.patch.\1"),
    )  # fmt: skip
    state = {name.replace("encoder.layers.", "blocks."): value for name, value in state.items()}
    vit = build(
        spec(depth=4, patch_size=14, image_size=56, mlp_dim=384, norm="rmsnorm", qkv_bias=False, qk_norm="full",
             layer_scale=True, final_norm=None, pos_prefix=1, resample="hf"),
        translate(state, rules, TIMM, prefix_rows=1),
    )  # fmt: skip
    outputs = {"tokens": "last_hidden_state", "pooled": "pooler_output"}
    entries = {"x_56x56": "native", "x_98x98": "bigger"}
    check("internvit-c", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})


def test_beit() -> None:
    vit = build(
        spec(depth=4, mlp_dim=192, num_classes=10, qkv_bias="qv", layer_scale=True, pos_embed="relpos", pool="avg",
             final_norm="fc_norm"),
        translate(weights("beit-p/checkpoint-99.pth", "model"), TIMM),
    )  # fmt: skip
    outputs = {"prenorm": "block_tokens", "pooled": "pooled", "logits": "logits"}
    entries = {"x_64x64": "native", "x_96x96": "96", "x_48x48": "48"}
    check("beit-p", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})


def test_dinov3() -> None:
    state = weights("dinov3-a/dinov3_vits16_pretrain_lvd1689m-08c60483.pth")
    for name in [name for name in state if name.endswith("bias_mask")]:
        state[name.removesuffix("_mask")] = state[name.removesuffix("_mask")] * state[name].nan_to_num(0.0)
    rules = ((r"storage_tokens", "embed.reg"), (r"rope_embed\.periods", "rope.periods"))
    vit = build(
        spec(depth=5, eps=1e-5, num_registers=4, qkv_bias="qv", layer_scale=True, pos_embed="rope", mask_token=True,
             rope=Rope(base=100.0, coords="normalized", span="head")),
        translate(state, rules, TIMM),
    )  # fmt: skip
    outputs = {"cls": "x_norm_clstoken", "patches": "x_norm_patchtokens", "registers": "x_storage_tokens"}
    entries = {f"x_{n}": {f: f"{n}.{o}" for f, o in outputs.items()} for n in ("64x64", "96x96", "48x80")}
    check("dinov3-a", vit, entries)


def test_aimv2() -> None:
    rules = (
        (r"blocks\.(\d+)\.norm_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.gate.\2"),
        (r"blocks\.(\d+)\.mlp\.fc3\.(\w+)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.down.\2"),
        (r"post_trunk_norm\.(\w+)", r"norm.\1"),
        (r"preprocessor\.patchifier\.proj\.(\w+)", r"embed.patch.\1"),
        (r"preprocessor\.patchifier\.norm\.(\w+)", r"embed.patch_norm.\1"),
        (r"preprocessor\.pos_embed", "embed.table"),
    )
    state = {name.removeprefix("trunk."): value for name, value in weights("aimv2-p/model.safetensors").items()}
    vit = build(
        spec(embed_dim=256, depth=2, patch_size=14, image_size=56, mlp_dim=176, num_cls=0, norm="rmsnorm", eps=1e-5,
             act="silu", ffn="swiglu", qkv_bias=False, proj_bias=False, mlp_bias=False, patch_norm=True, pool="none"),
        translate(state, rules, TIMM),
    )  # fmt: skip
    check("aimv2-p", vit, {"x_56x56": {"tokens": "native.output", "prenorm": "native.last_block"}})


def big_vision(case: str, file: str, spec: Spec, prefix: str = "params/") -> ViT:
    arrays = np.load(SHARED / "cases" / case / file)
    state = {
        n.removeprefix(prefix): torch.from_numpy(arrays[n])
        for n in arrays.files
        if n.startswith(prefix) and arrays[n].dtype.kind == "f"
    }
    return build(spec, from_flax(state))


def from_flax(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A big_vision tree, unscanned, as state dict."""
    out: dict[str, Tensor] = {}
    scanned = "Transformer/encoderblock/LayerNorm_0/scale" in state
    depth = len(state["Transformer/encoderblock/LayerNorm_0/scale"]) if scanned else 0
    flat = {
        n.replace("encoderblock/", f"encoderblock_{i}/"): v[i]
        for n, v in state.items()
        if "encoderblock/" in n
        for i in range(depth)
    }
    flat.update({name: value for name, value in state.items() if "encoderblock/" not in name})
    fields = {
        "LayerNorm_0": "norm1",
        "LayerNorm_1": "norm2",
        "MlpBlock_0/Dense_0": "mlp.fc1",
        "MlpBlock_0/Dense_1": "mlp.fc2",
    }
    top = {"embedding": "embed.patch", "Transformer/encoder_norm": "norm", "pre_logits": "pre_logits", "head": "head",
           "MAPHead_0/LayerNorm_0": "pool.norm", "MAPHead_0/MlpBlock_0/Dense_0": "pool.mlp.fc1",
           "MAPHead_0/MlpBlock_0/Dense_1": "pool.mlp.fc2"}  # fmt: skip
    heads = {"query": "q", "key": "k", "value": "v", "out": "out"}
    for name, value in flat.items():
        stem, _, last = name.rpartition("/")
        if name in ("pos_embedding", "cls", "MAPHead_0/probe"):
            out[{"pos_embedding": "embed.table", "cls": "embed.cls", "MAPHead_0/probe": "pool.query"}[name]] = value
            continue
        ours = "weight" if last in ("kernel", "scale") else "bias"
        if "MultiHeadDotProductAttention_0" in stem:
            base, part = stem.split("/MultiHeadDotProductAttention_0/")
            where = "pool" if base == "MAPHead_0" else f"blocks.{base.rsplit('_', 1)[1]}.attn"
            if last == "kernel":
                value = value.flatten(0, 1).T if part == "out" else value.flatten(1).T
            out[f"{where}.{heads[part]}.{ours}"] = value.flatten() if last == "bias" else value
            continue
        if last == "kernel":
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        if "encoderblock_" in stem:
            number, _, part = stem.removeprefix("Transformer/encoderblock_").partition("/")
            out[f"blocks.{number}.{fields[part]}.{ours}"] = value
        else:
            out[f"{top[stem]}.{ours}"] = value

    return fused(out, 0)


def test_big_vision_map_head() -> None:
    vit = big_vision("big-vision-vit-p", "checkpoint.npz", spec(
        embed_dim=96, depth=3, num_heads=3, mlp_dim=256, num_cls=0, act="gelu_tanh", pool="map", pool_norms=("mlp",),
        pool_mlp_dim=256, num_classes=10, resample="big_vision"))  # fmt: skip
    outputs = {"tokens": "encoded", "logits": "logits"}
    entries = {"x_64x64": "native", "x_112x112": "bigger", "x_48x48": "smaller"}
    check("big-vision-vit-p", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})
    check("big-vision-vit-p", vit, {"x_64x64": {"prenorm": "native.prenorm", "pooled": "native.pre_logits"}})


def test_big_vision_computed_positions_and_pre_logits() -> None:
    vit = big_vision("big-vision-vit-q", "vit_s16_i1k_90ep.npz", spec(
        depth=3, mlp_dim=320, num_cls=0, act="gelu_tanh", pos_embed="sincos_unstored", pool="avg", pre_logits_dim=128,
        num_classes=12), prefix="")  # fmt: skip
    outputs = {"tokens": "encoded", "pooled": "pre_logits", "logits": "logits"}
    entries = {"x_64x64": "native", "x_96x96": "bigger", "x_48x80": "nonsquare"}
    check("big-vision-vit-q", vit, {x: {f: f"{n}.{o}" for f, o in outputs.items()} for x, n in entries.items()})


def test_mae_linear_probe() -> None:
    state = weights("mae-p/checkpoint-89.pth", "model")
    rules = ((r"head\.0\.running_mean", "head_norm.mean"), (r"head\.0\.running_var", "head_norm.var"),
             (r"head\.0\.num_batches_tracked", None), (r"head\.1\.(\w+)", r"head.\1"))  # fmt: skip
    vit = build(
        spec(depth=4, mlp_dim=192, num_classes=11, pos_embed="sincos", pos_prefix=1, pool="avg", final_norm="fc_norm",
             head_norm=True, resample="mae"),
        translate(state, rules, TIMM, prefix_rows=1),
    )  # fmt: skip
    check(
        "mae-p",
        vit,
        {"x_64x64": {"pooled": "native.pooled", "prenorm": "native.block_tokens", "logits": "native.logits"}},
    )
