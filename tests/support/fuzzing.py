"""One input of a fuzzer, through everything that a file goes through before a model is built; and sound ones to begin.

`scripts/fuzz_readers.py` feeds it; `tests/test_corpus.py` replays what it found.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anyvit import axes, names
from anyvit.containers import open_checkpoint, save
from anyvit.errors import AnyvitError
from anyvit.lazy import Checkpoint, from_array
from anyvit.provenance import provenance
from anyvit.reading import Ask, understand
from anyvit.rules import Dialect, R, read, write

CORPUS = Path(__file__).resolve().parents[1] / "fixtures" / "corpus"
"""One zip archive for each kind: what reaches lines that nothing smaller reaches."""
READ_LIMIT = 1 << 20
"""Tensors of more bytes than that are listed but not read."""
LENGTH_LIMIT = 1 << 14
"""Longest input in bytes."""
CONFIGS = ("config.json", "open_clip_config.json", "args.json", "preprocessor_config.json", "config.yaml")
_Z = zipfile.ZipInfo  # a fixed date, so that the same seeds give the same bytes


def tensors() -> dict[str, np.ndarray]:
    """A very small ViT in timm's names."""
    draw = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 5, 8),
        "patch_embed.proj.weight": (8, 3, 2, 2),
        "norm.weight": (8,),
    }
    shapes |= {"blocks.0.norm1.weight": (8,), "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.proj.weight": (8, 8)}
    shapes |= {"blocks.0.norm2.weight": (8,), "blocks.0.mlp.fc1.weight": (16, 8), "blocks.0.mlp.fc2.weight": (8, 16)}
    return {name: draw.standard_normal(shape).astype("float16") for name, shape in shapes.items()}


def archive(members: dict[str, bytes], packed: bool = False) -> bytes:
    """A zip file with right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members.items():
            info = _Z(name)
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            file.writestr(info, data)
    return out.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def saved(suffix: str, **options: Any) -> bytes:
    """These tensors as a file of anyvit's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        save({name: from_array(value, name) for name, value in tensors().items()}, path, **options)
        return path.read_bytes()


# Each function below puts an input into a folder and returns what is to be opened there.
Place = Callable[[bytes, Path], Path]


def _file(name: str) -> Place:
    def place(data: bytes, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return place


def _member(file: str, name: str, others: dict[str, bytes]) -> Place:
    """The input is one member of an archive whose checksums are right."""

    def place(data: bytes, folder: Path) -> Path:
        (folder / file).write_bytes(archive({**others, name: data}))
        return folder / file

    return place


def _index(data: bytes, folder: Path) -> Path:
    for name in CONFIGS:
        (folder / name).unlink(missing_ok=True)
    part = folder / "a.safetensors"
    if not part.exists():
        part.write_bytes(saved(".safetensors"))
    return _file("model.safetensors.index.json")(data, folder)


def _config(data: bytes, folder: Path) -> Path:
    weights = folder / "model.safetensors"
    if not weights.exists():
        weights.write_bytes(saved(".safetensors"))
    for name in (*CONFIGS, "model.safetensors.index.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / CONFIGS[len(data) % len(CONFIGS)]).write_bytes(data)
    return folder


def _metadata(data: bytes, folder: Path) -> Path:
    for name in ("__0_0.distcp", "__1_0.distcp"):
        (folder / name).write_bytes(bytes(1 << 16))
    (folder / ".metadata").write_bytes(data)
    return folder


def _external(data: bytes, folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(bytes(1024))
    return _file("a.onnx")(data, folder)


_STORAGES = {f"a/data/{key}": bytes(512) for key in range(16)} | {"a/byteorder": b"little", "a/version": b"3\n"}
_SCRIPT = {**_STORAGES, "a/constants.pkl": b"\x80\x02).", "a/code/x.py": b""}


_EXPORTED = {**{f"a/data/weights/weight_{key}": bytes(512) for key in range(12)}, "a/byteorder": b"little"}


def _archive(file: str, member: str, others: dict[str, bytes]) -> Place:
    """The input is a whole archive, or one member of an archive whose checksums are right."""
    whole, part = _file(file), _member(file, member, others)
    return lambda data, folder: (whole if data[:2] == b"PK" else part)(data, folder)


_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\r\x00\x00\x00little_endian\x88u."
"""Magic number, version and system of torch's older layout. Source: torch/serialization.py `_legacy_save`."""


def _legacy_place(data: bytes, folder: Path) -> Path:
    """torch's older layout: a whole file, or what stands behind its head."""
    return _file("a.pth")(data if data[:13] == _LEGACY[:13] else _LEGACY + data, folder)


PLACES: dict[str, Place] = {
    "safetensors": _file("a.safetensors"),
    "index": _index,
    "config": _config,
    "torch": _archive("a.pth", "a/data.pkl", _STORAGES),
    "torchscript": _archive("a.pt", "a/data.pkl", _SCRIPT),
    "legacy": _legacy_place,
    "pickle": _file("a.pkl"),
    "pt2": _archive("a.pt2", "a/data/weights/model_weights_config.json", _EXPORTED),
    "npz": _archive("a.npz", "norm.weight.npy", {}),
    "npy": _file("a.npy"),
    "msgpack": _file("a.msgpack"),
    "onnx": _external,
    "dcp": _metadata,
    "hdf5": _file("a.h5"),
}
"""Kind → how its bytes become something to open."""
KINDS = (*PLACES, "rules")


def one_input(kind: str, data: bytes, folder: Path) -> str:
    """What happens to a file before a model is built from it.

    Arguments:
        kind: one of `KINDS`.
        data: the file's bytes, or lines "theirs, ours, axes".
        folder: where it may be written.

    Returns:
        How it ended: a word or the class of anyvit's error. Any other error comes out.
    """
    try:
        if kind == "rules":
            return _rules(data)
        # A configuration does not change how names are recognised, which would take most of the time.
        return _opened(open_checkpoint(PLACES[kind](data, folder)), Ask(dialect="timm" if kind == "config" else None))
    except AnyvitError as error:
        assert len(str(error)) <= 2_000, len(str(error))
        return type(error).__name__


def _opened(checkpoint: Checkpoint, ask: Ask) -> str:
    for tensor in list(checkpoint.tensors.values())[:64]:
        if tensor.nbytes <= READ_LIMIT:
            try:
                assert tensor.read().shape == tensor.shape
            except AnyvitError:
                continue
    for key in list(checkpoint.extras)[:64]:
        checkpoint.extras[key]
    report = understand(checkpoint, ask).report()
    assert len(str(report)) < 100_000 and report.to_json()
    provenance(checkpoint)
    for note in checkpoint.verify() if checkpoint.verify else ():
        assert note.kind
    if (error := report.error()) is not None:
        raise error
    return "opened"


def _rules(data: bytes) -> str:
    theirs, ours, pattern = [*data.decode("latin-1").split("\n"), "", "", ""][:3]
    names.parse(theirs)
    if pattern:
        axes.parse(pattern)
    dialect = Dialect("fuzz", (R(theirs, ours, pattern or None),))
    some = {name: from_array(value, name) for name, value in tensors().items()}
    found = read(some, dialect)
    back = write(found.tensors, dialect)
    for tensor in (*found.tensors.values(), *back.tensors.values()):
        if tensor.nbytes <= READ_LIMIT:
            tensor.read()
    return "written" if back.tensors else "read" if found.tensors else "parsed"


def kept(kind: str) -> list[bytes]:
    """The corpus of one kind."""
    path = CORPUS / f"{kind}.zip"
    return list(unpacked(path.read_bytes()).values()) if path.exists() else []


def keep(kind: str, inputs: list[bytes]) -> None:
    """Replaces the corpus of one kind."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    named = {hashlib.sha256(data).hexdigest()[:16]: data for data in inputs}
    (CORPUS / f"{kind}.zip").write_bytes(archive(dict(sorted(named.items())), packed=True))


def seeds(kind: str) -> list[bytes]:
    """Sound inputs to begin with; those of other projects' formats are written by the projects themselves."""
    return [data for make in _SEEDS[kind] for data in make()]


def _safetensors() -> Iterator[bytes]:
    yield saved(".safetensors")
    yield saved(".safetensors", recorded=True, metadata={"anyvit.spec": '{"depth":1}', "anyvit.provenance": "{}"})


def _torch() -> Iterator[bytes]:
    yield saved(".pth", metadata={"anyvit.spec": "{}"})
    yield archive(unpacked(saved(".pth")), packed=True)


def _nested() -> dict[str, Any]:
    import argparse
    import pathlib
    from collections import OrderedDict, defaultdict

    import torch

    weights = {name: torch.from_numpy(value) for name, value in tensors().items()}
    weights |= {
        "a": torch.zeros(2, 3).T,
        "b": torch.zeros(2, dtype=torch.bfloat16),
        "c": torch.nn.Parameter(torch.ones(2)),
    }
    rest = {
        "args": argparse.Namespace(arch="vit", lr=0.1),
        "path": pathlib.PurePosixPath("/a/b"),
        "rng": np.zeros(3, "u4"),
    }
    return {"model": OrderedDict(weights), **rest, "n": np.float64(0.5), "d": defaultdict(list, {"x": [1, None, True]})}


def _torch_pickle() -> Iterator[bytes]:
    import torch

    yield unpacked(saved(".pth"))["archive/data.pkl"]
    out = io.BytesIO()
    torch.save(_nested(), out)
    yield next(data for name, data in unpacked(out.getvalue()).items() if name.endswith("data.pkl"))


def _module() -> Any:
    """The tensors as a module that computes nothing of them."""
    import torch

    class Part(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    whole = Part()
    for name, value in tensors().items():
        *path, leaf = name.split(".")
        part: torch.nn.Module = whole
        for key in path:
            if key not in dict(part.named_children()):
                part.add_module(key, Part())
            part = part.get_submodule(key)
        part.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(value)))
    return whole.eval()


def _torchscript() -> Iterator[bytes]:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_module(), torch.zeros(1, 2))
        layers = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)))
    for module in (traced, layers):
        out = io.BytesIO()
        torch.jit.save(module, out)
        yield next(data for name, data in unpacked(out.getvalue()).items() if name.endswith("data.pkl"))


def _legacy() -> Iterator[bytes]:
    import torch

    for value in (_nested(), {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.bfloat16)}):
        out = io.BytesIO()
        torch.save(value, out, _use_new_zipfile_serialization=False)
        yield out.getvalue()


def _exported() -> Iterator[bytes]:
    import torch

    out = io.BytesIO()
    torch.export.save(torch.export.export(_module(), (torch.zeros(1, 2),)), out)
    parts = {
        name: data for name, data in unpacked(out.getvalue()).items() if "/weights/" in name or "byteorder" in name
    }
    yield archive(parts)
    listed = next(data for name, data in parts.items() if name.endswith("_weights_config.json"))
    yield json.dumps(json.loads(listed), separators=(",", ":")).encode()


def _npy() -> Iterator[bytes]:
    for value in ({"params": tensors(), "step": 3}, np.zeros(3, "f4"), np.array([{"a": np.zeros(2, "f4")}], object)):
        out = io.BytesIO()
        np.save(out, np.array(value, object) if isinstance(value, dict) else value)
        yield out.getvalue()


def _pickle() -> Iterator[bytes]:
    plain = {"model": tensors(), "args": {"arch": "vit", "epoch": 3, "set": {1, 2}, "f": 0.5, "b": b"x", "n": None}}
    for protocol in (0, 2, 4, 5):
        yield pickle.dumps(plain, protocol)
    yield pickle.dumps({"t": _nested()["args"], "p": Path("a"), "c": 1j, "x": np.array(["a"]), "o": np.array([{}])}, 4)


def _npz() -> Iterator[bytes]:
    for write_to in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        write_to(out, **{**tensors(), "version": np.array(["a", "b"])})
        yield out.getvalue()


def _npz_array() -> Iterator[bytes]:
    for value in (
        np.zeros(8, "f4"),
        np.zeros((2, 3), ">i2").T,
        np.array(["ab"]),
        np.zeros(2, "V2"),
        np.array([1], object),
    ):
        out = io.BytesIO()
        np.save(out, value)
        yield out.getvalue()


def _msgpack() -> Iterator[bytes]:
    arrays = tensors()
    yield packed({"params": {"a": arrays["norm.weight"], "b": {"c": arrays["cls_token"]}}})
    chunk = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 8},
        "chunks": {"0": np.zeros(4, "f4"), "1": np.zeros(4, "f4")},
    }
    yield packed({"x": chunk, "n": None, "i": 3, "l": [1, 2], "s": "t" * 40})


def packed(value: Any) -> bytes:
    """msgpack as flax writes it: an array is an extension of type 1 that holds (shape, type, bytes)."""
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(packed, value))
    if isinstance(value, str):
        return (bytes([0xA0 | len(value)]) if len(value) < 32 else bytes([0xD9, len(value)])) + value.encode()
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xcd" + struct.pack(">H", value)
    raw = value.tobytes()
    inner = b"\x93" + bytes([0x90 | value.ndim, *value.shape]) + packed(value.dtype.name) + b"\xc6"
    inner += struct.pack(">I", len(raw)) + raw
    return b"\xc9" + struct.pack(">I", len(inner)) + b"\x01" + inner


def _onnx() -> Iterator[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    matrix, bias = draw.standard_normal((4, 6)).astype("f4"), draw.standard_normal(6).astype("f4")
    kept_apart = TensorProto(name="blocks.0.w", data_type=1, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "64")):
        kept_apart.external_data.add(key=key, value=value)
    halves = helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0])
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/blocks.0/mlp/fc1/MatMul"),
        helper.make_node("Add", ["blocks.0.mlp.fc1.bias", "y"], ["z"], name="/blocks.0/mlp/fc1/Add"),
        helper.make_node("Gemm", ["z", "val_1", "b"], ["u"], transB=1, name="node_linear"),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(bias, "c")),
        helper.make_node("Identity", ["blocks.0.mlp.fc1.bias"], ["blocks.1.bias"]),
    ]  # fmt: skip
    weights = [
        numpy_helper.from_array(matrix, "onnx::MatMul_1"),
        numpy_helper.from_array(bias, "blocks.0.mlp.fc1.bias"),
    ]
    weights += [numpy_helper.from_array(matrix, "val_1"), helper.make_tensor("f", 1, [2], [1.0, 2.0]), halves]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "main", inputs, inputs, [*weights, kept_apart])
    yield helper.make_model(graph, producer_name="pytorch").SerializeToString()


def _dcp() -> Iterator[bytes]:
    import warnings

    import torch
    import torch.distributed.checkpoint as dcp

    state = {"model": {name: torch.from_numpy(value) for name, value in tensors().items()}, "step": 3}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
        yield (Path(folder) / ".metadata").read_bytes()


def _hdf5() -> Iterator[bytes]:
    import h5py

    few = dict(list(tensors().items())[:6])
    for latest in (False, True):
        out = io.BytesIO()
        with h5py.File(out, "w", libver="latest" if latest else "earliest") as file:
            file.attrs["model_config"] = '{"class_name": "ViT"}'
            layers = file.create_group("model_weights")
            layers.attrs["layer_names"] = [b"vit", b"head"]
            group = layers.create_group("vit")
            group.attrs["weight_names"] = [name.encode() for name in few]
            for number, (name, value) in enumerate(few.items()):
                packed = {"chunks": (4,) * value.ndim, "compression": "gzip", "shuffle": True} if number == 4 else {}
                group.create_dataset(name.replace(".", "/"), data=value, **packed)
            group["again"] = group["cls_token"]
            group["soft"] = h5py.SoftLink("/model_weights/vit/cls_token")
            file.create_group("layers/dense/vars").attrs["name"] = "dense"
            file.create_dataset("layers/dense/vars/0", data=np.zeros((2, 3), ">f4"))
        yield out.getvalue()


def _hdf5_odd() -> Iterator[bytes]:
    """What Keras does not write, one thing a file."""
    import h5py

    def linked(file: Any) -> None:
        file["away"] = h5py.ExternalLink("other.h5", "/x")

    def round_and_round(file: Any) -> None:
        file.create_group("a")["loop"] = file["/"]

    def other_filter(file: Any) -> None:
        file.create_dataset("x", data=np.zeros((8, 8), "f4"), chunks=(4, 4), fletcher32=True)

    def blocks(file: Any) -> None:
        file.create_dataset("x", data=np.ones((5, 7), "f4"), chunks=(4, 4))

    def texts(file: Any) -> None:
        file.create_dataset("x", data=np.array([b"a", b"bc"]))
        file.create_dataset("y", data=np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]))
        file["z"] = np.dtype("f4")

    def empty(file: Any) -> None:
        file.create_dataset("x", shape=(0, 3), dtype="f4")
        file.create_dataset("y", data=h5py.Empty("f4"))
        file.create_dataset("z", data=np.float64(0.5))
        file.create_dataset("t", shape=(3, 3), dtype="f4")

    def layers(file: Any) -> None:
        group = file.create_group("layers")
        for name in ("dense", "dense_1", "dense_2"):
            group.create_dataset(f"{name}/vars/0", data=np.zeros((2, 2), "f4"))
        file.attrs["layer_names0"] = np.array([b"dense"])
        file.attrs["layer_names1"] = np.array([b"dense_1"])
        file.attrs["model_config"] = b"{"

    for make in (linked, round_and_round, other_filter, blocks, texts, empty, layers):
        out = io.BytesIO()
        with h5py.File(out, "w") as file:
            make(file)
        yield out.getvalue()


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _lines() -> Iterator[bytes]:
    yield b"patch_embed.proj.{p}\nembed.patch.{p}\n"
    yield b"pos_embed\nembed.[pos_prefix|pos]\n1 (k+n) d -> k d, n d"
    yield b"blocks.{i}.attn.qkv.{p}\nblocks.{i}.attn.[q|k|v].{p}\n(parts o) ... -> parts o ..."
    yield b"blocks.{_}.{i}.<norm1|norm2>.<a|b>\nblocks.{i}.<x|y>.<scale|bias>\n"
    yield b"blocks.{i}.attn.proj.weight\nblocks.{i}.attn.out.weight\n(heads k) d -> d (heads k)"


_SEEDS: dict[str, tuple[Callable[[], Iterator[bytes]], ...]] = {
    "safetensors": (_safetensors,),
    "torch": (_torch, _torch_pickle),
    "torchscript": (_torchscript,),
    "legacy": (_legacy,),
    "pickle": (_pickle,),
    "pt2": (_exported,),
    "npz": (_npz, _npz_array),
    "npy": (_npy,),
    "msgpack": (_msgpack,),
    "onnx": (_onnx,),
    "dcp": (_dcp,),
    "hdf5": (_hdf5, _hdf5_odd),
    "index": (lambda: iter(_json(
        {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors(), "a.safetensors")},
        {"weight_map": dict.fromkeys([*tensors(), "head.weight"], "./a.safetensors")},
        {"weight_map": {**dict.fromkeys(tensors(), "a.safetensors"), "head.bias": "b-00002-of-00002.safetensors"}},
    )),),
    "config": (lambda: (data + b" " * i for data in _json(
        {"model_type": "vit", "hidden_size": 8, "num_attention_heads": 2, "patch_size": 2, "image_size": 4},
        {"model_type": "clip", "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "hidden_act": "quick_gelu"}},
        {"model_type": "dinov2", "hidden_size": 8, "mlp_ratio": 2, "use_swiglu_ffn": False, "layerscale_value": 1.0},
        {"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"depth": 1, "num_heads": 2},
         "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "input_size": [3, 4, 4]}},
        {"architecture": "eva02_base_patch14_224", "model_args": {"depth": 1, "norm_layer": "RmsNorm"}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 4, "layers": 1, "width": 8, "patch_size": 2}}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": ""}},
         "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"do_resize": True, "size": {"height": 4, "width": 4}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
        {"args": {"cpe_max_size": 4, "teachers": [{"name": "a", "use_summary": True}], "register_multiple": 2}},
        {"arch": "vit_small", "patch_size": 2, "drop_path_rate": 0.1, "num_heads": 2, "block_chunks": 0},
    ) for i in range(len(CONFIGS))),),
    "rules": (_lines,),
}  # fmt: skip
