"""Files of torch.save and torch.jit.save, compared with what torch itself reads from them."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.torch_files import DTYPES, LAYOUTS, raw, same, saved

from anyvit.containers import torch_file
from anyvit.containers.inert import Inert
from anyvit.errors import AnyvitError, FileError, UnsafeError


def leaves(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for key, part in pairs:
        found.update(leaves(part, f"{path}.{key}" if path else str(key)))
    return found


@pytest.mark.parametrize("zipped", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_type(dtype: torch.dtype, zipped: bool, tmp_path: Path) -> None:
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (5, 48), dtype=torch.uint8)
    tensor = bits.view(dtype)
    opened = saved({"w": tensor, "t": tensor.T[1:], "zero_d": tensor[0, 0], "none": tensor[:0]}, tmp_path / "a", zipped)
    assert opened.container == ("torch" if zipped else "torch-legacy")
    assert set(opened.tensors) == {"w", "t", "zero_d", "none"}
    for name, part in {"w": tensor, "t": tensor.T[1:], "zero_d": tensor[0, 0], "none": tensor[:0]}.items():
        assert same(opened.tensors[name], part), name
    assert opened.tensors["w"].pieces and opened.tensors["zero_d"].pieces and opened.tensors["none"].pieces == ()
    assert opened.tensors["t"].pieces is None


@pytest.mark.parametrize("zipped", LAYOUTS)
def test_strides_views_and_ties(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(60.0)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    state = {
        "view": base[10:22].view(3, 4), "step": base[::2], "transposed": base.view(6, 10).T,
        "expanded": base[:1].expand(3, 5),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "one": base.view(60, 1)[5:9],
        "conj": torch.randn(3, dtype=torch.complex64).conj(), "neg": torch.randn(3, dtype=torch.complex64).conj().imag,
        "tied": weight, "tied2": weight, "tied3": weight.detach().view(3, 4), "reshaped": weight.detach().view(12),
    }  # fmt: skip
    opened = saved(state, tmp_path / "a", zipped)
    for name, tensor in state.items():
        assert same(opened.tensors[name], tensor), name
        assert opened.tensors[name].origin == (name,)
    assert opened.aliases == {"tied2": "tied", "tied3": "tied"}


def test_byte_ranges_are_those_of_the_file(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).view(3, 4)
    for zipped in LAYOUTS:
        lazy = saved({"a": torch.zeros(7), "w": tensor[1:]}, tmp_path / "a", zipped).tensors["w"]
        assert lazy.pieces is not None and len(lazy.pieces) == 1
        piece = lazy.pieces[0]
        data = (tmp_path / "a").read_bytes()[piece.offset : piece.offset + piece.size]
        assert np.frombuffer(data, "<f4").tolist() == list(range(4, 12))


class Odd:
    def __init__(self, **named: Any) -> None:
        self.__dict__.update(named)


def test_nested_with_foreign_objects(tmp_path: Path) -> None:
    factory: collections.defaultdict[str, int] = collections.defaultdict(int, a=1)
    value = {
        "model": collections.OrderedDict(w=torch.ones(2)),
        "list": [torch.zeros(1), {"deep": (torch.zeros(2), "text")}, 3],
        "epoch": 7, "best": 0.5, "none": None, "flag": True, "big": 1 << 70, "negative": -(1 << 40), 5: "five",
        "args": argparse.Namespace(arch="vit_small", out=pathlib.PurePosixPath("/data/run"), size=[224, 224]),
        "path": pathlib.PurePosixPath("a/b"), "partial": functools.partial(int, base=2),
        "when": datetime.datetime(2024, 1, 2), "factory": factory, "queue": collections.deque([1, 2], maxlen=5),
        "counter": collections.Counter("aab"), "loss": np.float32(1.5), "top1": np.float64(81.25), "step": np.int64(9),
        "set": {3}, "frozen": frozenset({4}), "complex": 1 + 2j, "bytes": b"raw", "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]), "device": torch.device("cuda:1"), "name": np.str_("vit"),
        "odd": Odd(w=torch.zeros(3)),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3), "slots": datetime.timedelta(days=2), "unicode": "größe 🐈",
    }  # fmt: skip
    for protocol in (2, 3, 4, 5):
        torch.save(value, tmp_path / "a", pickle_protocol=protocol)
        opened = torch_file.read(tmp_path / "a")
        extras = opened.extras
        assert set(opened.tensors) == {"model.w", "list.0", "list.1.deep.0", "odd.w", "array"}
        assert opened.tensors["array"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
        plain = {"epoch": 7, "best": 0.5, "none": None, "flag": True, "big": 1 << 70, "negative": -(1 << 40), 5: "five",
                 "list": [None, {"deep": [None, "text"]}, 3], "factory": {"a": 1}, "queue": [1, 2], "loss": 1.5,
                 "counter": {"a": 2, "b": 1}, "top1": 81.25, "step": 9, "set": [3], "frozen": [4], "complex": 1 + 2j,
                 "bytes": b"raw", "dtype": "torch.bfloat16", "size": [1, 2], "device": "cuda:1", "name": "vit",
                 "unicode": "größe 🐈"}  # fmt: skip
        assert {key: extras[key] for key in plain} == plain
        assert type(extras["loss"]) is float and type(extras["step"]) is int and "model" not in extras
        args = extras["args"]
        assert isinstance(args, Inert) and args.type == "argparse.Namespace"
        assert args.state["arch"] == "vit_small" and args.state["size"] == [224, 224]
        assert args.state["out"].state == "/data/run" and extras["path"].state == "a/b"
        assert extras["partial"].type == "functools.partial" and extras["when"].type == "datetime.datetime"
        notes = {note.cause: note.names for note in opened.notes}
        assert notes["argparse.Namespace, not executed"] == ("args",)
        assert notes["functools.partial, not executed"] == ("partial",)
        assert [n for c, n in notes.items() if c.startswith("pathlib")] == [("args.out", "path")]
        foreign = {cause.removesuffix(", not executed").rpartition(".")[2] for cause in notes}
        assert foreign - {"int", "long"} == {"Namespace", "PurePosixPath", "partial", "datetime", "timedelta", "Odd"}


class Bomb:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", LAYOUTS)
def test_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'ran'}"
    opened = saved({"w": torch.ones(2), "x": Bomb(command)}, tmp_path / "a", zipped)
    assert not (tmp_path / "ran").exists()
    note = next(note for note in opened.notes if note.kind == "inert")
    assert note.cause == f"{os.system.__module__}.system, not executed" and note.names == ("x",)
    assert opened.extras["x"].args == (command,)
    assert same(opened.tensors["w"], torch.ones(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        torch.load(tmp_path / "a", weights_only=False)
    assert (tmp_path / "ran").exists(), "the file is harmless and the test shows nothing"


def test_a_call_whose_result_is_thrown_away_is_named(tmp_path: Path) -> None:
    data = b"\x80\x02cposix\nsystem\nX\x05\0\0\0touch\x85R0}."
    (tmp_path / "a.pkl").write_bytes(data)
    opened = torch_file.read(tmp_path / "a.pkl")
    assert [(note.cause, note.names) for note in opened.notes] == [("posix.system, not executed", ())]


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_sparse_and_quantised_are_named_not_read(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    value = {"s": torch.eye(3).to_sparse(), "q": quantised, "m": torch.zeros(2, device="meta"), "w": torch.zeros(1)}
    opened = saved(value, tmp_path / "a")
    assert list(opened.tensors) == ["w"]
    notes = {(note.kind, *note.names) for note in opened.notes}
    assert notes == {("sparse", "s"), ("quantised", "q"), ("meta", "m")}


def test_omegaconf_reads_as_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("omegaconf.nodes")
    for name in ("DictConfig", "ListConfig", "AnyNode"):
        setattr(module, name, type(name, (), {"__module__": "omegaconf.nodes", "__qualname__": name}))
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.nodes", module)

    def node(kind: str, **state: Any) -> Any:
        made = getattr(module, kind)()
        made.__dict__.update(state)
        return made

    sizes = node("ListConfig", _content=[node("AnyNode", _val=224), node("AnyNode", _val=96)])
    config = node("DictConfig", _content={"arch": node("AnyNode", _val="vit_large"), "size": sizes}, _parent=None)
    sizes._parent = config
    value = saved({"cfg": config}, tmp_path / "a").extras["cfg"]
    assert value.type == "omegaconf.nodes.DictConfig"
    assert value.state["arch"].state == "vit_large"
    assert [part.state for part in value.state["size"].state] == [224, 96]


class Marked(torch.Tensor):
    pass


def test_tensor_subclasses(tmp_path: Path) -> None:
    tensor = torch.randn(3, 2)
    value = {"plain": tensor.as_subclass(Marked), "parameter": torch.nn.Parameter(tensor)}
    value["buffer"] = torch.nn.Buffer(tensor)
    value["attributes"] = torch.nn.Parameter(torch.ones(2))
    value["attributes"].tag = "mine"
    opened = saved(value, tmp_path / "a")
    assert list(opened.tensors) == list(value)
    assert all(same(opened.tensors[name], part) for name, part in value.items())


def test_a_lone_tensor_and_a_list(tmp_path: Path) -> None:
    assert same(saved(torch.ones(3), tmp_path / "a").tensors["tensor"], torch.ones(3))
    assert list(saved([torch.ones(3), torch.ones(2)], tmp_path / "a").tensors) == ["0", "1"]
    assert saved(5, tmp_path / "a").extras == {"value": 5}
    assert saved({}, tmp_path / "a").tensors == {}


def test_names_that_meet_are_reported(tmp_path: Path) -> None:
    opened = saved({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, tmp_path / "a")
    assert same(opened.tensors["a.b"], torch.zeros(1))
    assert [(note.kind, note.names) for note in opened.notes] == [("duplicate", ("a.b",))]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "f": rng.standard_normal((40, 9)).astype("float32"), "small": np.arange(3), "be": np.arange(200, dtype=">i4"),
        "fortran": np.asfortranarray(rng.standard_normal((20, 30))), "half": rng.standard_normal(300).astype("float16"),
        "bf16": rng.standard_normal((30, 10)).astype(ml_dtypes.bfloat16), "zero_d": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "bool": np.array([True, False]), "complex": np.arange(4) * 1j, "strided": np.arange(100.0)[::3],
    }  # fmt: skip
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "labels": np.array(["a", "b"])}, protocol))
    opened = torch_file.read(tmp_path / "a.pkl")
    assert opened.container == "pickle"
    assert list(opened.tensors) == [f"model.{name}" for name in arrays]
    for name, array in arrays.items():
        lazy = opened.tensors[f"model.{name}"]
        assert lazy.shape == array.shape and lazy.dtype == array.dtype.name
        assert raw(lazy.read()) == raw(array.astype(array.dtype.newbyteorder("=")))
    assert isinstance(opened.extras["labels"], Inert)
    assert protocol < 3 or opened.tensors["model.f"].pieces is not None
    assert opened.notes == ()


def test_plain_pickles_of_tensors(tmp_path: Path) -> None:
    weight = torch.randn(30, 4)
    value = {"a": weight, "b": weight[2:], "t": torch.randn(5, 6).T, "p": torch.nn.Parameter(torch.ones(3))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, 4))
    opened = torch_file.read(tmp_path / "a.pkl")
    assert all(same(opened.tensors[name], tensor) for name, tensor in value.items())
    assert opened.notes == ()


PYTHON_2 = (
    b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
    b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
    b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbsS'n'\nL5L\nsS'x'\nF1.5\nsS'u'\nVgr\\u00f6\nsS'ok'\nI01\ns."
)


def test_python_2_text_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(PYTHON_2)
    opened = torch_file.read(tmp_path / "a.pkl")
    assert opened.tensors["w"].read().tolist() == [1.0, 2.0]
    assert opened.extras == {"n": 5, "x": 1.5, "u": "grö", "ok": True}


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            if (new := change(name, data)) is not None:
                archive.writestr(name, new)


def test_big_endian_files(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 4), "h": torch.randn(5).to(torch.bfloat16), "c": torch.randn(2, dtype=torch.complex64),
             "t": torch.randn(3, 2).T, "b": torch.tensor([True, False])}  # fmt: skip
    units = iter([4, 2, 4, 4, 1])
    torch.save(state, tmp_path / "a")

    def swap(name: str, data: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        return np.frombuffer(data, f"u{next(units)}").byteswap().tobytes() if "/data/" in name else data

    rewritten(tmp_path / "a", swap)
    opened = torch_file.read(tmp_path / "a")
    assert all(same(opened.tensors[name], tensor) for name, tensor in state.items())
    assert opened.tensors["w"].pieces is None and opened.tensors["b"].pieces is not None


def test_compressed_members(tmp_path: Path) -> None:
    state = {"w": torch.randn(30, 4), "t": torch.randn(3, 2).T, "n": np.arange(300)}
    torch.save(state, tmp_path / "a", pickle_protocol=4)
    rewritten(tmp_path / "a", lambda name, data: data, zipfile.ZIP_DEFLATED)
    opened = torch_file.read(tmp_path / "a")
    assert same(opened.tensors["w"], state["w"]) and same(opened.tensors["t"], state["t"])
    assert opened.tensors["n"].read().tolist() == list(range(300))


def test_missing_and_short_storages_name_the_tensor(tmp_path: Path) -> None:
    torch.save({"first": torch.zeros(4), "second": torch.zeros(4)}, tmp_path / "a")
    rewritten(tmp_path / "a", lambda name, data: None if name.endswith("/data/1") else data)
    with pytest.raises(FileError, match="second"):
        torch_file.read(tmp_path / "a")
    torch.save({"first": torch.zeros(4), "second": torch.zeros(4)}, tmp_path / "a")
    rewritten(tmp_path / "a", lambda name, data: data[:-1] if name.endswith("/data/1") else data)
    with pytest.raises(FileError, match="second"):
        torch_file.read(tmp_path / "a")


def forged(path: Path, offset: int, shape: str, stride: str) -> None:
    """A tensor over a storage of four floats with made-up axes, as text opcodes."""
    text = "\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
    text += f"X\x01\0\0\x000X\x03\0\0\0cpuI4\ntQI{offset}\n({shape}t({stride}t\x89ccollections\nOrderedDict\n)RtRs."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", text.encode("latin-1"))
        archive.writestr("a/data/0", bytes(16))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(1, "I4\n", "I1\n"), (0, "I5\n", "I1\n"), (0, "I2\nI2\n", "I3\nI1\n"), (0, "I-1\n", "I1\n"), (0, "I2\n", "I-1\n"),
     (-1, "I1\n", "I1\n"), (0, f"I{1 << 62}\nI0\n", "I1\nI1\n"), (4, "", ""), (0, "I2\n" * 65, "I0\n" * 65)],
)  # fmt: skip
def test_tensors_beyond_their_storage(offset: int, shape: str, stride: str, tmp_path: Path) -> None:
    forged(tmp_path / "a", offset, shape, stride)
    with pytest.raises(FileError):
        torch_file.read(tmp_path / "a")


def test_forged_axes_that_fit_are_read(tmp_path: Path) -> None:
    forged(tmp_path / "a", 3, "I1\nI7\n", "I9\nI0\n")
    assert torch_file.read(tmp_path / "a").tensors["w"].read().shape == (1, 7)
    forged(tmp_path / "a", 0, f"I{1 << 40}\n", "I0\n")
    with pytest.raises(UnsafeError, match="w"):
        torch_file.read(tmp_path / "a")


def test_verify_names_the_damaged_tensors(tmp_path: Path) -> None:
    weight = torch.randn(8)
    opened = saved({"a": weight, "tied": weight, "b": torch.randn(4)}, tmp_path / "a")
    assert opened.verify is not None and list(opened.verify()) == []
    piece = opened.tensors["a"].pieces
    assert piece is not None
    data = bytearray((tmp_path / "a").read_bytes())
    data[piece[0].offset + 5] ^= 16
    (tmp_path / "a").write_bytes(data)
    opened = torch_file.read(tmp_path / "a")
    assert opened.verify is not None
    assert [(note.kind, note.names) for note in opened.verify()] == [("damaged", ("a", "tied"))]


def no_checksums(path: Path, keep: tuple[bytes, ...] = ()) -> None:
    """Sets every CRC in the local and the central headers to zero, except of members whose name ends with `keep`."""
    data = bytearray(path.read_bytes())
    for sign, crc, length, name in ((b"PK\3\4", 14, 26, 30), (b"PK\1\2", 16, 28, 46)):
        at = data.find(sign)
        while at >= 0:
            size = struct.unpack_from("<H", data, at + length)[0]
            if not (bytes(data[at + name : at + name + size]).endswith(keep)):
                data[at + crc : at + crc + 4] = bytes(4)
            at = data.find(sign, at + 4)
    path.write_bytes(data)


def test_files_without_checksums(tmp_path: Path) -> None:
    torch_file.write({"w": saved({"w": torch.ones(4)}, tmp_path / "b").tensors["w"]}, tmp_path / "a")
    no_checksums(tmp_path / "a")
    opened = torch_file.read(tmp_path / "a")
    assert opened.verify is None and same(opened.tensors["w"], torch.ones(4))
    torch_file.write({"w": saved({"w": torch.ones(4)}, tmp_path / "b").tensors["w"]}, tmp_path / "a")
    no_checksums(tmp_path / "a", keep=(b"data.pkl", b"byteorder"))
    opened = torch_file.read(tmp_path / "a")
    assert opened.verify is not None and "w" in [name for note in opened.verify() for name in note.names]


@pytest.mark.parametrize("zipped", LAYOUTS)
def test_cut_files(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    state = {"model": {f"w{i}": torch.randn(50) for i in range(20)}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for sixteenth in range(16):
        path.write_bytes(data[: len(data) * sixteenth // 16])
        with pytest.raises(FileError):
            torch_file.read(path)
    path.write_bytes(data[:-1])
    with pytest.raises(FileError):
        torch_file.read(path)


def survive(path: Path) -> None:
    try:
        opened = torch_file.read(path)
        for lazy in opened.tensors.values():
            lazy.read()
        list(opened.verify() if opened.verify else ())
        repr(opened.extras)
    except AnyvitError as error:
        assert isinstance(error, FileError) and len(str(error)) <= 2000


def example(kind: str) -> bytes:
    torch.manual_seed(0)
    state = {"w": torch.ones(2, 3), "t": torch.ones(3, 2).T, "z": torch.ones(2, dtype=torch.float8_e5m2),
             "args": argparse.Namespace(a=1, p=pathlib.PurePosixPath("/a")), "s": np.float32(2),
             "n": np.arange(4)}  # fmt: skip
    if kind == "plain":
        return pickle.dumps({**state, "big": np.arange(100)}, 4)
    if kind == "text":
        return pickle.dumps({"n": np.arange(4), "args": argparse.Namespace(a=[1, 2.5, None, True])}, 0)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


EXAMPLES = {kind: example(kind) for kind in ("zip", "legacy", "plain", "text")}


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(EXAMPLES)), edits=EDITS)
def test_mutated_files_raise_file_errors_alone(kind: str, edits: list[tuple[float, int]], tmp_path: Path) -> None:
    data = bytearray(EXAMPLES[kind])
    for where, byte in edits:
        data[min(int(where * len(data)), len(data) - 1)] = byte
    (tmp_path / "a").write_bytes(data)
    survive(tmp_path / "a")


def test_mutated_pickles_in_whole_archives(tmp_path: Path) -> None:
    """The checksum of data.pkl would hide most damage: here it is right for the damaged bytes."""
    rng = random.Random(0)
    (tmp_path / "good").write_bytes(EXAMPLES["zip"])
    with zipfile.ZipFile(tmp_path / "good") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(400):
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            for name, data in members.items():
                if name.endswith("data.pkl"):
                    data = bytearray(data)
                    for _ in range(rng.randint(1, 3)):
                        data[rng.randrange(len(data))] = rng.randrange(256)
                archive.writestr(name, bytes(data))
        survive(tmp_path / "a")


def test_other_archives_are_told_apart(tmp_path: Path) -> None:
    import tarfile

    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("model/readme.txt", b"x")
    with pytest.raises(FileError, match=r"no data\.pkl"):
        torch_file.read(tmp_path / "a")
    (tmp_path / "x").write_bytes(b"x")
    old = ("sys_info", "storages", "tensors", "pickle")
    for inside, message in ((old, "before 0.1.10"), (("vit.pth",), "is a tar archive")):
        with tarfile.open(tmp_path / "a", "w") as tar:
            for member in inside:
                tar.add(tmp_path / "x", member)
        with pytest.raises(FileError, match=message):
            torch_file.read(tmp_path / "a")
    with pytest.raises(FileError, match="does not exist"):
        torch_file.read(tmp_path / "missing")


def test_listing_needs_neither_numpy_nor_torch(tmp_path: Path) -> None:
    saved({f"blocks.{i}.w": torch.zeros(3) for i in range(50)}, tmp_path / "a")
    code = (
        "import sys; from anyvit.containers import torch_file; "
        f"assert len(torch_file.read({str(tmp_path / 'a')!r}).tensors) == 50; "
        "print([name for name in ('numpy', 'torch', 'ml_dtypes', 'zipfile', 'pickle') if name in sys.modules])"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "[]", done.stderr


CASES = sorted(
    path
    for path in (SHARED / "cases").glob("*/*")
    if path.suffix in (".pth", ".pt", ".ckpt", ".tar", ".bin") and path.is_file()
)


@needs_shared
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_cases_agree_with_torch(path: Path) -> None:
    opened = torch_file.read(path)
    if opened.container == "torchscript":
        expected = torch.jit.load(str(path), map_location="cpu").state_dict()
        assert all(lazy.shape == () for name, lazy in opened.tensors.items() if name not in expected)
    else:
        expected = leaves(torch.load(path, weights_only=False, map_location="cpu"))
        assert list(opened.tensors) == list(expected)
    for name, tensor in expected.items():
        assert same(opened.tensors[name], tensor), name
        assert opened.tensors[name].pieces is not None or not tensor.is_contiguous()
    assert opened.verify is not None and list(opened.verify()) == []
