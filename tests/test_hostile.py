"""Files from strangers: nothing in them runs, no claim is believed, and only anyvit's own errors come out."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.payloads import CARRIERS, Call, as_pickle, payloads, script, spliced
from support.tiny import timm_state, write

import anyvit
from anyvit import integrity
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError, FileError, UnsafeError

PIXELS = torch.zeros(1, 3, 16, 16)
NAMES = sorted(payloads(Path("mark")))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that a payload would make; it is not there before nor after."""
    found = tmp_path / "outside" / "ran"
    found.parent.mkdir()
    Path(f"{found}.py").write_text(script(found))
    return found


def state(depth: int = 1) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in timm_state(depth=depth, classes=0).items()}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", NAMES)
def test_each_payload_would_run(mark: Path, name: str) -> None:
    try:
        pickle.loads(as_pickle(payloads(mark)[name]))
    except (Exception, SystemExit):
        assert mark.exists()
    deadline = threading.Event()
    deadline.wait(0.0 if mark.exists() else 0.5)
    assert mark.exists(), "the payload is broken and the tests below show nothing"


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", NAMES)
def test_no_payload_runs_and_each_is_named(tmp_path: Path, mark: Path, carrier: str, name: str) -> None:
    if carrier == "legacy.pth" and name.startswith(("by hand", "dotted")):
        return  # carried by the other three
    path = tmp_path / carrier
    CARRIERS[carrier](state(), payloads(mark)[name], path)
    before = sorted(tmp_path.rglob("*"))
    try:
        report = anyvit.inspect(path)
        vit = anyvit.load(path, heads=4)
        integrity.prove(path)
    except AnyvitError as error:
        # Bytes that torch would unpickle once more are no storage, and refused.
        assert name.startswith("torch bytes") and isinstance(error, FileError)
    else:
        assert vit(PIXELS).tokens.isfinite().all()
        assert any("not executed" in finding.cause for finding in report.of("inert"))
    assert sorted(tmp_path.rglob("*")) == before and not mark.exists()


def test_payloads_in_every_corner_of_a_folder(tmp_path: Path, mark: Path) -> None:
    bomb = payloads(mark)["os.system"]
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({**state(), "args": bomb}, folder / "pytorch_model.bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "latest"):
        (folder / name).write_bytes(as_pickle(bomb))
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}, "model_type": "evil"}))
    (folder / "evil.py").write_text(script(mark))
    (folder / "conftest.py").write_text(script(mark))
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']")
    report = anyvit.inspect(folder)
    assert any("system, not executed" in finding.cause for finding in report.findings)
    assert anyvit.load(folder, heads=4)(PIXELS).tokens.isfinite().all()
    anyvit.convert(folder, tmp_path / "out", "timm", heads=4)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_payloads_in_a_distributed_checkpoint(tmp_path: Path, mark: Path) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "dcp"
    dcp.save({"model": state(), "args": payloads(mark)["os.system"]}, checkpoint_id=folder, no_dist=True)
    opened = open_checkpoint(folder)
    assert "args" in opened.extras and "system" in repr(opened.extras["args"])
    assert anyvit.load(folder, heads=4)(PIXELS).tokens.isfinite().all()
    metadata = folder / ".metadata"
    for name in NAMES:
        if isinstance(payload := payloads(mark)[name], bytes):
            saved = metadata.read_bytes()
            metadata.write_bytes(spliced(saved, payload))
            assert anyvit.load(folder, heads=4)(PIXELS).tokens.isfinite().all()
            metadata.write_bytes(saved)
    for name in ("os.system", "state", "pairs"):
        metadata.write_bytes(as_pickle(payloads(mark)[name]))
        with pytest.raises(FileError):
            open_checkpoint(folder)
    assert not mark.exists()


def test_payloads_in_arrays_of_objects(tmp_path: Path, mark: Path) -> None:
    arrays = {name: value.numpy() for name, value in state().items()}
    np.savez(tmp_path / "a.npz", **arrays, args=payloads(mark)["numpy objects"])
    report = anyvit.inspect(tmp_path / "a.npz")
    assert any("not executed" in finding.cause for finding in report.findings)
    assert anyvit.load(tmp_path / "a.npz", heads=4)(PIXELS).tokens.isfinite().all()
    np.savez(tmp_path / "b.npz", **{**arrays, "norm.bias": payloads(mark)["numpy objects"]})
    with pytest.raises(AnyvitError):
        anyvit.load(tmp_path / "b.npz", heads=4)
    assert not mark.exists()


def test_the_command_line_runs_nothing_either(tmp_path: Path, mark: Path) -> None:
    torch.save({"model": state(), "args": payloads(mark)["os.system"]}, tmp_path / "a.pth")
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1])}
    command = [sys.executable, "-m", "anyvit", "inspect", str(tmp_path / "a.pth")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "system, not executed" in done.stdout and not mark.exists()


def test_no_module_of_a_file_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    for module in ("antigravity", "this", "turtledemo", "idlelib.run"):
        assert module not in sys.modules
        path.write_bytes(f"c{module}\nx\n.".encode())
        with pytest.raises(AnyvitError):
            anyvit.load(path)
        assert module not in sys.modules


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def npy(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + data


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return made.getvalue()


def torch_zip(pickled: bytes, storage: bytes = bytes(64)) -> bytes:
    return archive({"a/data.pkl": pickled, "a/data/0": storage, "a/version": b"3\n"})


def storage_claim(count: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A pickled tensor over storage 0 that claims what it likes."""

    def number(value: int) -> bytes:
        packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(packed)]) + packed

    def axes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
        + b"X\1\0\0\0" + b"0X\3\0\0\0cpu" + number(count) + b"tQ" + number(offset) + axes(shape) + axes(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


HUGE = 1 << 62
FORGED: dict[str, Callable[[], bytes]] = {
    "length.safetensors": lambda: header({}, length=1 << 60),
    "length2.safetensors": lambda: header({}, length=99_999_999),
    "product.safetensors": lambda: header({"a": tensor([1 << 32, 1 << 32], 0, 0)}),
    "zero.safetensors": lambda: header({"a": tensor([HUGE, HUGE, 0], 0, 0)}),
    "size.safetensors": lambda: header({"a": tensor([40_000_000_000], 0, 160_000_000_000)}),
    "negative.safetensors": lambda: header({"a": tensor([-1, -1], 0, 4)}, bytes(4)),
    "backwards.safetensors": lambda: header({"a": tensor([1], 8, 4)}, bytes(8)),
    "overlap.safetensors": lambda: header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "gap.safetensors": lambda: header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "float.safetensors": lambda: header({"a": tensor([1.0], 0, 4)}, bytes(4)),  # type: ignore[list-item]
    "bool.safetensors": lambda: header({"a": tensor([True], 0, 4)}, bytes(4)),
    "nested.safetensors": lambda: header(b'{"a":' * 200_000 + b"}" * 200_000),
    "lists.safetensors": lambda: header(b'{"a":' + b"[" * 500_000),
    "number.safetensors": lambda: header(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 20_000 + b'],"data_offsets":[0,4]}}'
    ),
    "axes.safetensors": lambda: header({"a": tensor([1] * 5_000, 0, 4)}, bytes(4)),
    "twice.safetensors": lambda: header(b'{"a":' + json.dumps(tensor([1], 0, 4)).encode() + b',"a":{}}', bytes(4)),
    "nan.safetensors": lambda: header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "claims.npz": lambda: archive({"a.npy": npy("(200000, 200000)")}),
    "product.npz": lambda: archive({"a.npy": npy("(1099511627776, 1099511627776)")}),
    "zero.npz": lambda: archive({"a.npy": npy(f"({HUGE}, {HUGE}, 0)")}),
    "deep.npz": lambda: archive({"a.npy": npy("(" * 5_000)}),
    "literal.npz": lambda: archive({"a.npy": npy("(" + "9" * 8_000 + ",)")}),
    "negative.npz": lambda: archive({"a.npy": npy("(-1, 4)")}),
    "width.npz": lambda: archive({"a.npy": npy("(1,)", "<U999999999999")}),
    "fields.npz": lambda: archive({"a.npy": npy("(1,)", "[('a', '<f4')]")}),
    "matryoshka.npz": lambda: archive({"a.npz": archive({"b.npz": archive({"c.npy": npy("()", data=bytes(4))})})}),
    "traversal.npz": lambda: archive({"../../etc/passwd": b"x", "/etc/shadow": b"x"}),
    "storage.pth": lambda: torch_zip(storage_claim(1 << 60, (1 << 60,), (1,))),
    "shape.pth": lambda: torch_zip(storage_claim(16, (1 << 40, 1 << 40), (0, 0))),
    "strides.pth": lambda: torch_zip(storage_claim(16, (1 << 20, 1 << 20), (0, 0))),
    "beyond.pth": lambda: torch_zip(storage_claim(16, (4,), (1,), 1 << 50)),
    "zero.pth": lambda: torch_zip(storage_claim(16, (HUGE, HUGE, 0), (1, 1, 1))),
    "memo.pkl": lambda: b"\x80\x02K\1r\xff\xff\xff\xff.",
    "deep.pkl": lambda: b"(" * 300_000 + b"t" * 300_000 + b".",
    "lists.pkl": lambda: b"\x80\x02" + b"]" * 40_000 + b"a" * 39_999 + b".",
    "doubling.pkl": lambda: b"\x80\x02](K\1e0" + b"]q\0(" + b"h\0h\0" * 60 + b"e.",
    "long.pkl": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "frame.pkl": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "extension.pkl": lambda: b"\x80\x02\x82\x01.",
    "persistent.pkl": lambda: b"\x80\x02K\1Q.",
    "buffers.pkl": lambda: b"\x80\x05\x97\x98.",
    "length.msgpack": lambda: b"\x81\xa1a\xdf\xff\xff\xff\xff",
    "deep.msgpack": lambda: b"\x81\xa1a" * 100_000 + b"\xc0",
    "claims.msgpack": lambda: b"\x81\xa1a\xc7\x10\1\x93\x91\xce\xff\xff\xff\xff\xa7float32\xc4\0",
    "length.onnx": lambda: b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "deep.onnx": lambda: b"\x08\x08" + b"\x3a\x80\x01" * 500,
    "deep.json": lambda: b'{"weight_map":' * 100_000,
    "etc.index.json": lambda: json.dumps({"weight_map": {"a": "../../../etc/passwd"}}).encode(),
    "absolute.index.json": lambda: json.dumps({"weight_map": {"a": "/etc/passwd"}}).encode(),
    "itself.index.json": lambda: json.dumps({"weight_map": {"a": "itself.index.json"}}).encode(),
    "list.index.json": lambda: json.dumps({"weight_map": {"a": ["x"]}}).encode(),
}
"""File name → its bytes."""


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_raise_our_errors_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORGED[name]())
    # An empty list is one byte of a pickle and 64 in memory.
    room = (70 if name.endswith(".pkl") else 6) * path.stat().st_size + (4 << 20)
    for verb in (
        anyvit.inspect,
        anyvit.load,
        lambda p: anyvit.convert(p, tmp_path / "out.npz", "timm"),
        integrity.prove,
    ):
        tracemalloc.start()
        try:
            verb(path)
        except AnyvitError as error:
            assert len(str(error)) <= 2000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < room, (verb, peak, room)
    with pytest.raises(AnyvitError):
        anyvit.load(path)
    assert not (tmp_path / "out.npz").exists()


def bomb(claimed: int, real: int) -> bytes:
    """An npz whose member unpacks to `real` zeros while header and directory claim `claimed` bytes of data."""
    head = npy(f"({claimed // 4},)")
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = machine.compress(head + bytes(real)) + machine.flush()
    name = b"a.npy"
    crc, size = zlib.crc32(head + bytes(claimed)), len(head) + claimed
    fields = (20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name + packed
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, 0, 0, 0, 0, 0) + name
    return local + central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


def test_a_bomb_is_unpacked_no_further_than_it_claims(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(bomb(1 << 16, 100 << 20))
    opened = open_checkpoint(path)
    tracemalloc.start()
    with pytest.raises(UnsafeError, match="more than its header says"):
        opened.tensors["a"].read()
    assert [note.kind for note in opened.verify()] == ["damaged"]  # type: ignore[misc]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


def test_an_honest_bomb_is_listed_and_checked_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(bomb(60 << 20, 60 << 20))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    report = anyvit.inspect(path)
    assert list(open_checkpoint(path).verify()) == []  # type: ignore[misc]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20 and not report.ok


def shared_storage(count: int) -> bytes:
    """A pickle of many tensors over one storage of 16 numbers, each a million times as large as it."""
    one = storage_claim(16, (1 << 21,), (0,))[2:-1].removeprefix(b"}X\1\0\0\0w").removesuffix(b"s")
    return b"\x80\x02}(" + b"".join(b"X\4\0\0\0" + f"w{i:03d}".encode() + one for i in range(count)) + b"u."


def external(count: int, folder: Path) -> bytes:
    """An ONNX model of many tensors that are the same megabyte of another file."""
    from onnx import TensorProto, helper

    (folder / "w.bin").write_bytes(bytes(1 << 20))
    found = [
        TensorProto(name=f"w{i}", data_type=1, dims=[1 << 18], data_location=TensorProto.EXTERNAL) for i in range(count)
    ]
    for value in found:
        value.external_data.add(key="location", value="w.bin")
    return helper.make_model(helper.make_graph([], "g", [], [], found)).SerializeToString()


def textual(folder: Path) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{f"t{i}": np.zeros(1 << 17, "<U4") for i in range(8)}, a=np.zeros(2, "f4"))
    return out.getvalue()


TOO_MUCH: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "packed.npz": (lambda folder: bomb(100 << 20, 100 << 20), "claims implausibly much: members that unpack"),
    "packed.pth": (
        lambda folder: archive({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(80 << 20)}, zipfile.ZIP_DEFLATED),
        "claims implausibly much",
    ),
    "repeated.pth": (lambda folder: torch_zip(storage_claim(16, (1 << 23,), (0,))), "repeats its storage"),
    "shared.pth": (lambda folder: torch_zip(shared_storage(12)), "repeat or share few bytes many times"),
    "shared.onnx": (lambda folder: external(80, folder), "share few bytes of external data"),
    "header.safetensors": (lambda folder: header(b" " * (17 << 20) + b"{}"), "longer than all of its tensors"),
    "name.safetensors": (lambda folder: header({"a" * 1025: tensor([1], 0, 4)}, bytes(4)), "implausibly long name"),
    "names.npz": (lambda folder: archive({"b" * 1025 + ".npy": npy("(1,)", data=bytes(4))}), "implausibly long name"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_claims_more_than_it_is_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    make, says = TOO_MUCH[name]
    path = tmp_path / name
    path.write_bytes(make(tmp_path))
    tracemalloc.start()
    with pytest.raises(UnsafeError, match=says):
        open_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + (4 << 20)


def test_texts_in_an_npz_are_kept_only_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(textual(tmp_path))
    opened = open_checkpoint(path)
    assert len(opened.extras) == 1 and [note.kind for note in opened.notes] == ["ignored"]


def test_two_keys_of_one_name_are_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    names = [*(f"w{i}" for i in range(100_000)), "twice", "twice"]
    path.write_bytes(header(("{" + ",".join(f'"{name}":0' for name in names) + "}").encode()))
    with pytest.raises(FileError, match="'twice' stands there twice"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_of_a_distributed_checkpoint_that_claim_more_than_they_have(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"w": torch.zeros(4096)}, checkpoint_id=tmp_path / "a", no_dist=True)
    data = (tmp_path / "a" / ".metadata").read_bytes()
    assert data.count(b"M\x00\x10") >= 2  # 4096 as it is pickled
    (tmp_path / "a" / ".metadata").write_bytes(data.replace(b"M\x00\x10", b"J\x00\x00\x00\x40"))
    with pytest.raises(UnsafeError, match="more elements than it has bytes"):
        open_checkpoint(tmp_path / "a")


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\r\u202ereversed\x9b31m"
    tensors = {**timm_state(depth=1, classes=0), f"blocks.0.{evil}": np.ones(3, "f4"), evil: np.ones(3, "f4")}
    path = write(tensors, tmp_path / "a.safetensors")
    report = anyvit.inspect(path)
    shown = [str(report), *map(str, report.findings), report.to_json()]
    with pytest.raises(AnyvitError) as caught:
        anyvit.load(path)
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02c" + evil.encode("utf-8").replace(b"\r", b"") + b"\nx\n.")
    shown += [str(caught.value), str(anyvit.inspect(tmp_path / "b.pkl"))]
    for text in shown:
        assert not set(text) & set("\x1b\x07\r\u202e\x9b"), text


def test_links_and_special_files(tmp_path: Path) -> None:
    secret = write(timm_state(depth=1), tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").symlink_to(secret)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeError, match="out of its folder"):
        open_checkpoint(folder)
    loop = tmp_path / "loop"
    loop.mkdir()
    (loop / "again").symlink_to(loop)
    (loop / "model.pth").symlink_to(loop / "model.pth")
    with pytest.raises(AnyvitError):
        open_checkpoint(loop)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        for name in ("config.json", ".metadata", "model.safetensors.index.json"):
            (tmp_path / "pipes").mkdir(exist_ok=True)
            os.mkfifo(tmp_path / "pipes" / name)
        for path in (tmp_path / "pipe.safetensors", tmp_path / "pipes", Path("/dev/zero")):
            with pytest.raises(AnyvitError):
                open_checkpoint(path)


def test_a_file_that_changes_while_it_is_open(tmp_path: Path) -> None:
    path = write(timm_state(), tmp_path / "a.npz")
    opened = open_checkpoint(path)
    os.truncate(path, path.stat().st_size // 2)
    assert {note.kind for note in opened.verify()} == {"damaged"}  # type: ignore[misc]
    with pytest.raises(FileError):
        anyvit.convert(opened, tmp_path / "b.npz", "timm", heads=4)
    assert not (tmp_path / "b.npz").exists()


def test_threads_reading_one_file(tmp_path: Path) -> None:
    path = write(timm_state(), tmp_path / "a.pth")
    opened = open_checkpoint(path)
    expected = timm_state()
    wrong: list[str] = []

    def work() -> None:
        for name, value in expected.items():
            if not np.array_equal(opened.tensors[name].read(), value):
                wrong.append(name)
        vit = anyvit.load(path, heads=4, check="beside")
        if not torch.equal(vit.norm.bias, torch.from_numpy(expected["norm.bias"])):
            wrong.append("load")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_processes_reading_one_file(tmp_path: Path) -> None:
    path = write(timm_state(), tmp_path / "a.npz")
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1])}
    code = f"from anyvit import integrity; print([f.kind for f in integrity.prove({str(path)!r})])"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == ["['checked']"] * 3


def test_calls_do_nothing_even_where_a_payload_looks_like_a_tensor(tmp_path: Path, mark: Path) -> None:
    torch.save({**state(), "norm.bias": Call(os.system, f"touch {mark}")}, tmp_path / "a.pth")
    with pytest.raises(AnyvitError):
        anyvit.load(tmp_path / "a.pth", heads=4)
    assert not mark.exists()
