"""Two models compared layer by layer: equal ones are found equal, and every usual mistake is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models are run")

from model.vit_mapping import randomise  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import anyvit  # noqa: E402
from anyvit import pairs  # noqa: E402
from anyvit.errors import BadArgument, NotAViT  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.sides import open_side  # noqa: E402
from anyvit.spec import Rope, Spec  # noqa: E402
from anyvit.trials import Guess, Trial  # noqa: E402
from anyvit.verification import LayerDiff, Verification, verify  # noqa: E402
from anyvit.watching import as_tokens, run, run_vit  # noqa: E402

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
WIDTH = 128


@pytest.fixture(scope="module")
def timm(peers: None) -> Any:
    return pytest.importorskip("timm", reason="the peer is not installed")


@pytest.fixture(scope="module")
def transformers(peers: None) -> Any:
    return pytest.importorskip("transformers", reason="the peer is not installed")


@pytest.fixture(scope="module")
def build(timm: Any) -> Callable[..., nn.Module]:
    def make(**options: Any) -> nn.Module:
        made = timm.models.vision_transformer.VisionTransformer(**{**SMALL, "num_classes": 7, **options})
        return randomise(made)

    return make


@pytest.fixture(scope="module")
def state(build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    return build().state_dict()


def copied(state: dict[str, Tensor], **changed: Tensor) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in {**state, **changed}.items()}


def own(state: dict[str, Tensor], **changes: Any) -> ViT:
    """Our ViT of a state with facts changed."""
    vit = anyvit.load(copied(state))
    new = ViT(replace(vit.spec, **changes))
    new.load_state_dict(vit.state_dict())
    return new.eval()


def largest(result: Verification) -> float:
    return max(layer.max_abs for layer in result.layers)


def test_bit_equal_models_differ_by_nothing(state: dict[str, Tensor]) -> None:
    result = verify(copied(state), anyvit.load(copied(state)))
    assert result.ok and result.first is None and result.cause is None
    assert [layer.name for layer in result.layers] == [
        "embed", "blocks.0", "blocks.1", "blocks.2", "tokens", "pooled", "logits",
    ]  # fmt: skip
    assert all(layer.max_abs == 0 and layer.relative_rms == 0 and layer.cosine == 1 for layer in result.layers)
    assert all(layer.tolerance > 0 for layer in result.layers)


def test_timm_transformers_and_ours_are_the_same_function(
    build: Callable[..., nn.Module], state: dict[str, Tensor], transformers: Any
) -> None:
    config = transformers.ViTConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=512, image_size=32, patch_size=8,
        layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.ViTModel(config, add_pooling_layer=False)
    anyvit.load_into(theirs, copied(state))
    for one, two in ((build(), theirs), (theirs, copied(state)), (build(), copied(state))):
        result = verify(one, two)
        assert result.ok, str(result)
        assert [layer.name for layer in result.layers][:5] == ["embed", "blocks.0", "blocks.1", "blocks.2", "tokens"]
    assert 0 < largest(verify(build(), theirs)) < 1e-4


def test_clip_at_another_size_and_its_joint_space(transformers: Any, tmp_path: Path) -> None:
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 99,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    clip = randomise(transformers.CLIPModel(config))
    clip.save_pretrained(tmp_path)
    for size in (32, (48, 40)):
        result = verify(tmp_path, clip, image_size=size)
        assert result.ok, str(result)
        assert result.layers[-1].name == "embedding"
    assert any(finding.kind == "resized" for finding in result.findings)


class Edited:
    """Changes to a state dict, each a mistake that people make."""

    @staticmethod
    def q_and_k_swapped(state: dict[str, Tensor]) -> None:
        weight = state["blocks.1.attn.qkv.weight"]
        q, k, v = weight.clone().chunk(3)
        weight.copy_(torch.cat((k, q, v)))

    @staticmethod
    def interleaved(state: dict[str, Tensor]) -> None:
        for name in [n for n in state if ".attn.qkv." in n]:
            rows = state[name].unflatten(0, (3, 2, -1)).transpose(0, 1)
            state[name] = rows.flatten(0, 2).contiguous()

    @staticmethod
    def transposed(state: dict[str, Tensor]) -> None:
        state["blocks.2.attn.proj.weight"] = state["blocks.2.attn.proj.weight"].T.contiguous()

    @staticmethod
    def scaled(state: dict[str, Tensor]) -> None:
        state["blocks.0.mlp.fc2.weight"] *= 0.5

    @staticmethod
    def offset(state: dict[str, Tensor]) -> None:
        state["blocks.0.norm1.weight"] -= 1

    @staticmethod
    def unfilled(state: dict[str, Tensor]) -> None:
        state["blocks.1.mlp.fc1.bias"].zero_()

    @staticmethod
    def flipped(state: dict[str, Tensor]) -> None:
        table = state["pos_embed"][:, 1:].unflatten(1, (4, 4))
        state["pos_embed"] = torch.cat((state["pos_embed"][:, :1], table.flip(1).flatten(1, 2)), 1)

    @staticmethod
    def columns_first(state: dict[str, Tensor]) -> None:
        table = state["pos_embed"][:, 1:].unflatten(1, (4, 4))
        state["pos_embed"] = torch.cat((state["pos_embed"][:, :1], table.transpose(1, 2).flatten(1, 2)), 1)

    @staticmethod
    def bgr(state: dict[str, Tensor]) -> None:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flip(1)

    @staticmethod
    def block_order(state: dict[str, Tensor]) -> None:
        for name in [n for n in state if n.startswith("blocks.1.")]:
            other = name.replace("blocks.1.", "blocks.2.")
            state[name], state[other] = state[other], state[name]

    @staticmethod
    def another_training(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(3)
        for value in state.values():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.01)

    @staticmethod
    def rounded(state: dict[str, Tensor]) -> None:
        for value in state.values():
            value.copy_(value.bfloat16())

    @staticmethod
    def norms_swapped(state: dict[str, Tensor]) -> None:
        for part in ("weight", "bias"):
            one, two = (f"blocks.0.norm{i}.{part}" for i in (1, 2))
            state[one], state[two] = state[two], state[one]

    @staticmethod
    def damaged(state: dict[str, Tensor]) -> None:
        state["blocks.1.mlp.fc2.weight"][3, 5] = float("nan")

    @staticmethod
    def some_classes(state: dict[str, Tensor]) -> None:
        state["head.weight"][[2, 5]] = 0.1


@pytest.mark.parametrize(
    ("edit", "first", "words"),
    [
        ("q_and_k_swapped", "blocks.1", ("blocks.1.attn.q.weight", "q and k are swapped")),
        ("interleaved", "blocks.0", ("b's q, k and v are interleaved per head (h 3 d with 2 heads)",)),
        ("transposed", "blocks.2", ("blocks.2.attn.out.weight", "the transpose of a's")),
        ("scaled", "blocks.0", ("blocks.0.mlp.fc2.weight", "a's times 0.5")),
        ("offset", "blocks.0", ("blocks.0.norm1.weight", "a's plus -1", "1 + weight")),
        ("unfilled", "blocks.1", ("blocks.1.mlp.fc1.bias", "b's is 0 everywhere", "never filled")),
        ("flipped", "embed", ("embed.pos", "flipped upside down")),
        ("columns_first", "embed", ("embed.pos", "rows and columns exchanged")),
        ("bgr", "embed", ("embed.patch.weight", "BGR")),
        ("block_order", "blocks.1", ("blocks stand in another order", "blocks.10 before blocks.2")),
        ("another_training", "embed", ("resembles", "another training state")),
        ("rounded", "embed", ("rounded to bfloat16",)),
        ("norms_swapped", "blocks.0", ("norm1.weight and norm2.weight are swapped",)),
        ("damaged", "blocks.1", ("blocks.1.mlp.fc2.weight", "NaN")),
        ("some_classes", "logits", ("head.weight", "2 of 7 rows differ: 2, 5")),
    ],
)  # fmt: skip
def test_a_mistake_in_the_weights_is_named(
    build: Callable[..., nn.Module], state: dict[str, Tensor], edit: str, first: str, words: tuple[str, ...]
) -> None:
    wrong = copied(state)
    getattr(Edited, edit)(wrong)
    module = build()
    module.load_state_dict(wrong)
    result = verify(build(), module)
    assert not result.ok and result.first == first
    assert result.cause is not None and result.cause.startswith("weights: ")
    for word in words:
        assert word in result.cause


def test_a_missing_layer_scale_is_named(build: Callable[..., nn.Module]) -> None:
    scaled = build(init_values=0.1)
    plain = build()
    plain.load_state_dict(scaled.state_dict(), strict=False)
    result = verify(scaled, plain)
    assert result.first == "blocks.0" and result.cause is not None
    assert "blocks.{0..2}.ls1" in result.cause and "b has no LayerScale" in result.cause


def test_a_folded_layer_scale_is_no_difference(build: Callable[..., nn.Module]) -> None:
    scaled = build(init_values=0.1)
    folded = build()
    folded.load_state_dict(scaled.state_dict(), strict=False)
    with torch.no_grad():
        for one, two in zip(scaled.blocks, folded.blocks, strict=True):
            for scale, layer in ((one.ls1.gamma, two.attn.proj), (one.ls2.gamma, two.mlp.fc2)):
                layer.weight.mul_(scale[:, None])
                layer.bias.mul_(scale)
        result = verify(scaled, folded)
    assert result.ok, str(result)
    folded.blocks[1].mlp.fc2.weight.data.mul_(2)
    wrong = verify(scaled, folded)
    assert wrong.first == "blocks.1" and "blocks.1.mlp.fc2.weight: b's is a's times 2" in str(wrong.cause)
    assert "ls1" not in str(wrong)


def test_registers_on_one_side_only(build: Callable[..., nn.Module]) -> None:
    result = verify(build(reg_tokens=4, no_embed_class=True), build(no_embed_class=True))
    assert result.first == "embed" and result.layers[0].max_abs == float("inf")
    assert result.cause == "a has 21 tokens, b has 17: num_registers is 4 in a and 0 in b"


def test_other_depths(build: Callable[..., nn.Module]) -> None:
    result = verify(build(), build(depth=2))
    assert not result.ok and result.cause == "a has 3 blocks, b has 2"


def test_other_patches_are_a_difference_and_no_error() -> None:
    from support.peers import state as weights

    result = anyvit.verify(weights(patch=4, grid=(4, 4)), weights(patch=6, grid=(4, 4)))
    assert not result.ok and result.first == "embed"
    assert result.pixels[2:] == (12, 12)
    assert result.cause is not None and "patch_size is 4 in a and 6 in b" in result.cause


def test_other_channels(build: Callable[..., nn.Module]) -> None:
    result = verify(build(), build(in_chans=1))
    assert not result.ok and result.cause == "a takes pictures of 3 channels, b of 1" and result.layers == ()
    json.loads(result.to_json())


def test_other_eps(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    small = copied(state)
    for name in ("pos_embed", "cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        small[name] *= 0.01  # tokens of small variance, where the epsilon counts
    module = build(norm_layer=partial(nn.LayerNorm, eps=1e-12))
    module.load_state_dict(small)
    result = verify(copied(small), module)
    assert result.first == "blocks.0"
    assert result.cause == "eps: a computes with 1e-06, b with 1e-12; the weights agree"
    assert result.remedy is not None and "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-06)" in result.remedy


def test_eps_that_nothing_shows_is_a_finding(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    module = build(norm_layer=partial(nn.LayerNorm, eps=1.0001e-6))
    module.load_state_dict(state)
    result = verify(copied(state), module)
    assert result.ok
    assert any(finding.kind == "differs" and "eps" in finding.names for finding in result.findings)


def test_an_epsilon_that_no_module_states(state: dict[str, Tensor]) -> None:
    vit = own(state)
    for block in vit.blocks:
        block.norm1.eps = block.norm2.eps = 1e-2
    result = verify(own(state), vit)
    assert not result.ok and result.cause is not None
    assert "does not explain it" in result.cause and "eps" in result.cause
    for block in vit.blocks:
        block.norm1.eps = block.norm2.eps = 1e-5
    result = verify(own(state), vit)
    assert result.cause == "eps: a computes with 1e-06, b with 1e-05; the weights agree"


def test_other_heads(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    module = build(num_heads=8)
    module.load_state_dict(state)
    result = verify(module, copied(state))
    assert result.first == "blocks.0"
    assert result.cause == "num_heads: a computes with 8, b with 2; the weights agree"
    assert result.remedy is not None and result.remedy.startswith("for b: anyvit.load(…, heads=8)")


def test_quick_gelu(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    module = build(act_layer="quick_gelu")
    module.load_state_dict(state)
    result = verify(copied(state), module)
    assert result.first == "blocks.0"
    assert result.cause == "act: a computes with gelu, b with quick_gelu; the weights agree"
    assert result.remedy is not None and "act_layer='gelu'" in result.remedy


def test_two_facts_at_once(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    module = build(act_layer="gelu_tanh", num_heads=4)
    module.load_state_dict(state)
    result = verify(copied(state), module)
    assert result.cause is not None
    assert "num_heads: a computes with 2, b with 4" in result.cause
    assert "act: a computes with gelu, b with gelu_tanh" in result.cause


def test_position_recipe_at_another_size(state: dict[str, Tensor]) -> None:
    one, two = (anyvit.load(copied(state), resample=recipe) for recipe in ("timm", "dino"))
    assert verify(one, two).ok
    result = verify(one, two, image_size=48)
    assert result.first == "embed"
    assert result.cause == "resample: a computes with timm, b with dino; the weights agree"
    assert result.remedy is not None and "anyvit.load(…, resample='timm')" in result.remedy


def test_recipe_of_a_live_module(build: Callable[..., nn.Module], state: dict[str, Tensor]) -> None:
    module = build(dynamic_img_size=True)
    module.load_state_dict(state)
    assert verify(anyvit.load(copied(state), resample="timm"), module, image_size=48).ok
    result = verify(anyvit.load(copied(state), resample="torchvision"), module, image_size=48)
    assert result.cause is not None and result.cause.startswith("resample: a computes with torchvision, b with timm")


@pytest.mark.parametrize(
    ("fact", "value", "words"),
    [
        ("pool", "avg", "pool: a computes with cls, b with avg"),
        ("tokens_normed", False, None),
        ("block_norm", "post", "block_norm: a computes with pre, b with post"),
        ("rope", Rope(base=100.0), "rope: a computes with none, b with Rope(base=100.0)"),
    ],
)
def test_other_facts(state: dict[str, Tensor], fact: str, value: Any, words: str | None) -> None:
    result = verify(own(state), own(state, **{fact: value}))
    if words is None:
        assert result.ok and any(fact in finding.names for finding in result.findings)
        assert "tokens" in [layer.name for layer in result.layers]
    else:
        assert not result.ok and result.cause is not None and result.cause.startswith(words)


def test_pictures_normalised_twice(build: Callable[..., nn.Module]) -> None:
    module = build()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    module.patch_embed.register_forward_pre_hook(lambda part, args: ((args[0] - mean) / std,))
    result = verify(build(), module)
    assert result.first == "embed" and result.cause is not None
    assert "b computes with the pictures normalised by ImageNet's mean and std" in result.cause


def test_a_file_of_16_bits_is_compared_with_that_in_mind(state: dict[str, Tensor]) -> None:
    half = {name: value.bfloat16() for name, value in state.items()}
    result = verify(copied(state), half)
    assert result.ok, str(result)
    assert "bfloat16" in result.tolerance and any(finding.kind == "rounded" for finding in result.findings)
    half["blocks.1.attn.qkv.weight"][:128] = half["blocks.1.attn.qkv.weight"][128:256]
    assert not verify(copied(state), half).ok


def test_equal_16_bit_files_are_held_to_float32(state: dict[str, Tensor]) -> None:
    half = {name: value.bfloat16() for name, value in state.items()}
    module = anyvit.load(dict(half))
    result = verify(half, module)
    assert result.ok and "float32" in result.tolerance
    module.blocks[0].mlp.act = nn.GELU(approximate="tanh")
    assert verify(half, module).cause == "act: a computes with gelu, b with gelu_tanh; the weights agree"


def test_modules_that_compute_in_16_bits(state: dict[str, Tensor]) -> None:
    result = verify(copied(state), own(state).bfloat16())
    assert result.ok and "bfloat16" in result.tolerance and largest(result) > 1e-3


def test_float_noise_passes_and_ten_times_the_noise_does_not(
    build: Callable[..., nn.Module], state: dict[str, Tensor]
) -> None:
    module = build(qk_norm=False)
    for block in module.blocks:
        block.attn.fused_attn = False
    assert 0 <= largest(verify(copied(state), module)) < 1e-5 and verify(copied(state), module).ok
    with torch.no_grad():
        module.blocks[1].mlp.fc2.bias[0] += 3e-4
    result = verify(copied(state), module)
    assert result.first == "blocks.1" and "blocks.1.mlp.fc2.bias" in str(result.cause)


def test_the_models_own_noise_is_allowed(state: dict[str, Tensor]) -> None:
    """A model whose values hang on the batch gives what the batch does to it, not a false alarm."""

    def shaky(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * (1 + 1e-4 * len(output))

    one, two = own(state), own(state)
    two.blocks[0].attn.out.register_forward_hook(shaky)
    assert verify(one, two).ok
    two.blocks[0].attn.out.register_forward_hook(lambda module, args, output: output * 1.01)
    assert not verify(one, two).ok


def test_a_model_of_chance_is_not_excused_by_its_noise(state: dict[str, Tensor]) -> None:
    one, two = own(state), own(state)
    two.blocks[0].attn.out.register_forward_hook(lambda module, args, output: nn.functional.dropout(output, 0.2))
    torch.manual_seed(0)
    result = verify(one, two)
    assert not result.ok and result.first == "blocks.0"
    assert any(finding.kind == "noise" and finding.cause.startswith("b gives") for finding in result.findings)


def test_hooks_are_removed_and_modes_put_back(build: Callable[..., nn.Module]) -> None:
    module = build(proj_drop_rate=0.5).train()
    module.blocks[1].eval()
    before = deepcopy(module.state_dict())
    assert verify(build(), module).ok
    parts = list(module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    assert module.training and not module.blocks[1].training and module.blocks[2].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_hooks_are_removed_after_a_failure(build: Callable[..., nn.Module]) -> None:
    module = build()
    with pytest.raises(BadArgument, match=r"timm VisionTransformer \(b\) cannot be run") as error:
        verify(build(dynamic_img_size=True), module, image_size=48)
    assert "image_size=" in str(error.value)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_masked_autoencoder_sees_everything_in_order(transformers: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    mae = randomise(transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes, image_size=32, patch_size=8)))
    mae.save_pretrained(tmp_path)
    result = verify(tmp_path, mae)
    assert result.ok, str(result)
    assert "random_masking" not in vars(mae.embeddings)


class Own(nn.Module):
    """Somebody's own model, in names that nobody described."""

    def __init__(self, first: bool = True) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 32, 8, 8)
        options = {"dim_feedforward": 64, "dropout": 0.0, "batch_first": first, "norm_first": True}
        self.stages = nn.ModuleList(nn.TransformerEncoderLayer(32, 2, **options) for _ in range(3))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2)
        x = x.transpose(1, 2) if self.first else x.permute(2, 0, 1)
        for stage in self.stages:
            x = stage(x)
        return x if self.first else x.transpose(0, 1)


def test_a_module_that_nobody_described() -> None:
    one, two, three = randomise(Own()), randomise(Own()), randomise(Own(first=False))
    for other in (two, three):
        result = verify(one, other, image_size=32)
        assert result.ok and [layer.name for layer in result.layers][:4] == [
            "embed",
            "blocks.0",
            "blocks.1",
            "blocks.2",
        ]
    two.stages[1].linear1.weight.data[0, 0] += 1
    result = verify(one, two, image_size=32)
    assert result.first == "blocks.1" and "blocks.1.mlp.fc1.weight: 1 of 64 rows differ" in str(result.cause)
    with pytest.raises(NotAViT):
        verify(one, nn.Linear(3, 3))


class Mixer(nn.Module):
    """A block whose layers no words and no shapes tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.three(torch.tanh(self.two(self.one(x))))


def test_a_module_that_words_do_not_describe_either() -> None:
    one, two = Own(), Own()
    for model in (one, two):
        model.stages = nn.ModuleList(Mixer() for _ in range(3))
    one, two = randomise(one), randomise(two)
    assert verify(one, two, image_size=32).ok
    two.stages[1].one.weight.data[0, 0] += 1
    result = verify(one, two, image_size=32)
    assert result.first == "blocks.1" and "fit no known layout" in str(result.cause)


class InPlace(nn.Module):
    """A block that writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.linear(x))


def test_layers_are_kept_as_they_were() -> None:
    module = randomise(Own())
    module.stages = nn.ModuleList(InPlace() for _ in range(2))
    pixels = torch.randn(2, 3, 32, 32)
    trace = run(open_side("a", module), pixels, None)
    tokens = module.cut(pixels).flatten(2).transpose(1, 2)
    assert torch.equal(trace["embed"], tokens)
    assert torch.equal(trace["blocks.0"], tokens + module.stages[0].linear(tokens))


def test_noise_is_no_reason_to_change_a_fact(state: dict[str, Tensor]) -> None:
    """An epsilon that comes a little nearer by chance is not taken for the one that was used."""
    vit, other = own(state), own(state, eps=1.2e-6)
    group = [Guess("eps", eps, {"eps": eps}) for eps in (1.2e-6, 1e-8)]
    for seed in range(5):
        pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            trace, noisy = run_vit(vit, pixels), run_vit(other, pixels)
        assert not torch.equal(trace["blocks.0"], noisy["blocks.0"])
        trial = Trial(vit.state_dict(), vit.spec, "blocks.0", (noisy, trace), pixels, None, 1e-4)
        assert trial.distance(group[0], 0) < trial.distance(Guess(), 0)
        assert [trial.settled(group, {}, side) for side in (0, 1)] == [Guess(), Guess()]
        assert trial.settled([Guess("act", "silu", {"act": "silu"})], {"act": "silu"}, 0) is None
        strict = replace(trial, tolerance=1e-7, done={})
        assert strict.settled([Guess("eps", 1e-2, {"eps": 1e-2})], {}, 1) == Guess()


def test_learned_rotary_frequencies_of_the_block() -> None:
    rope = Rope(mixed=True, layout="interleaved")
    spec = Spec(
        embed_dim=32, depth=3, num_heads=2, mlp_dim=64, image_size=32, patch_size=8, pos_embed="rope", rope=rope
    )
    torch.manual_seed(0)
    one = randomise(ViT(spec))
    two = deepcopy(one)
    two.blocks[2].mlp.act = nn.functional.silu
    assert str(verify(one, two).cause).startswith("act: a computes with gelu, b with silu")


def test_tokens_in_another_order(build: Callable[..., nn.Module]) -> None:
    """Registers before the class token: the same function, other places."""
    module = build(reg_tokens=2, no_embed_class=True)
    other = deepcopy(module)
    put = other._pos_embed
    other._pos_embed = lambda x: put(x).roll(-1, 1)
    result = verify(module, other)
    assert all(layer.ok for layer in result.layers if layer.name.startswith(("embed", "blocks", "tokens"))), str(result)
    assert any("another order" in finding.cause for finding in result.findings)


def test_conditioned_models_get_the_same_condition(state: dict[str, Tensor]) -> None:
    vit = anyvit.load(copied(state), condition=anyvit.AdaLN(dim=None))
    for block in vit.blocks:
        nn.init.normal_(block.adaln.weight, std=0.05)
    result = verify(vit, deepcopy(vit))
    assert result.ok and not result.findings
    other = deepcopy(vit)
    other.blocks[1].adaln.weight.data[WIDTH : 2 * WIDTH] += 0.01
    wrong = verify(vit, other)
    assert wrong.first == "blocks.1" and "blocks.1.adaln.scale1.weight" in str(wrong.cause)
    plain = verify(vit, copied(state))
    assert plain.ok and [finding.kind for finding in plain.findings] == ["condition"]


def test_the_table_stays_short_and_json_is_valid() -> None:
    spec = Spec(embed_dim=16, depth=40, num_heads=2, mlp_dim=16, image_size=16)
    torch.manual_seed(0)
    one = ViT(spec).eval()
    two = deepcopy(one)
    two.blocks[20].mlp.fc1.weight.data[0, 0] = float("inf")
    result = verify(one, two)
    text = str(result)
    assert len(text.splitlines()) <= 40 and "blocks.20" in text and "blocks.39" in text and "blocks.10 " not in text
    assert "they part at blocks.20" in text and "b's holds NaN or infinity" in result.cause
    read = json.loads(result.to_json(), parse_constant=pytest.fail)
    assert read["ok"] is False and read["first"] == "blocks.20" and len(read["layers"]) == 43
    assert read["layers"][21]["max_abs"] is None


def test_given_pictures_are_used(state: dict[str, Tensor]) -> None:
    result = verify(copied(state), copied(state), images=torch.randn(1, 3, 48, 40))
    assert result.ok and result.pixels == (1, 3, 48, 40)


@pytest.mark.parametrize("images", [torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "cat.png"])
def test_bad_pictures(state: dict[str, Tensor], images: Any) -> None:
    with pytest.raises(BadArgument, match="images is a batch"):
        verify(copied(state), copied(state), images=images)


def test_what_is_no_model(state: dict[str, Tensor]) -> None:
    with pytest.raises(BadArgument, match="b is none"):
        verify(copied(state), 3)


def test_the_same_pictures_every_time(state: dict[str, Tensor]) -> None:
    one, two = verify(copied(state), own(state, act="silu")), verify(copied(state), own(state, act="silu"))
    assert one == two


def test_our_own_steps_are_the_forward_pass(state: dict[str, Tensor]) -> None:
    vit, pixels = own(state), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        out, trace = vit(pixels), run_vit(vit, pixels)
    assert torch.equal(trace["tokens"], out.tokens) and torch.equal(trace["logits"], out.logits)
    assert list(run_vit(vit, pixels, last="blocks.1")) == ["embed", "blocks.0", "blocks.1"]


def test_tokens_of_any_shape() -> None:
    assert as_tokens(torch.zeros(5, 2, 8), 2).shape == (2, 5, 8)
    assert as_tokens(torch.zeros(2, 2, 8), 2).shape == (2, 2, 8)
    square = torch.arange(4.0).view(2, 2, 1)
    assert torch.equal(as_tokens(square, 2, sequence_first=True), square.transpose(0, 1))
    assert as_tokens({"x": torch.zeros(2, 5, 8)}, 2).shape == (2, 5, 8)
    assert as_tokens(torch.zeros(2, 8), 2) is None and as_tokens(None, 2) is None


def arrays() -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    yield "transposed", lambda x: x.T
    yield "scaled", lambda x: -x
    yield "shifted", lambda x: x + np.float32(1)
    yield "rounded", lambda x: x.astype(np.float16).astype("float32")
    yield "permuted", lambda x: x[::-1]
    yield "permuted", lambda x: x[:, ::-1]
    yield "constant", lambda x: np.zeros_like(x)
    yield "rows", lambda x: np.where(np.arange(len(x))[:, None] == 2, 0, x)
    yield "unrelated", lambda x: np.random.default_rng(1).normal(size=x.shape).astype("float32")
    yield "near", lambda x: (x + 0.1 * np.random.default_rng(1).normal(size=x.shape)).astype("float32")
    yield "shape", lambda x: x[:4]


@pytest.mark.parametrize(("word", "change"), list(arrays()))
def test_pairs_of_arrays(word: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.random.default_rng(0).normal(size=(12, 12)).astype("float32")
    kind = pairs.compare("blocks.0.attn.out.weight", x, np.ascontiguousarray(change(x)))
    assert kind is not None and kind.word == word
    assert pairs.compare("blocks.0.attn.out.weight", x, x * np.float32(1 + 1e-7)) is None


@pytest.mark.parametrize(
    ("groups", "who", "word"), [(1, "b", "rotary"), (2, "b", "rotary"), (1, "a", "rotary"), (0, "b", "interleaved")]
)
def test_orders_of_fused_rows(groups: int, who: str, word: str) -> None:
    """A permutation of q and k alone may leave the function as it is; the weights still tell it."""
    a = dict(zip("qkv", np.random.default_rng(0).normal(size=(3, 16, 16)).astype("float32"), strict=True))
    b = {part: a[part].reshape(2, groups or 1, -1, 2, 16).swapaxes(2, 3).reshape(16, 16) for part in "qk"} | {
        "v": a["v"]
    }
    if not groups:
        rows = np.stack([a[part].reshape(2, 8, 16) for part in "qkv"], 2).reshape(48, 16)  # (heads, d, part)
        b = dict(zip("qkv", rows.reshape(3, 16, 16), strict=True))
    one, two = (a, b) if who == "b" else (b, a)
    kind = pairs.fused_order(one, two, [1, 2, 4], likely=2)
    assert kind is not None and kind.word == word and kind.text.startswith(f"{who}'s q")
    assert pairs.fused_order(a, {**a, "v": a["v"] + 1}, [1, 2], likely=2) is None


def test_layer_diff_is_judged_by_its_tolerance(state: dict[str, Tensor]) -> None:
    result = verify(copied(state), own(state, act="silu"))
    assert all(
        isinstance(layer, LayerDiff) and layer.ok == (layer.max_abs <= layer.tolerance) for layer in result.layers
    )
    assert [layer.ok for layer in result.layers][:2] == [True, False]
