"""A ViT whose names nobody knows is read by a draft, equal to the model it came from, or what is open is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from support import modules  # noqa: E402
from support import peers as tiny  # noqa: E402

import anyvit  # noqa: E402
from anyvit import discover, laws  # noqa: E402
from anyvit.api import draft, inspect, load, load_into  # noqa: E402
from anyvit.errors import AnyvitError, BadArgument, Incomplete, NotAViT  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402

State = Mapping[str, torch.Tensor]


def source() -> Any:
    return tiny.shaken(modules.Dino(scaled=False), 5, std=0.3)


def respelt(table: str, state: State | None = None) -> dict[str, torch.Tensor]:
    """A state dict under other names; the table holds pattern and replacement, pair by pair."""
    words = table.split()
    out = {}
    for name, tensor in (state or {n: t for n, t in source().state_dict().items() if n != "mask_token"}).items():
        for old, new in zip(words[::2], words[1::2], strict=True):
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def apart(q: str, k: str, v: str) -> dict[str, torch.Tensor]:
    """The state with queries, keys and values under names of their own."""
    out = {}
    for name, tensor in respelt("").items():
        parts = zip((q, k, v), tensor.chunk(3), strict=True) if ".qkv." in name else [("attn.qkv", tensor)]
        out.update({name.replace("attn.qkv", to): t.clone() for to, t in parts})
    return out


FORKS = {
    "blocks called layers": respelt("^blocks layers"),
    "one matrix renamed": respelt("attn.proj attn.wo"),
    "the MLP flattened (AdaptFormer)": respelt(r"mlp\.fc fc"),
    "attention.to_qkv": respelt(r"blocks layers attn\.qkv attention.to_qkv attn\.proj attention.to_out mlp\.fc ff.w norm([12]) ln\1"),
    "vit-pytorch's blocks": respelt(
        r"blocks\.(\d+)\.norm1 transformer.layers.\1.0.norm blocks\.(\d+)\.attn\.qkv transformer.layers.\1.0.to_qkv "
        r"blocks\.(\d+)\.attn\.proj transformer.layers.\1.0.to_out.0 blocks\.(\d+)\.norm2 transformer.layers.\1.1.net.0 "
        r"blocks\.(\d+)\.mlp\.fc1 transformer.layers.\1.1.net.1 blocks\.(\d+)\.mlp\.fc2 transformer.layers.\1.1.net.4 "
        r"^norm transformer.norm pos_embed pos_embedding patch_embed\.proj to_patch_embedding.0"
    ),
    "torch.nn.TransformerEncoder": respelt(
        r"blocks encoder.layers attn\.qkv\. self_attn.in_proj_ attn\.proj self_attn.out_proj mlp\.fc linear ^norm encoder.norm"
    ),
    "fairseq": respelt(
        r"blocks encoder.layers attn\.proj self_attn.out_proj norm1 self_attn_layer_norm norm2 final_layer_norm mlp\. - -\b  ^norm "
        r"encoder.layer_norm pos_embed encoder.embed_positions patch_embed\.proj encoder.embed_patches".replace(r"mlp\. - -\b  ", ""),
        apart("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ),
    "behind a prefix": respelt(r"^ model.vit. blocks transformer.layer norm1 attention_norm norm2 ffn_norm mlp\.fc ffn.dense", apart("a.q", "a.k", "a.v")),
    "hardly any words": respelt(r"blocks tr attn\.qkv a.1 attn\.proj a.2 mlp\.fc1 m.1 mlp\.fc2 m.2 norm n"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORKS)
def test_a_fork_is_read_and_filled_by_its_draft(name: str) -> None:
    state, model, pixels = FORKS[name], source(), tiny.pixels(12, 12)
    assert laws.check(draft(state)) == []
    vit = load(state, dialect="draft", heads=2)
    tiny.assert_close(vit(pixels).tokens, model(pixels))
    empty = Holder(state)
    report = load_into(empty, model.state_dict(), to="draft", heads=2)
    assert all(torch.equal(tensor, state[there]) for there, tensor in empty.state_dict().items())
    assert set(report.fates.values()) <= {"carried", "ignored"}


class Holder(torch.nn.Module):
    """A module with the names and shapes of a state dict and other values."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, last = name.split(".")
            place: torch.nn.Module = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, torch.nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, torch.nn.Parameter(torch.full_like(tensor, 7.0)))


def test_what_rests_on_a_convention_is_said() -> None:
    report = load(FORKS["blocks called layers"], dialect="draft", heads=2).report
    assert report is not None
    (said,) = [f for f in report.of("assumed") if "one after the other" in f.cause]
    assert "qkv" in said.names[0] and "check" not in said.cause


def test_what_words_leave_open_is_named_and_can_be_mended(tmp_path: Path) -> None:
    state = respelt(r"blocks layers norm1 a_norm norm2 b_norm")
    with pytest.raises(Incomplete, match="a_norm") as caught:
        load(state, dialect="draft", heads=2)
    assert "mine.json" in (caught.value.remedy or "")
    table = draft(state)
    rows = (*table.rules, anyvit.Rule("layers.{i}.<a|b>_norm.{p}", "blocks.{i}.<norm1|norm2>.{p}"))
    vit = load(state, dialect=anyvit.Dialect("mine", rows), heads=2)
    tiny.assert_close(vit(tiny.pixels(12, 12)).tokens, source()(tiny.pixels(12, 12)))


def test_an_unknown_fork_is_told_of_the_draft_and_other_files_are_not() -> None:
    (finding,) = inspect(FORKS["attention.to_qkv"]).findings
    assert finding.kind == "not a ViT" and 'dialect="draft"' in (finding.remedy or "")
    assert "layers.0 to 1 look like transformer blocks" in finding.cause
    conv = {f"body.{i}.{n}.weight": torch.zeros(8, 8, 3, 3) for i in range(3) for n in ("conv1", "conv2", "conv3")}
    assert not any('dialect="draft"' in (f.remedy or "") for f in inspect(conv).findings)


def test_names_without_a_stack_have_no_draft() -> None:
    with pytest.raises(NotAViT, match="no stack of blocks"):
        draft(torch.nn.Conv2d(3, 3, 3))
    with pytest.raises(AnyvitError):
        load({"weight": torch.zeros(3, 3)}, dialect="draft")


def test_linear_patches_of_older_vit_pytorch_are_rows_of_pixels() -> None:
    kernel = source().patch_embed.proj.weight.detach()
    state = respelt(r"blocks layers patch_embed\.proj to_patch_embedding.1")
    state["to_patch_embedding.1.weight"] = kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)
    vit = load(state, dialect="draft", heads=2)
    tiny.assert_close(vit(tiny.pixels(12, 12)).tokens, source()(tiny.pixels(12, 12)))
    assert vit.report is not None and any("rows of pixels" in f.cause for f in vit.report.of("assumed"))


def test_vit_pytorch_that_norms_pixels_is_refused_in_words() -> None:
    state = respelt(r"blocks layers patch_embed\.proj to_patch_embedding.2")
    (finding,) = inspect(state).findings
    assert "vit-pytorch" in finding.cause and finding.fatal


def test_matrices_that_lie_turned_are_turned() -> None:
    """GPT-2's Conv1D: no name says it, biases do."""
    state = respelt(
        r"blocks h attn\.qkv attn.c_attn attn\.proj attn.c_proj mlp\.fc1 mlp.c_fc mlp\.fc2 mlp.c_proj norm(.) ln_\1"
    )
    turned = {n: t.T.clone() if re.search(r"c_\w+\.weight", n) else t for n, t in state.items()}
    vit = load(turned, dialect="draft", heads=2)
    tiny.assert_close(vit(tiny.pixels(12, 12)).tokens, source()(tiny.pixels(12, 12)))


def test_mmsegmentation_is_a_dialect_and_vitdet_is_named() -> None:
    table = (
        r"blocks backbone.layers norm([12]) ln\1 attn\.qkv\. attn.attn.in_proj_ attn\.proj attn.attn.out_proj mlp\.fc1 ffn.layers.0.0 "
        r"mlp\.fc2 ffn.layers.1 ^norm backbone.ln1 patch_embed\.proj backbone.patch_embed.projection ^(cls_token|pos_embed)$ backbone.\1"
    )
    state = respelt(table)
    vit = load(state, heads=2)
    assert vit.report is not None and vit.report.match is not None and vit.report.match.dialect.name == "mmseg"
    tiny.assert_close(vit(tiny.pixels(12, 12)).tokens, source()(tiny.pixels(12, 12)))
    features = load({n: t for n, t in state.items() if not n.startswith("backbone.ln1")}, heads=2)
    tiny.assert_close(features.eval()(tiny.pixels(12, 12)).tokens, vit(tiny.pixels(12, 12)).prenorm)
    detector = {
        **{f"backbone.net.{n}": t for n, t in respelt("").items()},
        "backbone.simfp_2.0.weight": torch.zeros(4, 4, 2, 2),
    }
    assert any("ViTDet" in finding.cause and finding.fatal for finding in inspect(detector).findings)


def test_x_transformers_is_named() -> None:
    layers = {f"attn_layers.layers.{2 * n}.1.to_{part}.weight": torch.zeros(8, 8) for n in range(2) for part in "qkv"}
    mlps = {f"attn_layers.layers.{2 * n + 1}.1.ff.{part}.weight": torch.zeros(8, 8) for n in range(2) for part in "02"}
    (finding,) = inspect({**layers, **mlps, "pos_embedding": torch.zeros(1, 16, 8)}).findings
    assert "x-transformers" in finding.cause and finding.fatal


def test_flax_names_are_read() -> None:
    tensors = {}
    for name, tensor in apart("A/query", "A/key", "A/value").items():
        array = tensor.numpy()
        name = (
            re.sub(r"^blocks\.(\d+)\.", r"Block_\1/", name)
            .replace("attn.proj", "A/out")
            .replace("mlp.fc", "MLP/Dense_")
        )
        name = name.replace("patch_embed.proj", "stem").replace(".", "/")
        if name.endswith("/weight") and array.ndim == 1:
            name = name.replace("/weight", "/scale")
        elif name.endswith("/weight"):
            name = name.replace("/weight", "/kernel")
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if any(word in name for word in ("query", "key", "value")):
            array = array.reshape(*array.shape[:-1], 2, 6)
        elif name.endswith("out/kernel"):
            array = array.reshape(2, 6, 12)
        tensors[name] = from_array(array.copy(), name)
    table = discover.draft(tensors)
    assert laws.check(table) == []
    vit = load({name: tensor.read() for name, tensor in tensors.items()}, dialect=table)
    assert vit.spec.num_heads == 2
    tiny.assert_close(vit(tiny.pixels(12, 12)).tokens, source()(tiny.pixels(12, 12)))


def test_a_dialect_that_the_file_is_not_written_in_is_refused() -> None:
    with pytest.raises(BadArgument, match="not written in the dialect hf-vit") as caught:
        load(source().state_dict(), dialect="hf-vit")
    assert load(source().state_dict(), dialect=str(caught.value.remedy).split('"')[1], heads=2)


class Fork(torch.nn.Module):
    """A model of one's own that computes as DINOv2 does, with names of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.stem, self.cls, self.positions = model.patch_embed.proj, model.cls_token, model.pos_embed
        self.layers, self.last_norm = torch.nn.ModuleList(model.blocks), model.norm

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.stem(pixels).flatten(2).transpose(1, 2)  # (B, N, D)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.last_norm(x)


def test_verify_names_what_differs_in_a_fork() -> None:
    fork, other = Fork(source()), source()
    assert anyvit.verify(fork, other, images=tiny.pixels(12, 12)).ok
    with torch.no_grad():
        fork.layers[1].mlp.fc1.weight.mul_(1.5)
    found = anyvit.verify(fork, other, images=tiny.pixels(12, 12))
    assert not found.ok and "blocks.1" in str(found.first) and "mlp.fc1" in str(found.cause)
