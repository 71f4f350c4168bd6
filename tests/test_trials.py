"""No silent wrongness: what can befall a checkpoint, tried one by one; each ends equal to the source or named.

A trial changes a sound model's tensors or its file. Its outcome is either `EQUAL` (the loaded model computes what the
source computes, to the last bit where no rounding was asked for), an error whose text names the cause, or a finding of
a kind whose text does.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from support.tiny import DEPTH, DIM, State, flip, offset_of, renamed, timm_state, write

import anyvit
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError

PIXELS = torch.from_numpy(np.random.default_rng(7).standard_normal((2, 3, 16, 16)).astype("float32"))
DIGITS = Path(anyvit.__file__).parent / "data" / "digits_vit.pth"
QKV = "blocks.1.attn.qkv.weight"
BLOCK = sorted(n.removeprefix("blocks.1.") for n in timm_state() if n.startswith("blocks.1."))


@dataclass(frozen=True)
class Outcome:
    """What must become of a trial: tokens equal to the source's within `off`, and what is said."""

    equal: bool = True
    off: float = 0.0
    error: str | None = None
    kind: str | None = None
    says: str = ""
    deep: bool = False


EQUAL = Outcome()


def raises(text: str) -> Outcome:
    return Outcome(equal=False, error=text)


def finds(kind: str, says: str = "", equal: bool = False, deep: bool = False) -> Outcome:
    return Outcome(equal=equal, kind=kind, says=says, deep=deep)


Make = Callable[[Path], Any]
TRIALS: dict[str, tuple[Make, dict[str, Any], Outcome]] = {}


def trial(name: str, make: Make, outcome: Outcome, **load: Any) -> None:
    assert name not in TRIALS, name
    TRIALS[name] = (make, {"heads": 4, **load}, outcome)


def of(change: Callable[[State], Mapping[str, Any]], suffix: str = "safetensors") -> Make:
    """A file of a sound model that was changed."""
    return lambda folder: write(change(timm_state()), folder / f"a.{suffix}")


def put(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[State], State]:
    return lambda state: {**state, name: np.ascontiguousarray(value(state[name].copy()))}


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {n: v for n, v in state.items() if n not in names}


def nested(*keys: str) -> Make:
    def make(folder: Path) -> Path:
        value: Any = {name: torch.from_numpy(array) for name, array in timm_state().items()}
        for key in reversed(keys):
            value = {key: value, "epoch": 3}
        torch.save(value, folder / "a.pth")
        return folder / "a.pth"

    return make


for prefix in (
    "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.", "backbone.", "encoder.",
    "net.vision.", "student.module.backbone.", "visual.trunk.", "_fsdp_wrapped_module.",
):  # fmt: skip
    trial(f"prefix {prefix}", of(lambda s, p=prefix: renamed(s, lambda n: p + n)), EQUAL)
for wrapper in ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod."):
    trial(
        f"each block wrapped in {wrapper}",
        of(lambda s, w=wrapper: renamed(s, lambda n: re.sub(r"^(blocks\.\d+\.)", rf"\g<1>{w}", n))),
        EQUAL,
    )
for keys in (("model",), ("state_dict",), ("teacher",), ("model_ema",), ("checkpoint", "model", "module")):
    trial(f"nested {'.'.join(keys)}", nested(*keys), EQUAL)
for suffix in ("pth", "npz", "bin", "pt"):
    trial(f"as .{suffix}", of(dict, suffix), EQUAL)
trial("a name that contains a wrapper", of(lambda s: {**s, "submodule.weight": np.ones(3, "f4")}), EQUAL)
trial("a mapping in memory", lambda folder: timm_state(), EQUAL)

for name in BLOCK:
    trial(f"missing {name}", of(without(f"blocks.1.{name}")), raises(re.escape(f"blocks.1.{name}")))
trial("missing patch kernel", of(without("patch_embed.proj.weight")), raises("patch"))
trial("missing norm.weight", of(without("norm.weight")), raises("norm"))
trial("missing positions", of(without("pos_embed")), raises("pos_embed|position"))
trial("missing block", of(lambda s: {n: v for n, v in s.items() if not n.startswith("blocks.1.")}), raises("block"))
trial(
    "missing first block", of(lambda s: {n: v for n, v in s.items() if not n.startswith("blocks.0.")}), raises("block")
)
trial("missing head bias", of(without("head.bias")), EQUAL)

trial(
    "transposed rectangle", of(put("blocks.1.mlp.fc1.weight", np.transpose)), raises(r"blocks\.1\.mlp\.fc1|shape|axes")
)
trial("a bias that is a scalar", of(put("blocks.1.attn.proj.bias", lambda v: v[0])), raises("proj.bias"))
trial("a gain of one value", of(put("norm.weight", lambda v: v[:1])), raises("norm"))
trial("a gain of one value in a block", of(put("blocks.2.norm1.weight", lambda v: v[:1])), raises("norm1"))
trial("two thirds of a qkv bias", of(put("blocks.0.attn.qkv.bias", lambda v: v[: 2 * DIM])), raises("qkv"))
trial("another width in one block", of(put("blocks.2.attn.proj.weight", lambda v: v[:, :32])), raises("proj"))
trial("two positions too few", of(put("pos_embed", lambda v: v[:, :-2])), raises("position|pos_embed"))
# 16 rows beside a class token are a grid of their own, 4 × 4: it is said that this is only likelier than 3 × 5.
trial("a position too few", of(put("pos_embed", lambda v: v[:, :-1])), finds("assumed", "could also be 3 × 5"))
trial("an empty tensor", of(put("blocks.1.norm2.bias", lambda v: v[:0])), raises("norm2"))
trial("mlp of another width", of(put("blocks.1.mlp.fc2.weight", lambda v: v[:, :128])), raises("fc2|mlp"))

trial("an extra tensor", of(lambda s: {**s, "extra": np.ones(3, "f4")}), finds("outside", "extra", equal=True))
trial("a mask token", of(lambda s: {**s, "mask_token": np.zeros((1, DIM), "f4")}), EQUAL)
trial("an extra tensor in a block", of(lambda s: {**s, "blocks.1.gate": np.ones(3, "f4")}), raises(r"blocks\.1\.gate"))
trial("LayerScale in one block only", of(lambda s: {**s, "blocks.1.ls1.gamma": np.ones(DIM, "f4")}), raises("ls1"))
trial(
    "an optimizer beside",
    of(lambda s: {**renamed(s, lambda n: "model." + n), **renamed(s, lambda n: f"optimizer.exp_avg.{n}")}, "pth"),
    EQUAL,
)
trial("a projection head beside", of(lambda s: {**s, "dino_head.mlp.0.weight": np.ones((8, DIM), "f4")}), EQUAL)

for name, outcome in (("float64", EQUAL), ("float16", Outcome(off=5e-3)), ("bfloat16", Outcome(off=5e-2))):
    kind = ml_dtypes.bfloat16 if name == "bfloat16" else name
    trial(f"all {name}", of(lambda s, k=kind: {n: v.astype(k) for n, v in s.items()}), outcome)
trial("all int8", of(lambda s: {n: (v * 20).astype("int8") for n, v in s.items()}), raises("quantised|int8"))
trial("one matrix int8", of(put(QKV, lambda v: (v * 20).astype("int8"))), raises("quantised|int8"))
trial(
    "half of it uint8", of(lambda s: {n: v.astype("uint8") if "mlp" in n else v for n, v in s.items()}), raises("uint8")
)

trial("a NaN", of(put(QKV, lambda v: np.where(np.arange(v.size).reshape(v.shape) == 5, np.nan, v).astype("f4"))),
      finds("nan", re.escape(f"{QKV}[0, 5]")))  # fmt: skip
trial("a NaN where nothing is computed", of(lambda s: {**s, "mask_token": np.full((1, DIM), np.nan, "f4")}), EQUAL)
trial("all NaN", of(lambda s: {n: np.full_like(v, np.nan) for n, v in s.items()}), finds("nan", "more"))
trial("an infinity", of(put("norm.bias", lambda v: np.where(np.arange(v.size) == 3, np.inf, v).astype("f4"))),
      finds("nan", r"norm\.bias\[3\] = inf"))  # fmt: skip
trial("a zeroed matrix", of(put("blocks.1.attn.proj.weight", np.zeros_like)), finds("constant", "proj.weight"))
trial("a zeroed patch kernel", of(put("patch_embed.proj.weight", np.zeros_like)), finds("constant", "patch_embed"))
trial(
    "zeroed keys", of(put(QKV, lambda v: np.concatenate([v[:DIM], 0 * v[:DIM], v[2 * DIM :]]))), finds("constant", QKV)
)
trial("a matrix of ones", of(put("blocks.0.mlp.fc1.weight", np.ones_like)), finds("constant", "fc1"))


def upset(name: str, bit: int, suffix: str) -> Make:
    def make(folder: Path) -> Path:
        path = write(timm_state(), folder / f"a.{suffix}")
        flip(path, offset_of(path, name) + 43, bit)
        return path

    return make


trial("top bit of an exponent", upset(QKV, 6, "safetensors"), finds("outlier", QKV))
for suffix in ("pth", "npz"):
    for bit in (0, 6):
        trial(f"bit {bit} of a weight in a .{suffix}", upset(QKV, bit, suffix), raises(f"damaged.*{QKV}"))


def recorded(folder: Path) -> Path:
    anyvit.convert(timm_state(), folder / "a.safetensors", "timm", heads=4)
    flip(folder / "a.safetensors", offset_of(folder / "a.safetensors", QKV))
    return folder / "a.safetensors"


trial("lowest bit of a weight in what convert wrote", recorded, raises(f"damaged.*{QKV}"))


def cut(suffix: str, share: float) -> Make:
    def make(folder: Path) -> Path:
        path = write(timm_state(), folder / f"a.{suffix}")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return make


for suffix in ("safetensors", "pth", "npz"):
    for share in (0.0, 0.001, 0.5, 0.99):
        trial(f"{share} of a .{suffix}", cut(suffix, share), raises("cut|empty|missing|damaged|no format"))


def edited(suffix: str, change: Callable[[bytearray], Any]) -> Make:
    def make(folder: Path) -> Path:
        path = write(timm_state(), folder / f"a.{suffix}")
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data) or data)
        return path

    return make


trial(
    "a header length of 2^60",
    edited("safetensors", lambda d: struct.pack("<Q", 1 << 60) + bytes(d[8:])),
    raises("header|format"),
)
trial("a flipped bit in a header", edited("safetensors", lambda d: d.__setitem__(9, d[9] ^ 1)), raises("header|format"))
trial("bytes after the end", edited("safetensors", lambda d: bytes(d) + b"x"), raises("after its last tensor"))
trial("a web page", lambda f: _text(f, "<html>login</html>"), raises("web page"))
trial("a pointer", lambda f: _text(f, "version https://git-lfs.github.com/spec/v1\nsize 10"), raises("git-LFS"))


def _text(folder: Path, text: str) -> Path:
    (folder / "a.safetensors").write_text(text)
    return folder / "a.safetensors"


def google(folder: Path, **options: Any) -> Path:
    anyvit.convert(timm_state(), folder / "a.npz", "google-npz", heads=4)
    return folder / "a.npz"


def google_changed(change: Callable[[dict[str, np.ndarray]], None]) -> Make:
    def make(folder: Path) -> Path:
        path = google(folder)
        arrays = {n: t.read().copy() for n, t in open_checkpoint(path).tensors.items()}
        change(arrays)
        np.savez(path, **arrays)
        return path

    return make


ATTENTION = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/"
trial("Google's npz", google, Outcome(off=2e-3))
trial("Google's npz without a member", google_changed(lambda a: a.pop("Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel")),
      raises("encoderblock_1/MlpBlock_3/Dense_0/kernel"))  # fmt: skip
trial(
    "Google's npz, out kernel as (d, heads, k)",
    google_changed(
        lambda a: a.update({ATTENTION + "out/kernel": a[ATTENTION + "out/kernel"].transpose(2, 0, 1).copy()})
    ),
    raises("out/kernel"),
)
trial("Google's npz, a norm of one value",
      google_changed(lambda a: a.update({"Transformer/encoder_norm/scale": np.ones(1, "f4")})),
      raises("encoder_norm"))  # fmt: skip
trial("Google's npz, without the last block's half",
      google_changed(lambda a: [a.pop(n) for n in list(a) if f"encoderblock_{DEPTH - 1}/Mlp" in n]),
      raises(f"encoderblock_{DEPTH - 1}"))  # fmt: skip


def said_in(dialect: str, **options: Any) -> Make:
    def make(folder: Path) -> Path:
        out = folder / "out.safetensors"
        anyvit.convert(timm_state(), out, dialect, heads=4, **options)
        return out

    return make


for dialect in ("hf-vit", "dino", "mae", "ibot", "moco", "mmpretrain", "torchvision", "dinov2"):
    trial(f"in the names of {dialect}", said_in(dialect), Outcome(off=1e-5))
trial("chunked blocks", said_in("dinov2-chunked", chunks=2), Outcome(off=1e-5))
trial("a chunk for each block", said_in("dinov2-chunked", chunks=3), Outcome(off=1e-5))
trial("folk advice: .0. replaced", of(lambda s: renamed(s, lambda n: n.replace(".0.", "."))), raises("block"))

trial("heads that do not divide the width", of(dict), raises("heads"), heads=7)
trial("another number of classes", of(dict), finds("new", "head", equal=True), num_classes=7)
trial("no head", of(dict), EQUAL, num_classes=0)
trial("one channel", of(dict), finds("resized", "channels"), in_chans=1)
trial("another size of pictures", of(dict), finds("resized", "pos"), image_size=24)
trial("a patch of another size", of(dict), finds("resized", "patch"), patch_size=8)
trial("the heads are only assumed", of(dict), finds("assumed", "head"), heads=None)
trial("an unknown weight set", of(dict), raises("weight set|no weights|nothing"), weights="teacher")
trial("an unknown dialect", of(dict), raises("dialect"), dialect="timmy")
trial("another dialect than the file's", of(dict), raises("patch|dialect|missing|lacks|no "), dialect="hf-vit")


def trained(change: Callable[[State], State]) -> Make:
    """The digits model, whose weights are trained and can be asked."""

    def make(folder: Path) -> Path:
        state = {n.removeprefix("teacher.backbone."): t.read().astype("float32")
                 for n, t in open_checkpoint(DIGITS).tensors.items() if n.startswith("teacher.backbone.")}  # fmt: skip
        return write(change(state), folder / "trained.safetensors")

    return make


def each_qkv(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[State], State]:
    def changed(state: State) -> State:
        return {n: np.ascontiguousarray(change(v)) if ".attn.qkv." in n else v for n, v in state.items()}

    return changed


def kqv(value: np.ndarray) -> np.ndarray:
    q, k, v = np.split(value, 3)
    return np.concatenate([k, q, v])


def vkq(value: np.ndarray) -> np.ndarray:
    q, k, v = np.split(value, 3)
    return np.concatenate([v, k, q])


def interleaved(value: np.ndarray, heads: int = 4) -> np.ndarray:
    return np.swapaxes(value.reshape(3, heads, -1, *value.shape[1:]), 0, 1).reshape(value.shape)


def turned(state: State) -> State:
    return {n: v.T.copy() if n.endswith("attn.proj.weight") else v for n, v in state.items()}


TRAINED = {"heads": None}
trial("trained", trained(dict), finds("none", deep=True), **TRAINED)
trial("trained, v first", trained(each_qkv(vkq)), finds("", "order|swapped", deep=True), **TRAINED)
trial(
    "trained, interleaved by heads",
    trained(each_qkv(lambda value: interleaved(value, 2))),
    finds("", "interleaved|order", deep=True),
    **TRAINED,
)


@cache
def reference() -> torch.Tensor:
    return anyvit.load(timm_state(), heads=4)(PIXELS).tokens


def test_the_reference_is_what_timm_computes(peers: None) -> None:
    import timm

    model = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=DIM, depth=DEPTH, num_heads=4, num_classes=5
    ).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in timm_state().items()})
    with torch.no_grad():
        assert torch.allclose(model.forward_features(PIXELS), reference(), atol=1e-5)


@pytest.mark.parametrize("name", TRIALS)
def test_trial(tmp_path: Path, name: str) -> None:
    make, load, outcome = TRIALS[name]
    if outcome.error is not None:
        with pytest.raises(AnyvitError) as caught:
            vit = anyvit.load(make(tmp_path), **load)
            vit(PIXELS)
        text = str(caught.value)
        assert re.search(outcome.error, text, re.IGNORECASE | re.DOTALL), text
        assert len(text) <= 2000
        return
    path = make(tmp_path)
    if outcome.deep:
        found = [str(finding) for finding in anyvit.inspect(path, deep=True).findings]
        doubts = [text for text in found if re.search("order|swapped|interleaved|transposed", text)]
        assert bool(doubts) == bool(outcome.says) and all(re.search(outcome.says, text) for text in doubts), found
        return
    vit = anyvit.load(path, **load)
    with torch.no_grad():
        tokens = vit(PIXELS if vit.spec.in_chans == 3 else PIXELS[:, :1]).tokens if "size" not in str(load) else None
    report = vit.report
    assert report is not None
    if outcome.kind:
        said = [str(finding) for finding in report.of(outcome.kind)]
        assert any(re.search(outcome.says, text) for text in said), [str(f) for f in report.findings]
    if outcome.equal:
        assert tokens is not None
        off = (tokens - reference()).abs().max().item() / reference().abs().max().item()
        assert off <= outcome.off, off


def test_there_are_enough_trials() -> None:
    assert len(TRIALS) > 100


def test_a_zip_that_was_packed_again(tmp_path: Path) -> None:
    path = write(timm_state(), tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert torch.equal(anyvit.load(path, heads=4)(PIXELS).tokens, reference())
