"""Sister trials to those of test_trials.py and test_measured.py: other damage, on trained weights, through every verb.

What can be known is named by `load`, `load_into` (timm and transformers) and `convert` alike, or refused by all of them
and by `inspect`. What no look at one file can tell (docs/security.md, "What is not guaranteed") is told by `verify`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from support.tiny import State, timm_state, write

import anyvit
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError
from anyvit.lazy import Checkpoint
from anyvit.reading import Ask, understand
from anyvit.report import Report

DIGITS = Path(anyvit.__file__).parent / "data" / "digits_vit.pth"
PIXELS = torch.from_numpy(np.random.default_rng(7).standard_normal((2, 3, 16, 16)).astype("float32"))
FC1, BIAS, GAIN = "blocks.2.mlp.fc1.weight", "blocks.2.mlp.fc1.bias", "blocks.2.norm1.weight"
Change = Callable[[State], Mapping[str, Any]]


@cache
def trained() -> State:
    """A ViT that was trained, four blocks, in timm's names; in full precision, as training leaves it."""
    tensors = open_checkpoint(DIGITS).tensors
    prefix = "teacher.backbone."
    state = {n.removeprefix(prefix): t.read() for n, t in tensors.items() if n.startswith(prefix)}
    state = {re.sub(r"^blocks\.\d+\.(\d+)", r"blocks.\1", n): v for n, v in state.items()}
    return {n: v.astype("float32") * np.float32(1.0001) for n, v in state.items() if n != "mask_token"}


def put(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda state: {**state, name: np.ascontiguousarray(value(state[name].copy()))}


def every(change: Callable[[str, np.ndarray], np.ndarray]) -> Change:
    return lambda state: {name: change(name, value) for name, value in state.items()}


def swapped(*pairs: tuple[str, str]) -> Change:
    def change(state: State) -> State:
        both = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        return {**state, **{a: state[b] for a, b in both}}

    return change


def later(value: np.ndarray, by: int) -> np.ndarray:
    """The same bytes, `by` bytes further on."""
    raw = value.tobytes()
    return np.frombuffer(raw[-by:] + raw[:-by], value.dtype).reshape(value.shape)


def bfloat16(value: np.ndarray) -> np.ndarray:
    return value.astype(ml_dtypes.bfloat16).astype("float32")


def block(number: int, state: State) -> dict[str, np.ndarray]:
    start = f"blocks.{number}."
    return {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}


def odd(name: str) -> bool:
    return int(re.sub(r"\D", "", name) or 0) % 2 == 1


NAMED: dict[str, tuple[Change, str, str]] = {
    "a block twice": (
        lambda s: {**s, **{f"blocks.3.{n}": v for n, v in block(2, s).items()}}, "repeated",
        r"blocks\.3\.attn\.qkv\.weight is blocks\.2\.attn\.qkv\.weight",
    ),
    "a matrix twice": (
        lambda s: {**s, FC1: s["blocks.0.mlp.fc1.weight"]}, "repeated",
        r"blocks\.2\.mlp\.fc1\.weight is blocks\.0\.mlp\.fc1\.weight",
    ),
    "a matrix a thousand times too large": (put(FC1, lambda v: v * 1000), "scale", re.escape(FC1)),
    "a bias a thousand times too large": (put(BIAS, lambda v: v * 1000), "scale", re.escape(BIAS)),
    "gains a thousand times too large": (put(GAIN, lambda v: v * 1000), "scale", re.escape(GAIN)),
    "gains of the other sign": (put(GAIN, np.negative), "sign", re.escape(GAIN)),
    "half of the file rounded to bfloat16": (every(lambda n, v: bfloat16(v) if odd(n) else v), "rounded", "bfloat16"),
    "one matrix rounded to float16": (
        put(FC1, lambda v: v.astype("float16").astype("float32")), "rounded", re.escape(f"{FC1} holds float16 values"),
    ),
    "a matrix of the other byte order": (put(FC1, lambda v: v.byteswap()), "scrambled", "other byte order"),
    "a bias of the other byte order": (put(BIAS, lambda v: v.byteswap()), "scrambled", re.escape(BIAS)),
    "all of the other byte order": (every(lambda n, v: v.byteswap()), "scrambled", "other byte order"),
    "half precision of the other byte order": (
        every(lambda n, v: v.astype("float16").byteswap()), "scrambled", "other byte order",
    ),
    "a matrix one byte late": (put(FC1, lambda v: later(v, 1)), "scrambled", "begin 1 bytes later"),
    "a matrix two bytes late": (put(FC1, lambda v: later(v, 2)), "scrambled", "begin 2 bytes later"),
    "a matrix three bytes late": (put(FC1, lambda v: later(v, 3)), "scrambled", "begin 3 bytes later"),
    "half of a matrix zero": (
        put(FC1, lambda v: np.concatenate([v[: len(v) // 2], 0 * v[len(v) // 2 :]])), "constant", "pages of zeros",
    ),
    "float8 without scales": (
        every(lambda n, v: v.astype(ml_dtypes.float8_e4m3fn) if v.ndim == 2 else v), "assumed", "float8 weights without scales",
    ),
    "counters that trackers leave": (
        lambda s: {**s, "num_batches_tracked": np.array(3), "global_step": np.array(9)}, "outside", "num_batches_tracked",
    ),
}  # fmt: skip
"""Damage → what it does to the trained weights, the kind of the finding, what it says."""

REFUSED: dict[str, tuple[Change, str]] = {
    "int8 without scales": (every(lambda n, v: (v * 99).astype("int8") if v.ndim == 2 else v), r"quantised[\s\S]*int8"),
    "int8 with scales": (
        lambda s: {**s, FC1: (s[FC1] * 99).astype("int8"), FC1 + "_scale": np.ones((len(s[FC1]), 1), "float32")},
        "quantised|scales",
    ),
    "int8 of bitsandbytes": (
        lambda s: {**s, FC1: (s[FC1] * 99).astype("int8"), "blocks.2.mlp.fc1.SCB": np.ones(len(s[FC1]), "float32")},
        "bitsandbytes",
    ),
    "float8 with scales": (
        lambda s: {**s, FC1: s[FC1].astype(ml_dtypes.float8_e4m3fn), FC1 + "_scale": np.array(0.1, "float32")},
        "scales stand beside",
    ),
    "a counter inside a block": (lambda s: {**s, "blocks.1.norm1.num_batches_tracked": np.array(3)}, "num_batches_tracked"),
    "biases absent in one block": (
        lambda s: {n: v for n, v in s.items() if n != "blocks.2.attn.qkv.bias"}, r"blocks\.2\.attn\.qkv\.bias",
    ),
    "a block of another width": (
        lambda s: {**s, **{n: v for n, v in timm_state(dim=64).items() if n.startswith("blocks.1.")}}, r"blocks\.1|shape|wide",
    ),
    "two checkpoints in one file, of two spellings": (
        lambda s: {**s, **{n: t.read() for n, t in spelt("hf-dinov2").items()}}, "unexplained|not explained",
    ),
}  # fmt: skip

SILENT: dict[str, Change] = {
    "matrices of two blocks exchanged": swapped((FC1, "blocks.1.mlp.fc1.weight")),
    "norm1 and norm2 of a block exchanged": swapped(
        *((f"blocks.2.norm1.{p}", f"blocks.2.norm2.{p}") for p in ("weight", "bias"))
    ),
    "position rows in another order": put("pos_embed", lambda v: np.concatenate([v[:, :1], v[:, :0:-1]], axis=1)),
    "a matrix of the other sign": put(FC1, np.negative),
    "a matrix moved on by one row": put(FC1, lambda v: np.roll(v, 1, 0)),
    "a matrix a tenth too large": put(FC1, lambda v: v * 1.1),
}
"""Damage that leaves weights as they might have been trained."""


@cache
def spelt(dialect: str) -> dict[str, Any]:
    """The same model in another spelling; in memory."""
    import tempfile

    path = Path(tempfile.mkdtemp()) / "a.safetensors"
    anyvit.convert(trained(), path, dialect, heads=2)
    return dict(open_checkpoint(path).tensors)


def timm_module() -> Any:
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=128, depth=4, num_heads=2, mlp_ratio=1,
                                         init_values=1.0, num_classes=0)  # fmt: skip


def transformers_module() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=128, num_hidden_layers=4, num_attention_heads=2, image_size=16, patch_size=4,
                                       mlp_ratio=1)  # fmt: skip
    return transformers.Dinov2Model(config)


def verbs(path: Path) -> dict[str, Callable[[], Report | None]]:
    out = path.with_name("out.safetensors")
    return {
        "load": lambda: anyvit.load(path, heads=2, check="now").report,
        "load_into timm": lambda: anyvit.load_into(timm_module(), path, heads=2),
        "load_into transformers": lambda: anyvit.load_into(transformers_module(), path, heads=2),
        "convert": lambda: anyvit.convert(path, out, "timm", heads=2),
    }


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.usefixtures("peers")
def test_what_can_be_known_is_named_by_every_verb(tmp_path: Path, what: str) -> None:
    change, kind, says = NAMED[what]
    with np.errstate(all="ignore"):
        path = write(change(trained()), tmp_path / "a.safetensors")
    assert anyvit.inspect(path, deep=True).match is not None
    for verb, act in verbs(path).items():
        report = act()
        assert report is not None
        texts = [str(finding) for finding in report.of(kind)]
        assert any(re.search(says, text) for text in texts), (verb, [str(f) for f in report.findings])
        assert all(len(text) < 2_000 for text in texts)


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("peers")
def test_what_cannot_be_a_model_is_refused_by_every_verb(tmp_path: Path, what: str) -> None:
    change, says = REFUSED[what]
    path = write(change(trained()), tmp_path / "a.safetensors")
    report = anyvit.inspect(path)
    assert not report.ok and re.search(says, str(report))
    for verb, act in verbs(path).items():
        with pytest.raises(AnyvitError) as caught:
            act()
        assert re.search(says, str(caught.value)), (verb, caught.value)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("what", SILENT)
def test_what_one_file_cannot_tell_a_comparison_does(tmp_path: Path, what: str) -> None:
    path = write(SILENT[what](trained()), tmp_path / "a.safetensors")
    sound = write(trained(), tmp_path / "sound.safetensors")
    vit = anyvit.load(path, heads=2, check="now")
    assert vit.report is not None and {f.kind for f in vit.report.findings} <= {"assumed", "outside"}
    verdict = anyvit.verify(vit, anyvit.load(sound, heads=2))
    assert not verdict.ok and re.search(r"blocks\.[12]|embed", str(verdict))


@pytest.mark.usefixtures("peers")
def test_the_sound_model_is_not_accused_and_every_verb_computes_the_same(tmp_path: Path) -> None:
    path = write(trained(), tmp_path / "a.safetensors")
    with torch.no_grad():
        want = anyvit.load(trained(), heads=2)(PIXELS).tokens
        assert torch.allclose(anyvit.load(DIGITS)(PIXELS).tokens, want, rtol=0.01, atol=0.05)
        for verb, act in verbs(path).items():
            report = act()
            assert report is not None and {f.kind for f in report.findings} <= {"assumed", "outside", "new", "note"}, (
                verb
            )
        target = timm_module().eval()
        anyvit.load_into(target, path, heads=2)
        assert torch.allclose(target.forward_features(PIXELS), want, atol=1e-5)
        other = transformers_module().eval()
        anyvit.load_into(other, path, heads=2)
        assert torch.allclose(other(PIXELS).last_hidden_state, want, atol=1e-5)
        assert torch.equal(anyvit.load(tmp_path / "out.safetensors", heads=2)(PIXELS).tokens, want)


SPELLINGS = ("timm", "dinov2", "dinov2-chunked", "hf-dinov2", "hf-vit", "google-npz", "big_vision", "open_clip", "dino", "moco",
             "mmpretrain", "torchvision", "anyvit")  # fmt: skip


@pytest.mark.parametrize("dialect", SPELLINGS)
def test_every_spelling_and_layout(tmp_path: Path, dialect: str) -> None:
    """The same damage in files of other names, fused or split, transposed or with axes for heads."""
    tensors = spelt(dialect)
    suffix = "npz" if dialect in ("google-npz", "big_vision") else "pth" if dialect == "torchvision" else "safetensors"
    canonical = understand(Checkpoint(tensors, suffix), Ask(dialect=dialect)).tensors
    origin = {
        kind: canonical[f"blocks.2.{kind}"].origin[0] for kind in ("mlp.fc1.weight", "attn.q.weight", "norm1.weight")
    }
    other = canonical["blocks.1.mlp.fc1.weight"].origin[0]
    sound = {n: t.read() for n, t in tensors.items()}
    matrix, gain = origin["mlp.fc1.weight"], origin["norm1.weight"]
    for change, kind, name in (
        ({}, "", ""),
        ({matrix: sound[matrix] * 1000}, "scale", matrix),
        ({origin["attn.q.weight"]: sound[origin["attn.q.weight"]] * 1000}, "scale", origin["attn.q.weight"]),
        ({matrix: sound[matrix].byteswap()}, "scrambled", matrix),
        ({matrix: sound[other]}, "repeated", matrix),
        ({gain: -sound[gain]}, "sign", gain),
    ):
        path = write({**sound, **change}, tmp_path / f"a.{suffix}")
        report = anyvit.load(path, dialect=dialect, heads=2, check="now").report
        assert report is not None
        found = [
            f
            for f in report.findings
            if f.kind in ("scale", "scrambled", "repeated", "sign", "rounded", "nan", "outlier")
        ]
        assert [f.kind for f in found if f.kind != "outlier"] == ([kind] if kind else []), (
            kind,
            [str(f) for f in found],
        )
        assert not kind or name in str(found[0])


# Shards of two saves, copies that differ, mixed types


def folder_of(tmp_path: Path, shards: Mapping[str, State], index: Mapping[str, str] | None) -> Path:
    home = tmp_path / "shards"
    home.mkdir()
    for name, state in shards.items():
        write(state, home / name)
    if index is not None:
        (home / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return home


def halves(state: State) -> tuple[State, State]:
    first = {n: v for n, v in state.items() if not re.match(r"blocks\.[23]", n)}
    return first, {n: v for n, v in state.items() if n not in first}


ONE, TWO, STALE = (
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model-00003-of-00003.safetensors",
)


@pytest.mark.parametrize("verb", ["inspect", "load", "convert"])
@pytest.mark.parametrize("what", ["stale beside", "in both", "absent", "absent name", "swapped"])
def test_shards_of_two_saves(tmp_path: Path, what: str, verb: str) -> None:
    first, second = halves(trained())
    index = {**dict.fromkeys(first, ONE), **dict.fromkeys(second, TWO)}
    other = {n: v * 1.5 for n, v in second.items()}
    if what == "stale beside":  # of an earlier save with more shards: never read, and said
        home, kind, says = folder_of(tmp_path, {ONE: first, TWO: second, STALE: other}, index), "stray", STALE
    elif what == "in both":  # the copy that the index names is read
        home, kind, says = (
            folder_of(tmp_path, {ONE: {**first, **other}, TWO: second}, index),
            "duplicate",
            "several shards",
        )
    elif what == "absent":
        home, kind, says = folder_of(tmp_path, {ONE: first}, index), "", r"shards are missing|blocks\.2"
    elif what == "absent name":
        home, kind, says = (
            folder_of(tmp_path, {ONE: first, TWO: second}, {**index, "head.weight": TWO}),
            "missing",
            "no shard",
        )
    else:  # the index of another save: every tensor lies elsewhere than it says
        away = {name: ONE if shard == TWO else TWO for name, shard in index.items()}
        home, kind, says = folder_of(tmp_path, {ONE: first, TWO: second}, away), "misplaced", "another shard"
    act = {
        "inspect": lambda: anyvit.inspect(home),
        "load": lambda: anyvit.load(home, heads=2).report,
        "convert": lambda: anyvit.convert(home, tmp_path / "out.safetensors", "timm", heads=2),
    }[verb]
    if not kind:
        if verb == "inspect":
            report = anyvit.inspect(home)
            assert not report.ok and re.search(says, str(report))
        else:
            with pytest.raises(AnyvitError, match=says):
                act()
        return
    report = act()
    assert report is not None and any(re.search(says, str(f)) for f in report.of(kind)), [
        str(f) for f in report.findings
    ]
    with torch.no_grad():
        got = anyvit.load(home, heads=2)(PIXELS).tokens
        assert torch.equal(got, anyvit.load(trained(), heads=2)(PIXELS).tokens)


def test_copies_under_a_wrappers_name_that_differ(tmp_path: Path) -> None:
    """Two whole sets: which is read is said. One tensor alone under a wrapper's name: left out, and said."""
    both = {**trained(), **{f"_orig_mod.{n}": v * 1.5 for n, v in trained().items()}}
    report = anyvit.load(write(both, tmp_path / "a.safetensors"), heads=2).report
    assert report is not None and any("2 weight sets" in str(f) for f in report.of("weights"))
    one = {**trained(), f"module.{FC1}": trained()[FC1] * 2}
    vit = anyvit.load(write(one, tmp_path / "b.safetensors"), heads=2)
    assert any(FC1 in str(f) for f in vit.report.of("outside"))  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(vit(PIXELS).tokens, anyvit.load(trained(), heads=2)(PIXELS).tokens)


def test_blocks_that_share_their_weights_on_purpose_are_not_accused(tmp_path: Path) -> None:
    """torch.save keeps what shares its storage; a copy of the bytes is another thing."""
    state = {n: torch.from_numpy(v) for n, v in trained().items()}
    shared = {n: state[n.replace("blocks.3.", "blocks.2.")] for n in state}
    for content, kinds in ((shared, set()), ({n: t.clone() for n, t in shared.items()}, {"repeated"})):
        torch.save(content, tmp_path / "a.pth")
        report = anyvit.load(tmp_path / "a.pth", heads=2, check="now").report
        assert report is not None and {f.kind for f in report.findings} - {"assumed"} == kinds


def test_mixed_types_are_read_as_they_are(tmp_path: Path) -> None:
    mixed = {n: v.astype(("float16", "float32", "float64")[i % 3]) for i, (n, v) in enumerate(trained().items())}
    vit = anyvit.load(write(mixed, tmp_path / "a.safetensors"), heads=2)
    assert {p.dtype for p in vit.parameters()} == {torch.float32}
    with torch.no_grad():
        want = anyvit.load({n: v.astype("float32") for n, v in mixed.items()}, heads=2)(PIXELS).tokens
        assert torch.equal(vit(PIXELS).tokens, want)


@needs_shared
def test_real_weights(tmp_path: Path) -> None:
    """DINOv2-small as published, sound and damaged, in the names and the half precision that it has."""
    home = SHARED / "real" / "dinov2-small-hf"
    state = {n: t.read() for n, t in open_checkpoint(home).tensors.items()}
    fc1, gain = "encoder.layer.5.mlp.fc1.weight", "encoder.layer.5.norm2.weight"
    layer = {n: v for n, v in state.items() if n.startswith("encoder.layer.5.")}
    for change, kind in (
        ({}, ""),
        ({n.replace("layer.5.", "layer.6."): v for n, v in layer.items()}, "repeated"),
        ({fc1: state[fc1] * np.float16(1000)}, "scale"),
        ({gain: -state[gain]}, "sign"),
        ({fc1: state[fc1].byteswap()}, "scrambled"),
    ):
        (tmp_path / "config.json").write_bytes((home / "config.json").read_bytes())
        write({**state, **change}, tmp_path / "model.safetensors")
        report = anyvit.load(tmp_path, check="now").report
        assert report is not None
        found = {f.kind for f in report.findings} - {"assumed", "outside", "ignored", "note"}
        assert found == ({kind} if kind else set()), [str(f) for f in report.findings]
