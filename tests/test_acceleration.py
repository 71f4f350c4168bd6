"""Packed linear layers: the same function in inference, plain weights for everything else, and the way back."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import anyvit  # noqa: E402
from anyvit import acceleration  # noqa: E402
from anyvit.acceleration import PackedLinear, accelerate  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")

SPEC = Spec(embed_dim=48, depth=2, num_heads=3, mlp_dim=80, patch_size=8, image_size=32, pos_prefix=1, num_classes=5)


@pytest.fixture(autouse=True)
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers are packed, whatever this machine's clock says."""
    monkeypatch.setattr(acceleration, "_measure", lambda layer, precision: (2.0, 1.0))


@pytest.fixture
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(SPEC).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def packed(module: nn.Module) -> list[PackedLinear]:
    return [layer for layer in module.modules() if isinstance(layer, PackedLinear)]


@torch.no_grad()
def test_the_function_is_the_same(vit: ViT, pixels: torch.Tensor) -> None:
    before = vit(pixels)
    assert accelerate(vit) is vit
    after = vit(pixels)
    assert len(packed(vit)) == 2 * 4 + 1 and all(layer._kernel for layer in packed(vit))
    torch.testing.assert_close(after.tokens, before.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_timm_and_transformers(peers: None) -> None:
    import timm
    import transformers

    torch.manual_seed(0)
    own = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=3).eval()
    config = transformers.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80)
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    x = torch.randn(1, 3, 224, 224)
    before, hidden = own(x), theirs(x).last_hidden_state
    assert len(packed(accelerate(own))) == 9 and len(packed(accelerate(theirs))) == 12
    torch.testing.assert_close(own(x), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs(x).last_hidden_state, hidden, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_restore(vit: ViT, pixels: torch.Tensor) -> None:
    names, before = {name: set(vars(part)) for name, part in vit.named_modules()}, vit(pixels).tokens
    accelerate(vit)
    assert vit.restore() is vit
    assert torch.equal(vit(pixels).tokens, before) and not packed(vit)
    assert {name: set(vars(part)) for name, part in vit.named_modules()} == names


def test_a_second_call_starts_over(vit: ViT) -> None:
    first = accelerate(vit).acceleration
    assert accelerate(vit).acceleration is not first and not first.layers and len(packed(vit)) == 9
    vit.restore()
    assert not packed(vit)


def test_the_state_dict_is_untouched(vit: ViT) -> None:
    before = {name: tensor.data_ptr() for name, tensor in vit.state_dict().items()}
    after = accelerate(vit).state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == before


def test_training_uses_the_plain_weights(vit: ViT, pixels: torch.Tensor) -> None:
    plain = copy.deepcopy(vit).train()
    accelerate(vit).train()
    assert not any(layer._kernel for layer in packed(vit))
    for model in (plain, vit):
        model(pixels).tokens.sum().backward()
    for (name, mine), (_, other) in zip(vit.named_parameters(), plain.named_parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, other.grad), name


def test_gradients_in_eval_mode_use_the_plain_weights(vit: ViT, pixels: torch.Tensor) -> None:
    with torch.enable_grad():
        before = vit(pixels).tokens
        after = accelerate(vit)(pixels).tokens
    assert torch.equal(before, after) and after.requires_grad


@torch.no_grad()
def test_changed_weights_are_packed_again(vit: ViT, pixels: torch.Tensor) -> None:
    accelerate(vit)
    vit(pixels)
    torch.manual_seed(5)
    other = ViT(SPEC).eval()
    vit.load_state_dict(other.state_dict())
    torch.testing.assert_close(vit(pixels).tokens, other(pixels).tokens, rtol=1e-5, atol=1e-5)
    vit.head.weight = nn.Parameter(torch.zeros_like(vit.head.weight))
    vit.head.bias.zero_()
    assert not vit(pixels).logits.any()


@torch.no_grad()
def test_another_type_of_numbers(vit: ViT, pixels: torch.Tensor) -> None:
    wide = copy.deepcopy(vit).double()
    assert torch.equal(accelerate(vit).double()(pixels.double()).tokens, wide(pixels.double()).tokens)
    assert not any(layer._kernel for layer in packed(vit))


@torch.no_grad()
def test_autocast_stays_what_it_is(vit: ViT, pixels: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        before = vit(pixels).tokens
        assert torch.equal(accelerate(vit)(pixels).tokens, before)


@torch.no_grad()
def test_compile_sees_plain_layers(vit: ViT, pixels: torch.Tensor) -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    mlp = vit.blocks[0].mlp
    x = torch.randn(1, 7, SPEC.embed_dim)
    before = mlp(x)
    accelerate(vit)
    after = torch.compile(mlp, backend=backend, fullgraph=True)(x)
    torch._dynamo.reset()
    assert torch.equal(after, before) and any("linear" in name for name in seen)
    assert not any("mkldnn" in name for name in seen)


@torch.no_grad()
def test_copies_stand_alone(vit: ViT, pixels: torch.Tensor) -> None:
    before = vit(pixels).tokens
    accelerate(vit)
    for twin in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        torch.testing.assert_close(twin(pixels).tokens, vit(pixels).tokens, rtol=0, atol=0)
        for parameter in twin.parameters():
            parameter.zero_()
        assert not twin(pixels).tokens.any()
        assert twin.restore() is twin and not packed(twin)
    assert len(packed(vit)) == 9
    torch.testing.assert_close(vit(pixels).tokens, before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_does_not_pay_stays_plain(vit: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_when_wide(layer: nn.Linear, precision: str) -> tuple[float, float]:
        return (1.0, 2.0 if layer.out_features == SPEC.mlp_dim else 0.5)

    monkeypatch.setattr(acceleration, "_measure", slow_when_wide)
    done = accelerate(vit).acceleration
    assert type(vit.blocks[0].mlp.fc1) is nn.Linear and isinstance(vit.blocks[0].mlp.fc2, PackedLinear)
    assert (len(done.layers), done.plain, done.gain) == (7, 2, 2.0)
    assert str(done) == "7 of 9 linear layers packed (float32), 2.00 × as fast"


def test_every_size_is_measured_once(vit: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def note(layer: nn.Linear, precision: str) -> tuple[float, float]:
        sizes.append((layer.in_features, layer.out_features))
        return (2.0, 1.0)

    monkeypatch.setattr(acceleration, "_measure", note)
    accelerate(vit)
    assert sorted(sizes) == [(48, 5), (48, 48), (48, 80), (48, 144), (80, 48)]


def test_the_measurement_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plain, fast = acceleration._measure(nn.Linear(64, 64), "float32")
    assert plain > 0 and fast > 0


def test_layers_with_a_reason_to_be_what_they_are_stay() -> None:
    class Own(nn.Linear):
        pass

    shared = nn.Linear(8, 8)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    module = nn.Sequential(shared, shared, Own(8, 8), normed, nn.MultiheadAttention(8, 2), nn.Linear(8, 8).double())
    assert packed(accelerate(module.eval())) == [shared]


@torch.no_grad()
def test_odd_inputs() -> None:
    layer = accelerate(nn.Sequential(nn.Linear(8, 4)).eval())
    assert layer(torch.zeros(0, 8)).shape == (0, 4)
    assert layer(torch.ones(8)).shape == (4,)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(x.transpose(0, 1)), layer(x).transpose(0, 1), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_less_exact_precisions_say_how_exact(vit: ViT, pixels: torch.Tensor, precision: str) -> None:
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions")
    before = vit(pixels).tokens
    done = accelerate(vit, precision=precision).acceleration
    error = float((vit(pixels).tokens - before).norm() / before.norm())
    assert done.error is not None and 1e-5 < done.error < 0.1 and 1e-5 < error < 0.1
    assert f"({precision})" in str(done) and "outputs differ by" in str(done)
    assert torch.equal(vit.restore()(pixels).tokens, before)


@torch.no_grad()
def test_a_processor_without_the_instructions(vit: ViT, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layer: nn.Linear, precision: str) -> tuple[float, float]:
        raise RuntimeError("the bf16 path needs another processor\nstack")

    monkeypatch.setattr(acceleration, "_measure", refuse)
    before = vit(pixels).tokens
    done = accelerate(vit, precision="bfloat16").acceleration
    assert not done.layers and done.error is None and "needs another processor" in str(done)
    assert torch.equal(vit(pixels).tokens, before)


@torch.no_grad()
def test_the_error_of_given_pixels(vit: ViT, pixels: torch.Tensor) -> None:
    error = accelerate(vit, pixels=pixels).acceleration.error
    assert error is not None and error < 1e-5


def test_an_unknown_precision(vit: ViT) -> None:
    with pytest.raises(BadArgument, match="int4"):
        accelerate(vit, precision="int4")


@pytest.fixture
def loaded(vit: ViT, monkeypatch: pytest.MonkeyPatch) -> ViT:
    """A model as `load` gives it, large enough to be packed at its first use."""
    monkeypatch.setattr(acceleration, "LEAST", 1)
    return anyvit.load(vit.state_dict(), heads=3)


def test_a_loaded_model_is_packed_at_its_first_inference(loaded: ViT, vit: ViT, pixels: torch.Tensor) -> None:
    loaded(pixels)
    assert not packed(loaded), "this call may be followed by a backward pass"
    with torch.no_grad():
        out = loaded(pixels)
        assert len(packed(loaded)) == 2 * 4 + 1
        torch.testing.assert_close(out.tokens, vit(pixels).tokens, rtol=1e-5, atol=1e-5)
        assert torch.equal(loaded(pixels).tokens, out.tokens)
    assert all(type(layer) is nn.Linear for layer in loaded.restore().modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        loaded(pixels)
    assert not packed(loaded), "what was restored stays as it is"


@torch.no_grad()
def test_what_was_asked_for_and_restored_stays_plain(loaded: ViT, pixels: torch.Tensor) -> None:
    accelerate(loaded).restore()(pixels)
    assert not packed(loaded)


@torch.no_grad()
def test_what_is_not_packed_without_being_asked(
    loaded: ViT, vit: ViT, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit(pixels)
    copied = copy.deepcopy(loaded).train()
    copied(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        loaded(pixels)
    assert not packed(vit) and not packed(copied) and not packed(loaded)
    monkeypatch.setattr(acceleration, "_memory", lambda: 0)
    loaded(pixels)
    assert not packed(loaded), "there is no room for a copy"
    small = anyvit.load(vit.state_dict(), heads=3)
    monkeypatch.undo()
    small(pixels)
    assert not packed(small)


@torch.no_grad()
def test_what_compiles_sees_plain_weights(loaded: ViT, pixels: torch.Tensor) -> None:
    program = torch.export.export(copy.deepcopy(loaded), (pixels,))
    plain = loaded(pixels).tokens
    assert packed(loaded)
    again = pickle.loads(pickle.dumps(loaded))
    torch.testing.assert_close(again(pixels).tokens, plain, rtol=1e-5, atol=1e-5)
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
