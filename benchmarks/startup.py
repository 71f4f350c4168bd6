"""Listing a checkpoint: start of the process to its end."""

from __future__ import annotations

from pathlib import Path

from benchmarks.files import make
from benchmarks.process import Row, anyvit, python, rounds, rows

INSPECT = "import sys, anyvit\nassert anyvit.inspect(sys.argv[1]).match\nassert 'torch' not in sys.modules"
HTTP = """
import re, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sent = []
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
    def answer(self, body):
        with open(sys.argv[1], "rb") as file:
            size = file.seek(0, 2)
            first, last = map(int, re.findall(r"\\d+", self.headers["Range"])) if self.headers["Range"] else (0, size - 1)
            self.send_response(206 if self.headers["Range"] else 200)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if body:
                file.seek(first)
                self.wfile.write(file.read(last + 1 - first))
                sent.append(last + 1 - first)
ThreadingHTTPServer.request_queue_size = 128  # of five, the default, connections that are opened at once are lost
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
import anyvit.api, fsspec, aiohttp
start = _t()
name = sys.argv[1].rpartition("/")[2]
assert anyvit.inspect(f"http://127.0.0.1:{server.server_port}/{name}").match
print(json.dumps({"job": _t() - start, "kB sent": sum(sent) / 1e3, "requests": len(sent)}))
"""
"""A look over HTTP at a server in the same process, which counts what it sends."""
PASS = "pass"
MMAP = """
import sys, torch
tensors = torch.load(sys.argv[1], mmap=True, weights_only=True)
assert len({name: tuple(tensor.shape) for name, tensor in tensors.items()}) > 100
"""
FULL = MMAP.replace("mmap=True, ", "")
SAFE_OPEN = """
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], "numpy") as file:
    assert len({name: file.get_slice(name).get_shape() for name in file.keys()}) > 100
"""
NUMPY = """
import sys, numpy
with numpy.load(sys.argv[1]) as file:
    assert len({name: file[name].shape for name in file}) > 100
"""


def measure(folder: Path, count: int) -> list[Row]:
    """Files of 0.3 to 4.5 GB, in every container."""
    pth, tensors = make(folder, "g14.pth"), make(folder, "g14.safetensors")
    npz, shards = make(folder, "l16.npz"), make(folder, "g14-shards")
    jobs = {
        "inspect a .pth of 4.5 GB": (
            pth,
            {"torch.load": python(FULL, pth), "torch.load(mmap=True)": python(MMAP, pth)},
        ),
        "inspect a .safetensors of 4.5 GB": (tensors, {"safetensors.safe_open": python(SAFE_OPEN, tensors)}),
        "inspect an .npz of 1.2 GB": (npz, {"numpy.load": python(NUMPY, npz)}),
        "inspect a folder of ten shards": (shards, {}),
    }
    out = []
    for job, (path, peers) in jobs.items():
        ways = {"anyvit.inspect": python(INSPECT, path), "anyvit inspect": anyvit("inspect", path), **peers}
        out += rows(job, rounds({**ways, "python -c pass": python(PASS)}, count), "anyvit.inspect")
    ways = {f"anyvit.inspect {path.suffix}": python(HTTP, path) for path in (tensors, pth)}
    out += rows("inspect 4.5 GB over HTTP", rounds(ways, count), "anyvit.inspect .safetensors")
    ways = {"import anyvit": python("import anyvit"), "import torch": python("import torch")}
    return out + rows("import", rounds(ways, count), "import anyvit")
