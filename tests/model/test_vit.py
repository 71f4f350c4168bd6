from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model.vit_mapping import picture, randomise

from anyvit import canon
from anyvit.errors import BadArgument
from anyvit.model import ViT
from anyvit.spec import Rope, Spec

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "image_size": 64}
ATTN_POOL = {
    "pool": "attn_pool",
    "pool_heads": 4,
    "pool_queries": 2,
    "pool_norms": ("q", "kv", "mlp"),
    "pool_mlp_dim": 40,
}
SPECS: dict[str, dict[str, Any]] = {
    "plain": {"pos_prefix": 1, "num_classes": 5},
    "everything": {
        "num_registers": 3, "mask_token": True, "pos_prefix": 1, "pre_norm": True, "layer_scale": True,
        "attn_norm": True, "mlp_norm": True, "qk_norm": "head", "ffn": "swiglu", "act": "silu", "patch_norm": True,
        "final_norm": "both", "cls_norm": True, "num_classes": 5, "head_norm": True,
        "pre_logits_dim": 24, "projection_dim": 8,
    },
    "distilled": {"dist_token": True, "pos_prefix": 2, "pool": "cls+dist", "num_classes": 5},
    "beit": {"pos_embed": "relpos", "qkv_bias": "qv", "pool": "avg", "final_norm": "fc_norm"},
    "beit shared": {"pos_embed": "relpos_shared", "pool": "none"},
    "sam": {"num_cls": 0, "pos_embed": "learned+relpos_decomposed", "window": 3, "global_blocks": (1,), "pool": "none",
            "final_norm": None, "neck_dim": 12},
    "dinov3": {"pos_embed": "rope", "rope": Rope(base=100.0, coords="normalized", span="head")},
    "mixed": {"pos_embed": "rope", "rope": Rope(layout="interleaved", mixed=True)},
    "radio": {"num_cls": 4, "summary": (0, 2), "final_norm": None, "num_registers": 2},
    "attention pool": ATTN_POOL,
    "aimv2 lit": {**ATTN_POOL, "pool_norms": (), "pool_mlp_dim": None, "pool_has_q": False, "pool_bias": False,
                  "norm": "rmsnorm", "norm_bias": False},
    "mlp projection": {"projection_dim": 8, "projection": "mlp"},
    "cameras": {"condition": "instantmesh", "condition_inputs": 16},
    "dit": {"condition": "dit"},
    "cls+avg": {"pool": "cls+avg", "num_classes": 5},
    "two layers": {"pool": "cls+avg", "pool_layers": 2, "num_classes": 5},
    "joint": {"projection": "identity"},
}  # fmt: skip


def build(name: str, **values: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(Spec(**{**SMALL, **SPECS[name], **values}))


def call(vit: ViT, pixels: torch.Tensor) -> Any:
    return vit(pixels, torch.ones(len(pixels), 32)) if vit.spec.condition else vit(pixels)


@pytest.mark.parametrize("name", SPECS)
def test_names_are_canonical(name: str) -> None:
    for found in build(name).state_dict():
        apart = re.sub(r"attn\.qkv\.", "attn.q.", re.sub(r"\.adaln\.", ".adaln.shift1.", found))
        assert canon.lookup(apart), found


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@torch.no_grad()
def test_shapes_of_the_features(name: str, size: tuple[int, int]) -> None:
    vit = randomise(build(name))
    spec, out = vit.spec, call(vit, picture(*size))
    h, w = size[0] // 16, size[1] // 16
    assert out.grid == (h, w) and out.tokens.shape == (2, spec.num_prefix + h * w, 32) == out.prenorm.shape
    assert out.patches.shape == (2, h * w, 32) and torch.equal(out.patches, out.tokens[:, spec.num_prefix :])
    assert (out.cls is None) == (spec.num_cls == 0) and (out.registers is None) == (spec.num_registers == 0)
    if spec.num_registers:
        assert torch.equal(out.registers, out.tokens[:, spec.num_prefix - spec.num_registers : spec.num_prefix])
    assert (out.pooled is None) == (spec.pool == "none")
    assert (out.logits is not None) == bool(spec.num_classes) and (out.embedding is not None) == bool(
        spec.projection_dim or spec.projection == "identity"
    )
    assert all(value is None or bool(torch.isfinite(value).all()) for value in (out.tokens, out.pooled, out.logits))


@pytest.mark.parametrize("name", SPECS)
def test_built_on_meta_and_filled(name: str) -> None:
    full = build(name)
    with torch.device("meta"):
        empty = ViT(full.spec)
    assert all(p.is_meta for p in empty.parameters())
    assert list(empty.state_dict()) == list(full.state_dict())
    empty.load_state_dict(
        {n: p for n, p in full.state_dict().items() if n != "rope.periods"}, strict=False, assign=True
    )
    with torch.no_grad():
        assert torch.equal(call(empty.eval(), picture(64, 64)).tokens, call(full.eval(), picture(64, 64)).tokens)


@pytest.mark.parametrize("name", ["everything", "beit", "sam", "dinov3", "mixed", "cameras"])
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(name: str) -> None:
    vit = randomise(build(name)).train(name != "everything")
    grads = []
    for checkpointing in (False, True):
        vit.zero_grad()
        vit.checkpointing = checkpointing
        out = call(vit, picture(48, 80))
        neck = vit.neck(out).sum() if vit.neck is not None else 0.0
        heads = [v for v in (out.tokens, out.pooled, out.logits, out.embedding) if v is not None]
        (sum(v.square().sum() for v in heads) + neck).backward()
        grads.append({n: p.grad.clone() for n, p in vit.named_parameters() if p.grad is not None})
    unused = {n for n, _ in vit.named_parameters()} - set(grads[0])
    assert unused <= {
        "embed.mask",
        "condition.fc1.weight",
        "condition.fc1.bias",
        "condition.fc2.weight",
        "condition.fc2.bias",
    }
    assert all(torch.allclose(grads[0][n], grads[1][n], atol=1e-4, rtol=1e-4) for n in grads[0])


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    vit, sizes = build("plain", depth=6), []
    for checkpointing in (False, True):
        kept: list[int] = []
        vit.checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            vit(picture(64, 64))
        sizes.append(sum(kept))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("name", ["plain", "beit", "sam", "dinov3", "mixed", "cameras"])
def test_compiles_to_one_graph(name: str) -> None:
    torch._dynamo.reset()
    vit = randomise(build(name))
    condition = (torch.ones(2, 32),) if vit.spec.condition else ()
    compiled = torch.compile(vit, backend="eager", fullgraph=True)

    def run(model: Any) -> Any:
        return model(picture(64, 64), *condition)

    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(run(compiled).tokens, run(vit).tokens, atol=1e-5)


@pytest.mark.parametrize("name", ["everything", "beit", "sam", "dinov3"])
@torch.no_grad()
def test_bfloat16_is_near_float32(name: str) -> None:
    vit = build(name).eval()
    exact = call(vit, picture(48, 80)).tokens
    out = vit.bfloat16()(picture(48, 80))  # pixels are brought to the model's type
    assert out.tokens.dtype == torch.bfloat16 and out.prenorm.dtype == torch.bfloat16
    assert float((out.tokens.float() - exact).abs().max()) < 0.1 * float(exact.abs().max())


@torch.no_grad()
def test_layers_count_from_one_and_come_in_the_order_asked_for() -> None:
    vit = randomise(build("everything", depth=4))
    pixels = picture(64, 64)
    out, (fourth, first, normed) = vit(pixels), vit.layers(pixels, [4, 1, 4])
    assert torch.equal(fourth, out.prenorm) and torch.equal(normed, fourth) and not torch.equal(first, fourth)
    assert torch.equal(vit.layers(pixels, (4,), norm=True)[0], out.tokens)
    assert vit.layers(pixels, []) == []
    for bad in ([0], [5], [-1]):
        with pytest.raises(BadArgument, match="from 1 to 4"):
            vit.layers(pixels, bad)


def test_layers_stop_after_the_last_block_asked_for() -> None:
    vit, ran = build("plain"), []
    vit.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    vit.layers(picture(64, 64), [1])
    assert not ran


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 3, 60, 64), "60 by 64"), ((1, 3, 64, 8), "64 by 16"), ((1, 4, 64, 64), "of shape (1, 4, 64, 64)"),
     ((3, 64, 64), "(B, 3, H, W)"), ((1, 3, 0, 64), "0 by 64")],
)  # fmt: skip
def test_pixels_that_do_not_fit_are_refused_with_their_sizes(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(BadArgument) as error:
        build("plain")(torch.zeros(shape))
    assert says in str(error.value)


def test_pictures_that_were_not_normalised_are_refused() -> None:
    with pytest.raises(BadArgument, match="preprocess"):
        build("plain")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("field", "value"),
    [("act", "mish"), ("norm", "batchnorm"), ("ffn", "mlp_x2"), ("pool", "max"), ("block_norm", "sandwich"),
     ("qk_norm", "half"), ("final_norm", "layernorm"), ("pos_embed", "alibi"), ("resample", "nosuch")],
)  # fmt: skip
def test_a_part_that_the_model_does_not_have_is_refused(field: str, value: str) -> None:
    with pytest.raises(BadArgument) as error:
        build("plain", **{field: value})
    assert value in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"num_cls": 0},
        {"pool": "cls+dist"},
        {"num_cls": 2, "summary": (0, 2)},
        {"num_cls": 0, "pool": "cls+avg"},
        {"pool": "cls+avg", "pool_layers": 3},
        {"pool": "cls", "pool_layers": 2},
        {"pool": "none", "projection_dim": 8},
        {"pool": "none", "final_norm": "fc_norm"},
    ],
)
def test_a_pool_of_tokens_that_are_not_there_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        build("plain", pos_prefix=0, **values)


def test_reset_parameters() -> None:
    torch.manual_seed(3)
    vit = ViT(Spec(embed_dim=192, depth=2, num_heads=3, mlp_dim=768, image_size=64, layer_scale=True, pos_prefix=1))
    again = copy.deepcopy(vit)
    torch.manual_seed(3)
    again.reset_parameters()
    state = vit.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    weight = state["blocks.1.mlp.fc1.weight"]
    assert abs(float(weight.std()) - 0.02) < 5e-4 and abs(float(weight.mean())) < 5e-4
    assert not state["blocks.0.attn.qkv.bias"].any() and bool((state["blocks.0.ls1"] == 1e-5).all())
    assert bool((state["norm.weight"] == 1).all()) and float(state["embed.pos"].std()) > 0.01


def test_a_stored_sincos_table_starts_as_one() -> None:
    from anyvit.resample import sincos_author

    vit = build("plain", pos_embed="sincos")
    assert sincos_author(vit.embed.pos, 4, 4) == "mae" and not vit.embed.pos_prefix.any()


@torch.no_grad()
def test_every_parameter_but_the_mask_token_changes_the_output() -> None:
    for name in SPECS:
        vit = randomise(build(name))
        pixels = picture(48, 80)
        kind, inputs = vit.spec.condition, vit.spec.condition_inputs
        cameras = torch.randn(1, 2, inputs) if inputs else torch.randn(2, 32) if kind else None
        before = vit(pixels, cameras)
        for parameter, value in vit.named_parameters():
            kept = value.clone()
            value.add_(torch.randn_like(value))
            after = vit(pixels, cameras)
            value.copy_(kept)
            if parameter == "embed.mask" or parameter.startswith("neck."):
                continue
            same = torch.equal(before.tokens, after.tokens) and all(
                a is None or torch.equal(a, getattr(after, field))
                for field in ("pooled", "logits", "embedding")
                if (a := getattr(before, field)) is not None
            )
            key_only = parameter.endswith("pool.k.bias")  # a shift of every logit by the same amount
            assert not same or key_only, (name, parameter)


@torch.no_grad()
def test_prefix_tokens_stand_in_order_and_positions_belong_to_the_first_of_them() -> None:
    vit = randomise(build("plain", num_cls=2, dist_token=True, num_registers=2, pos_prefix=3))
    x, _ = vit.embed(picture(64, 64))
    e = vit.embed
    expected = torch.cat((e.cls, e.dist[None], e.reg))
    expected[:3] += e.pos_prefix
    assert torch.equal(x[0, :5], expected) and x.shape[1] == 5 + 16


@torch.no_grad()
def test_summary_tokens_are_joined() -> None:
    vit = randomise(build("radio"))
    out = vit(picture(64, 64))
    assert torch.equal(out.pooled, torch.cat((out.tokens[:, 0], out.tokens[:, 2]), -1))
    assert torch.equal(out.cls, out.tokens[:, 0])


@torch.no_grad()
@torch.no_grad()
def test_class_tokens_of_the_last_blocks_are_joined_oldest_first() -> None:
    vit = randomise(build("two layers"))
    out = vit(picture(64, 64))
    first, last = vit.layers(picture(64, 64), [1, 2], norm=True)
    joined = torch.cat((first[:, 0], last[:, 0], last[:, 1:].mean(1)), -1)
    assert vit.head is not None and torch.allclose(out.pooled, joined, atol=1e-6)
    assert torch.allclose(out.logits, vit.head(joined), atol=1e-6)


@torch.no_grad()
def test_only_the_patches_of_the_features_are_whitened() -> None:
    vit = randomise(build("radio", whiten=True))
    assert vit.whiten is not None
    vit.whiten.mean.copy_(torch.randn(32))
    vit.whiten.weight.copy_(torch.randn(32, 32))
    out = vit(picture(64, 64))
    expected = (out.tokens[:, vit.spec.num_prefix :] - vit.whiten.mean) @ vit.whiten.weight.T
    assert torch.allclose(out.patches, expected, atol=1e-5)
    assert torch.equal(out.tokens, out.prenorm)


@torch.no_grad()
def test_the_mean_may_be_taken_of_tokens_before_the_norm() -> None:
    out = randomise(build("plain", pool="avg", pool_normed=False))(picture(64, 64))
    assert torch.allclose(out.pooled, out.prenorm[:, 1:].mean(1), atol=1e-6)


def test_cls_norm_is_for_the_prefix_only() -> None:
    vit = randomise(build("plain", cls_norm=True, num_registers=2))
    out = vit(picture(64, 64))
    assert torch.allclose(out.tokens[:, :3], vit.cls_norm(out.prenorm[:, :3]))
    assert torch.allclose(out.patches, vit.norm(out.prenorm[:, 3:]))


@torch.no_grad()
def test_a_pool_without_query_projection() -> None:
    vit = randomise(build("aimv2 lit"))
    out, pool = vit(picture(64, 64)), vit.pool
    k, v = (f(out.tokens).unflatten(-1, (4, 8)).transpose(1, 2) for f in (pool.k, pool.v))  # (B, h, N, e)
    q = pool.query.unflatten(-1, (4, 8)).transpose(0, 1)  # (h, S, e)
    weights = F.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1)
    assert torch.allclose(out.pooled, pool.out((weights @ v).transpose(1, 2).flatten(2))[:, 0], atol=1e-5)
    assert isinstance(pool.q, torch.nn.Identity) and pool.k.bias is None and pool.out.bias is not None


def test_the_probe_norm_learns_its_statistics_in_training_only() -> None:
    vit = build("everything")
    before = vit.head_norm.mean.clone()
    vit.eval()(picture(64, 64))
    assert torch.equal(vit.head_norm.mean, before)
    vit.train()(picture(64, 64))
    assert not torch.equal(vit.head_norm.mean, before)


def test_mlp_projection_is_twice_as_wide_inside() -> None:
    vit = build("mlp projection")
    assert vit.proj.fc1.weight.shape == (16, 32) and vit.proj.fc2.weight.shape == (8, 16)
    assert vit.proj.fc1.bias is not None and vit.proj.fc2.bias is None


def test_exports() -> None:
    vit = build("plain").eval()
    program = torch.export.export(vit, (picture(64, 64),))
    assert torch.allclose(program.module()(picture(64, 64)).logits, vit(picture(64, 64)).logits, atol=1e-6)


def test_repr_is_short() -> None:
    assert build("plain").extra_repr() == "2 blocks of 32 channels, 2 heads, patch 16"
    assert build("plain").report is None


def test_patches_that_are_not_square() -> None:
    vit = build("plain", patch_size=(16, 8), pos_prefix=0)
    assert vit(picture(32, 24)).grid == (2, 3)
    with pytest.raises(BadArgument, match="16 by 8"):
        vit(picture(24, 16))
    with pytest.raises(BadArgument, match="resize to 32 by 16"):
        vit(picture(32, 20))
