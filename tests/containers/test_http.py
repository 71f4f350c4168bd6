"""Servers that answer something else than was asked: the right bytes come, or an error that says what came."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

import fsspec

from anyvit.containers import http
from anyvit.containers.remote import Address, RemoteFile
from anyvit.errors import FileError

DATA = bytes(i * 7 % 251 for i in range(200_000))
PACKED = gzip.compress(bytes(2_000_000))
"""A thousand times as much when it is unpacked."""
Answer = Callable[["Handler", int, int], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert asked and self.headers["Accept-Encoding"] == "identity"
        server: Any = self.server
        server.asked.append((int(asked[1]), int(asked[2]) + 1))
        try:
            # The first request opens the file; it is answered well.
            (server.answer if len(server.asked) > server.well else good)(self, int(asked[1]), int(asked[2]) + 1)
        except (ConnectionError, OSError):
            self.close_connection = True

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def good(handler: Handler, start: int, end: int, tag: str = '"one"') -> None:
    part = DATA[start:end]
    handler.head(206, Content_Range=f"bytes {start}-{end - 1}/{len(DATA)}", Content_Length=len(part), ETag=tag)
    handler.wfile.write(part)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, Any]]]:
    monkeypatch.setattr(http, "SILENCE", 0.4)
    monkeypatch.setattr(http, "SLOWEST", 1 << 17)
    made: list[ThreadingHTTPServer] = []

    def start(answer: Answer, well: int = 1) -> tuple[str, Any]:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.answer, server.asked, server.well = True, answer, [], well
        made.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/a.bin", server

    yield start
    for server in made:
        server.shutdown()
        server.server_close()
    fsspec.filesystem("http").invalidate_cache()


def endless(handler: Handler, start: int, end: int) -> None:
    handler.head(206, Content_Range=f"bytes {start}-{end - 1}/{len(DATA)}", Connection="close")
    for _ in range(10_000):
        handler.wfile.write(bytes(1 << 16))


def dripping(handler: Handler, start: int, end: int) -> None:
    handler.head(206, Content_Range=f"bytes {start}-{end - 1}/{len(DATA)}", Content_Length=end - start)
    for at in range(start, end):
        handler.wfile.write(DATA[at : at + 1])
        time.sleep(0.05)


def silent(handler: Handler, start: int, end: int) -> None:
    time.sleep(1.5)
    handler.close_connection = True


def whole(handler: Handler, start: int, end: int) -> None:
    handler.head(200, Content_Length=len(DATA))
    handler.wfile.write(DATA)


def packed(handler: Handler, start: int, end: int) -> None:
    part = PACKED
    handler.head(
        206, Content_Range=f"bytes {start}-{end - 1}/{len(DATA)}", Content_Length=len(part), Content_Encoding="gzip"
    )
    handler.wfile.write(part)


def ranged(said: Callable[[int, int], str]) -> Answer:
    def answer(handler: Handler, start: int, end: int) -> None:
        handler.head(206, Content_Range=said(start, end), Content_Length=end - start)
        handler.wfile.write(DATA[start:end])

    return answer


def led_to(where: str) -> Answer:
    return lambda handler, start, end: handler.head(302, Location=where, Content_Length=0)


def status(code: int) -> Answer:
    return lambda handler, start, end: handler.head(code, Content_Length=0)


HOSTILE: dict[str, tuple[Answer, str]] = {
    "the range before": (ranged(lambda a, b: f"bytes {a - 1}-{b - 2}/{len(DATA)}"), "where a range from byte"),
    "no range said": (lambda h, a, b: h.head(206, Content_Length=0), "an unnamed part"),
    "a range that is no number": (ranged(lambda a, b: "bytes x-y/z"), "bytes x-y/z where"),
    "less than asked": (ranged(lambda a, b: f"bytes {a}-{b - 9}/{len(DATA)}"), "were asked for"),
    "another length of the whole": (ranged(lambda a, b: f"bytes {a}-{b - 1}/{len(DATA) + 1}"), "changed while it was read"),
    "another version": (lambda h, a, b: good(h, a, b, '"two"'), "changed while it was read"),
    "endless": (endless, "more than the"),
    "a byte now and then": (dripping, "too slow"),
    "nothing": (silent, "too slow|Timeout"),
    "the whole file": (whole, "whole file, no ranges"),
    "packed": (packed, "packed"),
    "a file of this machine": (led_to("file:///etc/passwd"), "cannot be read"),
    "itself, for ever": (led_to("/a.bin"), "TooManyRedirects"),
    "gone": (status(404), "does not exist"),
    "not allowed": (status(403), "does not permit"),
    "broken": (status(503), "503"),
    "no such range": (status(416), "416"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_answer_is_named(serve: Callable[..., tuple[str, Any]], what: str) -> None:
    answer, says = HOSTILE[what]
    url, server = serve(answer)
    file = RemoteFile(Address(url))
    assert file.size == len(DATA) and len(server.asked) == 1
    began = time.monotonic()
    with pytest.raises(FileError, match=says) as caught:
        file.read(1_000, 50)
    assert len(str(caught.value)) < 2_000 and time.monotonic() - began < 10
    file.prefetch([(5_000, 50)])  # what does not come is not kept
    with pytest.raises(FileError, match=says):
        file.read(5_000, 50)


@pytest.mark.parametrize("what", sorted(HOSTILE.keys() - {"another version", "another length of the whole"}))
def test_a_hostile_server_is_named_when_a_file_is_opened(serve: Callable[..., tuple[str, Any]], what: str) -> None:
    url, _ = serve(HOSTILE[what][0], well=0)
    with pytest.raises(FileError) as caught:
        RemoteFile(Address(url)).read(1_000, 50)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("length", [True, False])
def test_reading_goes_on_where_a_connection_broke(serve: Callable[..., tuple[str, Any]], length: bool) -> None:
    def cut(handler: Handler, start: int, end: int) -> None:
        said = {"Content_Length": end - start} if length else {"Connection": "close"}
        handler.head(206, Content_Range=f"bytes {start}-{end - 1}/{len(DATA)}", ETag='"one"', **said)
        handler.wfile.write(DATA[start : min(end, start + 30_000)])
        handler.close_connection = True

    url, server = serve(cut)
    file = RemoteFile(Address(url))
    assert file.read(0, len(DATA)) == DATA
    starts = [start for start, _ in server.asked[1:]]
    assert starts == sorted(set(starts)) and len(starts) >= 7  # nothing was asked for twice


@pytest.mark.parametrize("tag", ['W/"weak"', ""])
def test_versions_that_do_not_say_that_they_differ_are_read(serve: Callable[..., tuple[str, Any]], tag: str) -> None:
    url, _ = serve(lambda handler, start, end: good(handler, start, end, tag))
    assert RemoteFile(Address(url)).read(1_000, 50) == DATA[1_000:1_050]


def test_an_empty_file_and_a_short_one_without_ranges(serve: Callable[..., tuple[str, Any]]) -> None:
    url, _ = serve(status(416), well=0)
    assert RemoteFile(Address(url)).size == 0
    url, _ = serve(lambda handler, start, end: handler.head(200), well=0)
    with pytest.raises(FileError, match="does not say how long"):
        RemoteFile(Address(url))
