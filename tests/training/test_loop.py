"""Fine-tuning: killed runs go on to the last bit, frozen parts stay, what comes out is an ordinary model."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are trained")
pytest.importorskip("lightning_fabric", reason="finetune runs on Lightning Fabric")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import AnyvitError, BadArgument, MissingExtra  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.training import loop, state  # noqa: E402
from anyvit.training.data import crop_and_flip  # noqa: E402

X, Y = adapting.pixels(count=10), torch.arange(10) % 3
FAST: dict[str, Any] = {"device": "cpu", "batch_size": 4, "progress": False, "lr": 1e-3}


def load(**options: Any) -> ViT:
    return anyvit.load(adapting.state(), heads=2, **options)


def run(vit: ViT, **options: Any) -> loop.Result:
    return anyvit.finetune(vit, (X, Y), **{**FAST, **options})


def same(one: ViT, two: ViT) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class Fatal:
    """An augmentation that does something after so many pictures."""

    def __init__(self, after: int, what: Any) -> None:
        self.left, self.what = after, what

    def __call__(self, pixels: Any, noise: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            self.what()
        return crop_and_flip(pixels, noise)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from training import test_loop as t
kill = t.Fatal(int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
t.run(t.load(), out=Path(sys.argv[2]), augment=kill, **t.RUN)
"""


def noisy(features: Any, labels: Any) -> Any:
    """A loss that takes from the global generator, as dropout does."""
    return loop.cross_entropy(features, labels) * (0.5 + torch.rand(()))


RUN: dict[str, Any] = {"steps": 12, "save_every": 2, "validation": (X, Y), "loss": noisy, "classes": 3}


def test_a_run_killed_at_a_random_step_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = run(load(), augment="crop+flip", out=tmp_path / "whole", **RUN)
    at = random.randrange(12, 44)  # pictures, four a step
    paths = [str(Path(anyvit.__file__).parents[1]), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", KILLED, str(at), str(tmp_path / "out"), *paths]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, (at, done.stderr)
    kept = state.load(tmp_path / "out" / state.NAME)["step"]
    assert kept == at // 4 // 2 * 2, at
    again = run(load(), augment="crop+flip", out=tmp_path / "out", **RUN)
    assert again.resumed == kept and again.steps == 12
    assert same(again.vit, whole.vit), f"another model after a kill at picture {at}"
    assert again.losses == whole.losses and again.accuracy == whole.accuracy
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_it_would_not_without_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(load(), steps=4, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        run(load(), steps=4, save_every=2, out=tmp_path, augment=Fatal(13, _interrupt))
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    assert not same(run(load(), steps=4, save_every=2, out=tmp_path, augment=Fatal(99, _interrupt)).vit, whole.vit)


def scaled() -> Any:
    """Fabric in float16 with a gradient scaler, which on CPUs it has only where it is given one; it starts too high."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=4)
    made = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    made.launch()
    return made


def test_a_resumed_run_in_float16_has_the_scale_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each overflow halves the scale and leaves out a step: with another scale other steps are taken."""
    whole = run(load(), steps=24, save_every=3, augment="crop+flip", fabric=scaled())
    options: dict[str, Any] = {"steps": 24, "save_every": 3, "augment": "crop+flip", "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        run(load(), fabric=scaled(), **{**options, "augment": Fatal(75, _interrupt)})
    kept = state.load(tmp_path / state.NAME)
    assert 15 < kept["step"] < 24 and kept["precision"]["scale"] < 2.0**24
    with monkeypatch.context() as patch:
        patch.setattr(torch.amp.GradScaler, "load_state_dict", lambda *_: None)
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / state.NAME).write_bytes((tmp_path / state.NAME).read_bytes())
        other = run(load(), fabric=scaled(), **{**options, "out": tmp_path / "copy"})
        assert not same(other.vit, whole.vit)
    again = run(load(), fabric=scaled(), **options)
    assert again.resumed == kept["step"] and again.losses == whole.losses and same(again.vit, whole.vit)
    assert min(whole.losses[16:]) < whole.losses[0]


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_a_finished_run_is_not_run_again_and_another_one_is_refused(tmp_path: Path) -> None:
    first = run(load(), steps=3, out=tmp_path)
    again = run(load(), steps=3, out=tmp_path)
    assert again.resumed == 3 and same(first.vit, again.vit) and again.losses == first.losses
    with pytest.raises(BadArgument, match=r"steps: 3 there, 5 asked"):
        run(load(), steps=5, out=tmp_path)
    with pytest.raises(BadArgument, match="frozen parts have other values"):
        run(load(), steps=3, train="head", out=tmp_path / "two")
        other = load()
        other.norm.weight.data[0] += 1
        run(other, steps=3, train="head", out=tmp_path / "two")
    assert run(load(), steps=5, out=tmp_path, resume=False).resumed == 0
    (tmp_path / state.NAME).write_bytes(b"cut")
    with pytest.raises(AnyvitError, match="cannot be read"):
        run(load(), steps=5, out=tmp_path)


@pytest.mark.parametrize("train", ["head", "last:1", "new"])
def test_frozen_parts_are_unchanged_to_the_bit(train: str) -> None:
    vit = load(registers=2)
    before = {n: p.detach().clone() for n, p in vit.named_parameters()}
    result = run(vit, steps=3, train=train, weight_decay=0.1)
    moved = {n for n, p in vit.named_parameters() if n in before and not torch.equal(p, before[n])}
    names = {n for group in result.groups for n in group.names}
    assert moved == names - {"head.weight", "head.bias"} and moved >= ({"embed.reg"} if train != "head" else set())
    assert vit.head.weight.any()
    assert all(p.requires_grad for p in vit.parameters()) and not vit.training
    told = [f for f in result.findings if f.kind == "frozen"]
    assert bool(told) == (train == "head") and all("embed.reg" in f.names for f in told)


def test_every_part_learns_at_its_rate() -> None:
    vit = load(condition=anyvit.AdaLN(dim=5))
    before = {n: p.detach().clone() for n, p in vit.named_parameters()}
    cameras = torch.randn(10, 5)
    result = anyvit.finetune(
        vit, (X, Y, cameras), **{**FAST, "steps": 3, "new_lr": 3e-2, "layer_decay": 0.5, "warmup": 0}
    )
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in vit.named_parameters() if n in before}
    assert all(moved.values())
    # Adam's first steps are as long as the rate
    assert 0.02 < moved["blocks.0.adaln.weight"] < 0.1 and moved["embed.patch.weight"] < 3 * 1e-3 / 4
    assert {g.lr for g in result.groups if g.layer is None} == {3e-2}
    assert not torch.equal(vit(X, cameras.view(1, 10, 5)).tokens, vit(X, -cameras.view(1, 10, 5)).tokens)


def test_the_rate_rises_and_falls() -> None:
    made = loop._Run(**{**dict.fromkeys(loop._Run.__dataclass_fields__), "steps": 10, "warmup": 4})
    seen = [made.rate(n) for n in range(10)]
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0] and seen[4] == 1.0
    assert all(a > b for a, b in itertools.pairwise(seen[4:])) and 0 < seen[-1] < 0.1


def test_the_loss_falls_and_validation_is_told() -> None:
    bright = X + Y[:, None, None, None] * 3.0 - 3.0
    result = anyvit.finetune(
        load(), (bright, Y), validation=(bright, Y), epochs=20.0, device="cpu", lr=3e-3, new_lr=3e-2
    )
    assert result.steps == 20 and result.losses[-1] < 0.7 * result.losses[0]
    assert list(result.accuracy)[-1] == 20 and 0.5 < result.accuracy[20] <= 1.0
    assert "accuracy" in str(result) and result.as_dict()["steps"] == 20


def test_seeds_decide_and_the_callers_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two, three = (run(load(), steps=3, seed=seed).vit for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert same(one, two) and not same(one, three)


def test_parts_of_a_batch_add_up() -> None:
    one, two = (run(load(), steps=1, accumulate=n, warmup=0) for n in (1, 2))
    assert one.losses[0] == pytest.approx(two.losses[0], rel=1e-5)
    with pytest.raises(BadArgument, match="one size"):
        run(load(), steps=1, accumulate=3)


def test_bfloat16_trains_and_keeps_the_weights_in_float32() -> None:
    result = run(load(), steps=12, precision="bf16-mixed", new_lr=1e-2)
    assert result.losses[-1] < result.losses[0]
    assert {p.dtype for p in result.vit.parameters()} == {torch.float32}


def test_what_comes_out_is_delivered_in_any_dialect(tmp_path: Path) -> None:
    vit = run(load(image_size=16), steps=2, out=tmp_path / "run").vit
    back = anyvit.load(tmp_path / "run")
    x = adapting.pixels(16, 16)
    assert torch.equal(back(x).logits, vit(x).logits)
    assert back.spec.mean == vit.spec.mean and back.spec.resample == vit.spec.resample
    record = anyvit.inspect(tmp_path / "run").provenance
    told = " ".join(cause for _, _, cause in record["earlier"])
    assert "position table 3 × 3 → 4 × 4" in told and "fine-tuned for 2 steps" in told
    for to in ("hf-vit", "timm"):
        for source in (vit, tmp_path / "run"):
            anyvit.convert(source, tmp_path / f"{to}.safetensors", to=to)
            again = anyvit.load(tmp_path / f"{to}.safetensors", heads=2)
            adapting.close(again(x).logits, vit(x).logits)


def test_a_key_bias_that_is_not_there_does_not_learn(tmp_path: Path) -> None:
    spec = Spec(embed_dim=16, depth=2, num_heads=2, mlp_dim=16, patch_size=4, image_size=12, qkv_bias="qv")
    vit = run(ViT(spec), steps=2).vit
    bias = vit.blocks[0].attn.qkv.bias
    assert bias[:16].any() and bias[32:].any() and not bias[16:32].any()


@pytest.mark.parametrize(("change", "words"), [
    ({"steps": 3, "epochs": 1}, "not both"), ({"steps": 0}, "from 1 on"), ({"epochs": 0}, "above 0"),
    ({"batch_size": 0}, "batch_size"), ({"augment": "mixup"}, "no augmentation"), ({"precision": "7-bit"}, "Fabric"),
    ({"device": "toaster"}, "Fabric"), ({"train": "tail"}, "last:N"),
])  # fmt: skip
def test_arguments_that_cannot_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        run(load(), **change)


def test_labels_without_a_class_are_refused_before_the_first_step() -> None:
    with pytest.raises(BadArgument, match="counted from 1"):
        anyvit.finetune(load(num_classes=3), (X, Y + 1), classes=3, **FAST)
    with pytest.raises(BadArgument, match="with a fraction"):
        anyvit.finetune(load(), (X, Y.float()), **FAST)


def test_a_loss_of_the_callers_needs_no_head() -> None:
    goal = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    result = anyvit.finetune(
        load(),
        (X, goal),
        loss=lambda features, y: (features.cls - y).pow(2).mean(),
        **{**FAST, "steps": 40, "lr": 1e-2, "batch_size": 10},
    )
    assert result.vit.head is None and result.losses[-1] < 0.7 * result.losses[0]


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(AnyvitError, match=r"loss is nan at step 0"):
        run(load(), steps=3, loss=lambda features, y: features.logits.sum() * torch.nan, classes=3)


def test_pixels_that_are_not_normalised_are_said() -> None:
    result = anyvit.finetune(load(), (X.sigmoid(), Y), **{**FAST, "steps": 1})
    assert any(f.kind == "pixels" for f in result.findings)


def test_without_fabric_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingExtra, match=r"anyvit\[train\]"):
        run(load(), steps=1)
