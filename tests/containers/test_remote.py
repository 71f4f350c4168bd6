"""Checkpoints at an address: few bytes for a look, all of them for a load, and servers that know no ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

import fsspec
from support.tiny import timm_state, write

import anyvit
from anyvit.containers import open_checkpoint, remote, safetensors
from anyvit.containers.remote import Address
from anyvit.errors import AnyvitError, FileError
from anyvit.lazy import from_array


class Backlog(ThreadingHTTPServer):
    """A server that many ranges may be asked of at once: five waiting connections, the default, are soon too few."""

    request_queue_size = 128


class Server:
    """A web server over a folder that counts what it sends."""

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        server = self
        self.folder, self.sent, self.requests, self.broken = folder, 0, 0, 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = folder / self.path.partition("?")[0].lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                if body and server.broken:
                    server.broken -= 1
                    self.close_connection = True
                    self.connection.close()
                    return
                data = path.read_bytes()
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if ranges else None
                if asked:
                    part = data[int(asked[1]) : int(asked[2]) + 1]
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(data)}")
                else:
                    part = data
                    self.send_response(200)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if body:
                    server.requests += 1
                    try:
                        self.wfile.write(part)
                        server.sent += len(part)
                    except ConnectionError:
                        self.close_connection = True

        self.http = Backlog(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ViT of 10 MB in every container, and as a folder of shards."""
    made = tmp_path_factory.mktemp("served")
    state = timm_state(dim=256, depth=3)
    for name in ("vit.safetensors", "vit.pth", "vit.npz"):
        write(state, made / name)
    (made / "shards").mkdir()
    lazy = {name: from_array(value, name) for name, value in state.items()}
    safetensors.write_sharded(lazy, made / "shards", shard_size=3_000_000)
    (made / "shards" / "config.json").write_text('{"architecture": "vit_base_patch4_224"}')
    (made / "empty").mkdir()
    return made


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """fsspec keeps file systems and their listings; a test starts without."""
    yield
    fsspec.filesystem("http").invalidate_cache()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    made.close()


PLACES = ("vit.safetensors", "vit.pth", "vit.npz", "shards", "shards/")


@pytest.mark.parametrize("place", PLACES)
def test_a_look_costs_the_headers(server: Server, folder: Path, place: str) -> None:
    local = anyvit.inspect(folder / place)
    found = anyvit.inspect(f"{server.url}/{place}")
    assert found.ok and found.spec == local.spec and found.match.dialect.name == local.match.dialect.name
    tensors = len(local.fates)
    assert server.sent < 2_000 * tensors + 3 * 16_384 * (4 if "shards" in place else 1) < 500_000
    assert found.path == f"{server.url}/{place}" and any("ranges" in f.cause for f in found.findings)


@pytest.mark.parametrize("place", ["vit.safetensors", "vit.pth", "vit.npz", "shards"])
def test_all_bytes_come_through(server: Server, folder: Path, place: str) -> None:
    here, there = (open_checkpoint(f"{base}/{place}").tensors for base in (folder, server.url))
    assert list(here) == list(there)
    for name, tensor in here.items():
        np.testing.assert_array_equal(there[name].read(), tensor.read(), err_msg=name)


def test_load_and_convert(server: Server, folder: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    here, there = (anyvit.load(f"{base}/vit.safetensors") for base in (folder, server.url))
    assert all(torch.equal(a, b) for a, b in zip(here.state_dict().values(), there.state_dict().values(), strict=True))
    before = server.sent
    for base, out in ((folder, "here"), (server.url, "there")):
        anyvit.convert(f"{base}/vit.safetensors", tmp_path / f"{out}.npz", "google-npz", check="off")
    size = (folder / "vit.safetensors").stat().st_size
    assert (tmp_path / "here.npz").read_bytes() == (tmp_path / "there.npz").read_bytes()
    assert server.sent - before < 2 * size


def test_a_server_without_ranges_is_told_so_and_not_drained(folder: Path) -> None:
    whole = Server(folder, ranges=False)
    with pytest.raises(FileError, match=r"no ranges[\s\S]*download it first"):
        anyvit.inspect(f"{whole.url}/vit.pth")
    assert whole.sent < 4_000_000
    whole.close()


def test_a_broken_connection_is_tried_again(server: Server) -> None:
    opened = open_checkpoint(f"{server.url}/vit.safetensors").tensors
    server.broken = 1
    opened["blocks.0.mlp.fc1.weight"].read()
    server.broken = 10
    with pytest.raises(FileError, match="cannot be read"):
        opened["blocks.2.mlp.fc1.weight"].read()


def test_ranges_that_did_not_come_at_once_are_asked_for_again(server: Server) -> None:
    data = (server.folder / "vit.safetensors").read_bytes()
    file = remote.RemoteFile(Address(f"{server.url}/vit.safetensors"))
    server.broken = 1
    file.prefetch([(8, 64), (len(data) - 64, 64)])
    assert file.read(8, 64) == data[8:72] and file.read(len(data) - 64, 64) == data[-64:]
    server.broken = 100
    file.prefetch([(len(data) // 2, 64)])
    with pytest.raises(FileError, match="cannot be read"):
        file.read(len(data) // 2, 64)


def test_what_is_not_there(server: Server) -> None:
    with pytest.raises(FileError, match="does not exist"):
        anyvit.inspect(f"{server.url}/nothing.pth")
    with pytest.raises(FileError, match="standard name"):
        anyvit.inspect(f"{server.url}/empty")
    with pytest.raises(FileError, match="scheme that is not known"):
        anyvit.inspect("gopher2://host/vit.pth")
    with pytest.raises(AnyvitError):
        anyvit.inspect("http://127.0.0.1:9/vit.pth")


def test_a_query_stays_with_the_address(server: Server) -> None:
    assert anyvit.inspect(f"{server.url}/vit.safetensors?download=true").ok


def test_other_schemes(folder: Path) -> None:
    """fsspec's in-memory file system stands for s3 and the hub."""
    system = fsspec.filesystem("memory")
    for path in (folder / "shards").iterdir():
        system.pipe(f"/hub/{path.name}", path.read_bytes())
    assert anyvit.inspect("memory://hub").ok
    assert anyvit.inspect("memory://hub/model.safetensors.index.json").ok
    system.rm("/hub", recursive=True)


def test_reading_on_asks_for_more_each_time(server: Server) -> None:
    file = remote.RemoteFile(Address(f"{server.url}/vit.safetensors"))
    server.requests = 0
    data = b"".join(file.read(at, 1000) for at in range(0, 4_000_000, 1000))
    assert len(data) == 4_000_000 and server.requests < 12
    with pytest.raises(FileError, match="ends too early"):
        file.read(file.size - 5, 6)


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(AnyvitError, match=r"anyvit\[http\]"):
        anyvit.inspect("https://host/vit.pth")


def test_thousands_of_parts_are_found_at_once(tmp_path: Path) -> None:
    """Many small members: each header is asked for together with the others, and once."""
    many = {f"a.{i}": np.full(2, i, "float32") for i in range(600)}
    np.savez(tmp_path / "a.npz", **many)
    there = Server(tmp_path)
    tensors = open_checkpoint(f"{there.url}/a.npz").tensors
    assert len(tensors) == len(many) and there.requests < 600 + 20
    there.requests = 0
    assert all(np.array_equal(tensors[name].read(), value) for name, value in many.items())
    assert there.requests < 20
    there.close()


def test_kept_parts_are_those_of_the_file() -> None:
    data = np.random.default_rng(0).integers(0, 256, 4_000, "u1").tobytes()
    draw = np.random.default_rng(1)
    kept = remote.Kept(1_500)
    for _ in range(2_000):
        start, size = int(draw.integers(0, 3_900)), int(draw.integers(1, 100))
        found = kept.find(start, size)
        assert found is None or found == data[start : start + size]
        if found is None:
            kept.add(start, data[start : start + size])
            assert kept.find(start, size) in (None, data[start : start + size])  # a part that it rests on may have gone
        assert kept.size == sum(map(len, kept._parts.values())) <= 1_500 and kept._starts == sorted(kept._parts)
        ends = [begin + len(kept._parts[begin]) for begin in kept._starts]
        assert all(end <= after for end, after in zip(ends, kept._starts[1:], strict=False))
    kept.add(0, bytes(2_000))
    assert kept.size <= 1_500
