"""Bad input of every kind: one error of ours, short, in plain words; inspect and load agree on it; nothing is executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from support.toys import toy, under

from anyvit import api
from anyvit.errors import Ambiguous, AnyvitError, BadArgument, FileError, Incomplete, NotAViT

SMALL: dict[str, Any] = {"width": 64, "depth": 2, "mlp": 96}
WHOLE = toy(0, **SMALL)
DEEP = toy(0, **{**SMALL, "depth": 4})


def without(*parts: str, of: dict[str, np.ndarray] = WHOLE) -> dict[str, Any]:
    return {name: value for name, value in of.items() if not any(part in name for part in parts)}


def changed(name: str, change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {**WHOLE, name: change(WHOLE[name])}


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


MAPPINGS: dict[str, tuple[dict[str, Any], type[AnyvitError], str]] = {
    "nothing": ({}, NotAViT, "no tensors at all"),
    "settings only": ({"epoch": 3, "args": {"lr": 0.1}}, NotAViT, "no tensors at all|args|epoch"),
    "a hollow model": (without("blocks."), NotAViT, "without transformer blocks|patch_embed"),
    "a linear head": ({"weight": zeros(10, 64), "bias": zeros(10)}, NotAViT, "no transformer blocks|linear head|(10, 64)"),
    "a convolutional network": (
        {"conv1.weight": zeros(8, 3, 7, 7), "layer1.0.conv1.weight": zeros(8, 8, 3, 3), "fc.weight": zeros(10, 8)},
        NotAViT, "resnet|layer1.0.conv1.weight",
    ),
    "an adapter": (
        {f"base_model.model.blocks.0.attn.qkv.lora_{x}.weight": zeros(4, 64) for x in "AB"},
        NotAViT, "lora adapter|lora_a.weight|merge_and_unload",
    ),
    "an adapter beside its base": (
        {**WHOLE, "blocks.0.attn.qkv.lora_A.weight": zeros(4, 64)}, NotAViT, "lora|not merged|blocks.0.attn.qkv.lora_a.weight",
    ),
    "an optimizer": (
        {"state": {0: {"exp_avg": zeros(64), "exp_avg_sq": zeros(64), "step": zeros()}}, "param_groups": []},
        NotAViT, "optimizer|no model weights|state.0.exp_avg",
    ),
    "a decoder": (under("decoder_", without("patch_embed", "cls", "pos")), NotAViT, "decoder"),
    "unknown names": ({f"layer{i}.w": zeros(64, 64) for i in range(20)}, NotAViT, "no known vision transformer layout|dialect="),
    "a missing block": (without("blocks.2.", of=DEEP), Incomplete, "block 2 is missing|0..1,3|blocks.2.norm1.weight"),
    "the first block missing": (without("blocks.0.", of=DEEP), Incomplete, "block 0 is missing"),
    "a missing tensor": (
        without("blocks.1.mlp.fc2.weight"), Incomplete, "1 tensor is missing from block 1|blocks.1.mlp.fc2.weight|the other blocks have it",
    ),
    "two missing tensors": (
        without("blocks.1.attn.proj"), Incomplete, "2 tensors are missing from block 1|blocks.1.attn.proj.weight, blocks.1.attn.proj.bias",
    ),
    "no second norms": (without("norm2"), Incomplete, "every block lacks|blocks.n.norm2.weight"),
    "no mlp": (without(".mlp."), Incomplete, "every block lacks|blocks.n.mlp.fc1.weight, blocks.n.mlp.fc2.weight"),
    "no patch kernel": (without("patch_embed"), Incomplete, "no patch embedding|patch_embed.proj.weight"),
    "half a final norm": (without("norm.bias", of={**WHOLE}) | {"norm1": zeros()}, Incomplete, "missing|norm.bias"),
    "a norm of another width": (
        changed("blocks.1.norm1.weight", lambda v: np.resize(v, 72)), Incomplete, "blocks.1.norm1.weight|(72,)|(64,)",
    ),
    "an mlp of another width": (
        {**WHOLE, "blocks.1.mlp.fc1.weight": zeros(80, 64), "blocks.1.mlp.fc1.bias": zeros(80), "blocks.1.mlp.fc2.weight": zeros(64, 80)},
        Incomplete, "blocks.1.mlp.fc1|(80, 64)|(96, 64)",
    ),
    "a transposed matrix": (
        changed("blocks.1.mlp.fc1.weight", lambda v: np.ascontiguousarray(v.T)), Incomplete, "blocks.1.mlp.fc1.weight|transposed|(64, 96)|(96, 64)",
    ),
    "a head of another width": (
        {**WHOLE, "head.weight": zeros(5, 72), "head.bias": zeros(5)}, Incomplete, "head.weight|(5, 72)|(5, 64)",
    ),
    "a head with another axis": (
        {**WHOLE, "head.weight": zeros(1, 5, 64), "head.bias": zeros(5)}, Incomplete, "head.weight",
    ),
    "fused matrices stored as (in, out)": (
        {n: np.ascontiguousarray(v.T) if "qkv.weight" in n else v for n, v in WHOLE.items()},
        Incomplete, "attn.qkv.weight|transposed|(64, 192)|(192, 64)",
    ),
    "no final norm before a head": (
        {**without("norm.", of={n: v for n, v in WHOLE.items() if "blocks" not in n}), **{n: v for n, v in WHOLE.items() if "blocks" in n},
         "head.weight": zeros(5, 64), "head.bias": zeros(5)},
        Incomplete, "no final norm before the head|norm.weight",
    ),
    "no positions at all": (without("pos_embed"), Incomplete, "holds no positions|pos_embed|dialect="),
    "a position table without its class token": (
        without("cls_token"), Ambiguous, "pos_embed|a row for a class token would leave|no class token",
    ),
    "a window table beside a patch kernel": (
        {"layers.0.blocks.0.attn.relative_position_bias_table": zeros(9, 2), "patch_embed.proj.weight": zeros(8, 3, 4, 4)},
        Incomplete, "no patch embedding",
    ),
    "positions in two factors": (
        {**without("pos_embed"), "pos_embed_x": zeros(4, 64), "pos_embed_y": zeros(4, 64)}, Incomplete, "two factors|pos_embed_x",
    ),
    "a video kernel": (
        changed("patch_embed.proj.weight", lambda v: v[:, :, None]), Incomplete, "video|(64, 3, 1, 8, 8)|patch_embed.proj.weight",
    ),
    "integers everywhere": ({n: (v * 100).astype("int8") for n, v in WHOLE.items()}, Incomplete, "quantised|int8|dequantise"),
    "integers in the attention": (
        {n: (v * 100).astype("int8") if "qkv.weight" in n else v for n, v in WHOLE.items()},
        Incomplete, "quantised|int8|attn.qkv.weight",
    ),
    "a scaled 8-bit format": (
        {**WHOLE, "blocks.0.attn.qkv.SCB": zeros(192), "blocks.0.attn.qkv.weight": zeros(192, 64).astype("int8")},
        Incomplete, "bitsandbytes|8 bits",
    ),
    "an unexplained tensor in a block": (
        {**WHOLE, "blocks.1.attn.gate.weight": zeros(64, 64)}, Incomplete, "blocks.1.attn.gate.weight|not explained|change the function",
    ),
    "a grid that is no square": (toy(0, **SMALL, rows=15), Ambiguous, "pos_embed|15 rows|grid="),
    "two towers": ({**under("left.", WHOLE), **under("right.", DEEP)}, Ambiguous, "left.|right.|weights="),
    "an empty table": (changed("pos_embed", lambda v: zeros(0, 0, 0)), Incomplete, "pos_embed"),
    "axes without length": (changed("norm.weight", lambda v: zeros(0)), Incomplete, "norm.weight"),
}  # fmt: skip
"""What is wrong: the mapping, the error, and the words that it must hold between bars, in small letters."""


def refusal(source: Any, **given: Any) -> AnyvitError:
    with pytest.raises(AnyvitError) as caught:
        api.load(source, **given)
    error = caught.value
    assert len(str(error)) < 2_000
    return error


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_bad_mapping_is_refused_with_its_cause(name: str) -> None:
    mapping, kind, words = MAPPINGS[name]
    error = refusal(mapping)
    assert type(error) is kind, error
    missing = [word for word in words.split("|") if word not in str(error).lower()]
    assert not missing, str(error)


@pytest.mark.parametrize("name", MAPPINGS)
def test_inspect_gives_a_report_of_the_same_refusal(name: str) -> None:
    mapping, _, _ = MAPPINGS[name]
    report = api.inspect(mapping)
    assert not report.ok
    assert str(report.error()) == str(refusal(mapping))
    assert str(report) and report.to_json()
    fatal = [finding for finding in report.findings if finding.fatal]
    assert fatal and all(finding.cause for finding in fatal)


@pytest.mark.parametrize("name", [n for n, (_, kind, _) in MAPPINGS.items() if kind is not NotAViT])
def test_a_line_to_type_or_what_to_do_is_given(name: str) -> None:
    mapping, _, _ = MAPPINGS[name]
    if name != "a video kernel":  # nothing helps there
        assert any(finding.fatal and finding.remedy for finding in api.inspect(mapping).findings)


def test_the_whole_toy_is_no_bad_input() -> None:
    assert api.inspect(WHOLE).ok and api.inspect(DEEP).ok


def test_thousands_of_names_make_no_long_error() -> None:
    mapping = {**WHOLE, **{f"blocks.1.{'x' * 90}_{chr(97 + i % 26)}{i}.weight": zeros(2) for i in range(3_000)}}
    error = refusal(mapping)
    assert "3000 tensors" in str(error) and "in all" in str(error)


@pytest.mark.parametrize("source", [None, 5, [1, 2], b"bytes", object()])
def test_what_is_neither_a_path_nor_a_mapping(source: Any) -> None:
    for verb in (api.inspect, api.load):
        with pytest.raises(BadArgument, match="path"):
            verb(source)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"heads": 3}, "3 heads do not divide the width 64"),
        ({"heads": 0}, "heads"),
        ({"heads": "two"}, "heads"),
        ({"dialect": "timmm"}, "timm"),
        ({"weights": "teacher"}, "teacher"),
        ({"grid": (5, 5)}, "grid"),
        ({"image_size": 33}, "33"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": (32, 32, 32)}, "image_size"),
        ({"patch_size": -4}, "patch_size"),
        ({"in_chans": 0}, "in_chans"),
        ({"num_classes": -1}, "num_classes"),
        ({"resample": "cubist"}, "cubist"),
        ({"device": "abacus"}, "abacus"),
        ({"dtype": "float31"}, "float31"),
        ({"dtype": torch.int8}, "floating-point"),
        ({"grid": 4}, "(rows, columns)"),
        ({"weights": 3}, "weights"),
    ],
)
def test_arguments_that_are_off(given: dict[str, Any], words: str) -> None:
    assert words in str(refusal(WHOLE, **given))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


def files(folder: Path) -> dict[str, Path]:
    """The whole toy in three containers."""
    found = {suffix: folder / f"whole.{suffix}" for suffix in ("pth", "safetensors", "npz")}
    if not found["npz"].exists():
        torch.save({name: torch.from_numpy(value) for name, value in WHOLE.items()}, found["pth"])
        save_file(WHOLE, found["safetensors"])
        np.savez(found["npz"], **WHOLE)  # type: ignore[arg-type]
    return found


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty.pth": (b"", "is empty"),
    "zeros.bin": (b"\0" * 5_000, "no format that is known|never filled"),
    "page.pth": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "pointer.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n", "git-lfs pointer|git lfs pull",
    ),
    "settings.json": (b'{"hidden_size": 8}', "json"),
    "words.safetensors": (b"these are no tensors at all", "safetensors"),
    "noise.ckpt": (bytes(range(7, 256)) * 20, "no format that is known"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("verb", [api.inspect, api.load])
def test_files_that_are_no_checkpoints(name: str, verb: Callable[..., Any], folder: Path) -> None:
    content, words = CONTENTS[name]
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        verb(path)
    text = str(caught.value)
    assert name in text and len(text) < 2_000
    assert all(word in text.lower() for word in words.split("|")), text


@pytest.mark.parametrize("verb", [api.inspect, api.load])
def test_a_path_that_is_not_there(verb: Callable[..., Any], folder: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        verb(folder / "nowhere.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.5, 0.9, 1.0])
def test_a_file_that_was_cut(suffix: str, part: float, folder: Path) -> None:
    whole = files(folder)[suffix].read_bytes()
    path = folder / f"cut.{suffix}"
    path.write_bytes(whole[: min(max(1, int(part * len(whole))), len(whole) - 1)])
    for verb in (api.inspect, api.load):
        with pytest.raises(FileError) as caught:
            verb(path)
        assert len(str(caught.value)) < 2_000 and path.name in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@pytest.mark.parametrize("called", ["model.pth", "model.safetensors", "model.npz", "model.jpg", "model"])
def test_the_content_counts_and_not_the_suffix(suffix: str, called: str, folder: Path) -> None:
    inside = folder / f"as-{suffix}"
    inside.mkdir(exist_ok=True)
    path = inside / called
    path.write_bytes(files(folder)[suffix].read_bytes())
    vit = api.load(path)
    assert np.array_equal(vit.state_dict()["norm.weight"].numpy(), WHOLE["norm.weight"])


def test_folders_without_weights(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(FileError, match="empty folder"):
        api.load(empty)
    (empty / "README.md").write_text("nothing here")
    with pytest.raises(FileError, match=r"README\.md|no checkpoint"):
        api.load(empty)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    path = folder / "private.pth"
    path.write_bytes(files(folder)["pth"].read_bytes())
    path.chmod(0)
    with pytest.raises(FileError, match="may not be read"):
        api.inspect(path)


class Payload:
    """Unpickled in the usual way it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "run")


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_payload_is_not_run_and_is_said(form: str, folder: Path) -> None:
    target, path = folder / f"payload-{form}.txt", folder / f"payload-{form}.pth"
    content = {"model": {name: torch.from_numpy(value) for name, value in WHOLE.items()}, "args": Payload(target)}
    if form == "bare":
        path.write_bytes(pickle.dumps({"args": Payload(target)}))
        with pytest.raises(NotAViT):
            api.load(path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        report = api.inspect(path)
        assert report.ok and any("not executed" in finding.cause for finding in report.of("inert"))
        assert api.load(path).spec.depth == 2
    assert not target.exists()
    with path.open("rb") as file:
        data = file if form == "bare" else io.BytesIO(pickle.dumps(Payload(target)))
        pickle.load(data)
    assert target.exists(), "the payload is a real one"


def test_a_zip_that_is_no_checkpoint(folder: Path) -> None:
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(FileError):
        api.load(path)


def test_a_pickle_whose_keys_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({None: 1, "a": 2, 3: None}))
    with pytest.raises(NotAViT, match="no tensors at all; it holds"):
        api.load(tmp_path / "x.pkl")
