"""Listing a checkpoint: start of the process to its end."""

from __future__ import annotations

from pathlib import Path

from benchmarks.files import make
from benchmarks.process import Row, anyvit, python, rounds, rows

INSPECT = "import sys, anyvit\nassert anyvit.inspect(sys.argv[1]).match\nassert 'torch' not in sys.modules"
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
    ways = {"import anyvit": python("import anyvit"), "import torch": python("import torch")}
    return out + rows("import", rounds(ways, count), "import anyvit")
